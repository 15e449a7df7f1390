//! The back ends that a model is run on.

use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions};

/// The reference and the CPU back end at every level of this machine.
pub(crate) fn backends() -> Vec<Arc<dyn Backend>> {
    let mut all: Vec<Arc<dyn Backend>> = vec![Arc::new(ReferenceBackend)];
    for isa in IsaLevel::available() {
        let options = CpuOptions { threads: Some(2), isa: Some(isa) };
        all.push(Arc::new(CpuBackend::new(options).unwrap()));
    }
    all
}
