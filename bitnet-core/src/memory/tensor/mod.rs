//! Strided tensors on pool-backed or mapped storage.
//!
//! A [`BitNetTensor`] is metadata over bytes. Views share the bytes and copy nothing; [`crate::tensor`] computes
//! with them.

mod codes;
mod compression;
mod convert;
mod create;
mod data;
mod dtype;
mod entry;
mod handle;
mod idle;
mod metadata;
mod registry;
pub mod snapshot;
mod storage;
mod views;
mod walk;

pub use super::cleanup::Compressed;
pub use codes::CastRule;
pub use data::BitNetTensor;
pub use dtype::BitNetDType;
pub use handle::{TensorHandle, TensorRead, TensorWrite, WeakTensorHandle};
pub use idle::IdleTensor;
pub use metadata::TensorMetadata;
pub(crate) use metadata::{Dims, elements_of};
pub use registry::TensorRegistry;
pub use storage::{DeviceBytes, ExternalBytes};
pub use views::{Slice, broadcast_shapes};
pub(crate) use walk::{Cursor, Walk, copy_run};
