//! The selection of devices: accelerators first, and only where the work fits.

use std::fmt;

use super::{Device, DeviceCapabilities};
use crate::memory::tensor::TensorMetadata;
use crate::simd::IsaLevel;
use crate::{Error, Result};

/// The kinds of devices, in the order in which they are preferred.
///
/// Accelerators come first. A limited processor comes before the whole one, because it was created explicitly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A graphics processor that is programmed with CUDA.
    Cuda,
    /// A graphics processor that is programmed with Metal.
    Metal,
    /// The processor with limits.
    LimitedCpu,
    /// The processor.
    Cpu,
}

impl DeviceKind {
    /// Every kind, the preferred ones first.
    pub const ALL: [Self; 4] = [Self::Cuda, Self::Metal, Self::LimitedCpu, Self::Cpu];

    /// Whether devices of this kind are not the processor.
    pub fn is_accelerator(self) -> bool {
        matches!(self, Self::Cuda | Self::Metal)
    }

    /// The devices of this kind that this machine has and this crate can hold tensors on.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] with the reason, if there are none.
    pub fn devices(self) -> Result<Vec<Device>> {
        let reason = match self {
            Self::Cpu => return Ok(vec![Device::Cpu]),
            Self::LimitedCpu => "a limited processor has to be created: `LimitedCpu::new`",
            Self::Cuda => "tensors of this crate can't be in CUDA memory",
            Self::Metal => "tensors of this crate can't be in Metal memory",
        };
        Err(Error::DeviceUnavailable { kind: self, reason })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::LimitedCpu => "limited-cpu",
            Self::Cpu => "cpu",
        })
    }
}

/// The devices of this machine, the preferred ones first. The processor is always among them.
pub fn available_devices() -> Vec<Device> {
    DeviceKind::ALL.into_iter().filter_map(|kind| kind.devices().ok()).flatten().collect()
}

/// The requirements of work on a device; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// Bytes of memory that must be available.
    pub memory_bytes: u64,
    /// Threads that must be able to run at once.
    pub threads: usize,
    /// An instruction set level that the processor must report.
    pub isa: Option<IsaLevel>,
    /// Whether the device must be an accelerator.
    pub accelerator: bool,
}

impl Requirements {
    /// Memory for one tensor.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if its size does not fit.
    pub fn for_tensor(metadata: &TensorMetadata) -> Result<Self> {
        let memory_bytes = metadata.dtype().bytes_for(metadata.elements()?)? as u64;
        Ok(Self { memory_bytes, ..Self::default() })
    }

    /// Returns why `device`, with these capabilities, fails the
    /// requirements; `None` if it meets them. Unknown values do.
    fn refused_by(&self, device: &Device, caps: &DeviceCapabilities) -> Option<String> {
        if self.accelerator && !device.kind().is_accelerator() {
            return Some("is no accelerator".into());
        }
        if let Device::LimitedCpu(limited) = device
            && limited.is_lost()
        {
            return Some("is lost".into());
        }
        if let Some(bytes) = caps.available_memory.filter(|&bytes| bytes < self.memory_bytes) {
            return Some(format!("has {bytes} bytes of memory"));
        }
        if caps.logical_cores < self.threads {
            return Some(format!("runs {} threads", caps.logical_cores));
        }
        let missing = self.isa.filter(|level| !caps.isa_levels.contains(level))?;
        Some(format!("lacks {missing}"))
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.accelerator { "an accelerator" } else { "a device" };
        write!(
            f,
            "{kind} with {} bytes of memory and {} threads",
            self.memory_bytes, self.threads
        )?;
        self.isa.map_or(Ok(()), |level| write!(f, " and {level}"))
    }
}

/// The first device of this machine that meets the requirements.
///
/// # Errors
/// [`Error::NoDevice`] with what each device lacks.
pub fn select_device(requirements: &Requirements) -> Result<Device> {
    select_among(&available_devices(), requirements)
}

