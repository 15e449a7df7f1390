//! Strided tensors on pool-backed or mapped storage.

mod data;
mod dtype;
mod metadata;
mod storage;

pub use data::BitNetTensor;
pub use dtype::BitNetDType;
pub use metadata::TensorMetadata;
pub use storage::{ExternalBytes, SharedBytes};
