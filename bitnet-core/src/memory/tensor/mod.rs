//! Strided tensors on pool-backed or mapped storage.

mod data;
mod dtype;
mod metadata;

pub use data::{BitNetTensor, SharedBytes};
pub use dtype::BitNetDType;
pub use metadata::TensorMetadata;
