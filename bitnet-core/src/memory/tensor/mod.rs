//! Strided tensors on pool-backed or mapped storage.
//!
//! A [`BitNetTensor`] is metadata over bytes. Views share the bytes and copy nothing; [`crate::tensor`] computes
//! with them.

mod codes;
mod convert;
mod create;
mod data;
mod dtype;
mod handle;
mod metadata;
mod registry;
mod storage;
mod views;
mod walk;

pub use codes::CastRule;
pub use data::BitNetTensor;
pub use dtype::BitNetDType;
pub use handle::{TensorHandle, TensorRead, TensorWrite, WeakTensorHandle};
pub use metadata::TensorMetadata;
pub(crate) use metadata::{Dims, elements_of};
pub use registry::{Compressed, IdleTensor, TensorRegistry};
pub(super) use registry::{CompressionStep, WeakTensorRegistry};
pub use storage::{ExternalBytes, SharedBytes};
pub use views::{Slice, broadcast_shapes};
pub(crate) use walk::{Cursor, Walk};
