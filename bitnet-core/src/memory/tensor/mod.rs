//! Strided tensors on pool-backed or mapped storage.

mod data;
mod dtype;
mod handle;
mod metadata;
mod registry;
mod storage;

pub use data::BitNetTensor;
pub use dtype::BitNetDType;
pub use handle::{TensorHandle, TensorRead, TensorWrite, WeakTensorHandle};
pub use metadata::TensorMetadata;
pub use registry::{Compressed, IdleTensor, TensorRegistry};
pub use storage::{ExternalBytes, SharedBytes};
