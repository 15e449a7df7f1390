//! Back ends by their names.

use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_cpu::CpuOptions;

use crate::{InferenceError, Result};

/// Returns the back end of that name, with a pool of its own.
///
/// # Errors
/// [`InferenceError::UnsupportedOperation`] for a name that is not known; those of the back end.
pub fn backend_by_name(name: &str, options: CpuOptions) -> Result<Arc<dyn Backend>> {
    backend_in_pool(name, options, &HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?)
}

/// Returns the back end of that name, with all that it holds in `pool`.
///
/// # Errors
/// Those of [`backend_by_name`].
pub fn backend_in_pool(
    name: &str,
    options: CpuOptions,
    pool: &HybridMemoryPool,
) -> Result<Arc<dyn Backend>> {
    match name {
        "cpu" => Ok(Arc::new(bitnet_cpu::CpuBackend::in_pool(options, pool)?)),
        "reference" => Ok(Arc::new(bitnet_core::reference::ReferenceBackend)),
        other => {
            let what = format!("the back end {other:?}");
            Err(InferenceError::unsupported(what, "the back ends are cpu and reference"))
        }
    }
}
