//! Devices: capabilities, selection, transfer and fallback.
//!
//! ```
//! use bitnet_core::device::{DeviceCapabilities, auto_select_device};
//! use bitnet_core::memory::HybridMemoryPool;
//! use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
//!
//! let device = auto_select_device();
//! let caps = DeviceCapabilities::for_device(&device);
//! println!("{device}: {} threads, {:.1} GB/s", caps.logical_cores, caps.memory_bandwidth_gbps);
//!
//! // Devices are cheap to clone, and each tensor has one.
//! let metadata = TensorMetadata::new(vec![128, 256], BitNetDType::F32, device.clone());
//! let tensor = BitNetTensor::new(metadata, &HybridMemoryPool::new()?)?;
//! assert_eq!((tensor.shape(), tensor.device()), (&[128, 256][..], &device));
//! # Ok::<(), bitnet_core::Error>(())
//! ```
//!
//! [`select_device`] returns the first device that meets [`Requirements`], accelerators first. [`with_fallback`]
//! repeats the work of a failed device on the next one. A [`LimitedCpu`] is a second device on every machine: the
//! processor, with less memory and with injected faults.

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

pub use bandwidth::MemoryBandwidth;
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
    /// The processor with limits: for tests, and for work within bounds.
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

    /// Begins an operation. Called before any work on a device, it reports a lost device and injects faults.
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
