//! Devices: what computes, and what it can do.

mod bandwidth;
mod capabilities;

pub use bandwidth::{measure_read_bandwidth, read_bandwidth_rounds};
pub use capabilities::DeviceCapabilities;

/// A device that can hold tensors and compute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor and its memory.
    Cpu,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

/// The best device of this machine.
pub fn auto_select_device() -> Device {
    Device::Cpu
}

/// The processor.
pub fn get_cpu_device() -> Device {
    Device::Cpu
}