/// The first of `devices` that meets the requirements: the first of [`candidates`].
///
/// # Errors
/// [`Error::NoDevice`] with what each device lacks.
pub fn select_among(devices: &[Device], requirements: &Requirements) -> Result<Device> {
    candidates(devices, requirements).map(|mut devices| devices.swap_remove(0))
}

/// Those of `devices` that meet the requirements, at least one:
/// by [`DeviceKind`], in the order of `devices` within a kind.
///
/// # Errors
/// [`Error::NoDevice`] with what each device lacks.
pub fn candidates(devices: &[Device], requirements: &Requirements) -> Result<Vec<Device>> {
    let mut refused = Vec::new();
    let mut meet = Vec::new();
    for device in devices {
        let caps = DeviceCapabilities::without_bandwidth(device);
        match requirements.refused_by(device, &caps) {
            None => meet.push(device.clone()),
            Some(reason) => refused.push(format!("{device} {reason}")),
        }
    }
    if meet.is_empty() {
        let refused =
            if devices.is_empty() { "there are no devices".into() } else { refused.join(", ") };
        return Err(Error::NoDevice { needed: requirements.to_string(), refused });
    }
    meet.sort_by_key(Device::kind);
    Ok(meet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{LimitedCpu, auto_select_device};
    use crate::memory::tensor::BitNetDType;

    #[test]
    fn device_selection_prefers_accelerators_then_limited_then_whole_processors() {
        assert!(DeviceKind::ALL.is_sorted());
        let accelerators = DeviceKind::ALL.iter().filter(|kind| kind.is_accelerator()).count();
        assert!(DeviceKind::ALL[..accelerators].iter().all(|kind| kind.is_accelerator()));
        let limited = Device::from(LimitedCpu::new(1 << 20, 1));
        let second = Device::from(LimitedCpu::new(2 << 20, 1));
        let devices = [Device::Cpu, limited.clone(), second.clone()];
        let needs = |memory_bytes| Requirements { memory_bytes, ..Requirements::default() };
        assert_eq!(select_among(&devices, &Requirements::default()), Ok(limited));
        assert_eq!(select_among(&devices, &needs((1 << 20) + 1)), Ok(second));
        assert_eq!(select_among(&devices, &needs(3 << 20)), Ok(Device::Cpu));
        assert_eq!(auto_select_device(), select_device(&Requirements::default()).unwrap());
    }

    #[test]
    fn device_selection_names_what_is_missing() {
        let limited = LimitedCpu::new(1 << 20, 1);
        let devices = [Device::from(limited.clone())];
        let refused = |requirements: &Requirements| {
            let error = select_among(&devices, requirements).unwrap_err();
            assert!(matches!(error, Error::NoDevice { .. }), "{error}");
            error.to_string()
        };
        let none = Requirements::default();
        assert!(refused(&Requirements { threads: 2, ..none.clone() }).contains("1 threads"));
        assert!(
            refused(&Requirements { memory_bytes: 2 << 20, ..none.clone() }).contains("1048576")
        );
        assert!(refused(&Requirements { accelerator: true, ..none.clone() }).contains("no accel"));
        let absent = IsaLevel::ALL.into_iter().find(|level| !level.is_detected()).unwrap();
        assert!(refused(&Requirements { isa: Some(absent), ..none.clone() }).contains("lacks"));
        limited.lose();
        assert!(refused(&none).contains("lost"));
        let huge = TensorMetadata::new(vec![usize::MAX, 2], BitNetDType::F32, Device::Cpu);
        assert!(matches!(Requirements::for_tensor(&huge), Err(Error::SizeOverflow { .. })));
        let nothing = select_among(&[], &none).unwrap_err().to_string();
        assert!(nothing.contains("no devices"), "{nothing}");
    }

    #[test]
    fn device_kinds_that_are_absent_give_the_reason() {
        for kind in [DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::LimitedCpu] {
            let error = kind.devices().unwrap_err();
            assert!(matches!(error, Error::DeviceUnavailable { .. }), "{error}");
            assert!(error.to_string().contains(&kind.to_string()), "{error}");
        }
        assert_eq!(available_devices(), [Device::Cpu]);
    }
}
