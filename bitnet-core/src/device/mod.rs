//! Devices: what computes, what it can do, which one is chosen, and what happens when it fails.
//!
//! ```
//! use bitnet_core::device::{auto_select_device, get_cpu_device, DeviceCapabilities};
//!
//! // Automatic device selection
//! let device = auto_select_device();
//! println!("Selected device: {:?}", device);
//!
//! // Check device capabilities
//! let caps = DeviceCapabilities::for_device(&device);
//! println!("Supports Metal: {}", caps.supports_metal);
//! println!("Memory bandwidth: {} GB/s", caps.memory_bandwidth_gbps);
//! # assert_eq!(device, get_cpu_device());
//! ```
//!
//! A device is cloned freely, and tensors know theirs:
//!
//! ```
//! use bitnet_core::memory::tensor::{BitNetTensor, BitNetDType, TensorMetadata};
//! use bitnet_core::device::auto_select_device;
//! # use bitnet_core::memory::HybridMemoryPool;
//!
//! let device = auto_select_device();
//! let pool = HybridMemoryPool::new()?;
//!
//! // Create tensor metadata
//! let metadata = TensorMetadata::new(
//!     vec![128, 256],  // shape
//!     BitNetDType::F32,
//!     device.clone()
//! );
//!
//! // Create tensor
//! let tensor = BitNetTensor::new(metadata, &pool)?;
//! println!("Tensor shape: {:?}", tensor.shape());
//! println!("Tensor device: {:?}", tensor.device());
//! # assert_eq!((tensor.shape(), tensor.device()), (&[128, 256][..], &device));
//! # Ok::<(), bitnet_core::Error>(())
//! ```
//!
//! Without a choice of one's own, [`select_device`] takes the first device that meets [`Requirements`], accelerators
//! first. [`with_fallback`] gives the work of a device that fails to the next one. A [`LimitedCpu`] is a second device
//! on every machine: the processor, with less memory and with faults on demand.

mod bandwidth;
mod capabilities;
mod environment;
mod fallback;
mod limited_cpu;
mod pages;
mod placement;
#[cfg(test)]
mod tests;
mod topology;
mod transfer;

use crate::Result;

pub use bandwidth::{MemoryBandwidth, measure_read_bandwidth, read_bandwidth_rounds};
pub use capabilities::DeviceCapabilities;
pub use environment::Environment;
pub(crate) use fallback::in_a_line;
pub use fallback::{Fallback, with_fallback};
pub use limited_cpu::{FaultPlan, LimitedCpu, Operation};
pub use pages::{HugePages, TransparentHugePages};
pub use placement::{
    DeviceKind, Requirements, available_devices, candidates, select_among, select_device,
};
pub use topology::{Cache, CacheKind, CoreKind, NumaNode};
pub use transfer::copy_tensor;

/// A device that can hold tensors and compute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor and its memory.
    Cpu,
    /// The processor with limits of its own: for tests, and for work that must stay within bounds.
    LimitedCpu(LimitedCpu),
}

impl Device {
    /// What kind of device this is.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            Self::LimitedCpu(_) => DeviceKind::LimitedCpu,
        }
    }

    /// Says that an operation is about to begin. Whoever works on a device calls this first, so that a lost device is
    /// noticed and injected faults happen.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] or [`crate::Error::DeviceFault`]; the whole processor never fails.
    pub fn begin(&self, operation: Operation) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::LimitedCpu(limited) => limited.begin(operation),
        }
    }
}

impl From<LimitedCpu> for Device {
    fn from(limited: LimitedCpu) -> Self {
        Self::LimitedCpu(limited)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::LimitedCpu(limited) => write!(f, "limited-cpu:{}", limited.index()),
        }
    }
}

/// The best device of this machine: the first of [`available_devices`].
pub fn auto_select_device() -> Device {
    available_devices().into_iter().next().unwrap_or(Device::Cpu)
}

/// The processor.
pub fn get_cpu_device() -> Device {
    Device::Cpu
}
