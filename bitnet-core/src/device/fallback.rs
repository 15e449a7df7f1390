//! When a device fails, its work goes to the next one.

use super::Device;
use crate::{Error, Result};

/// What came of work that several devices were ready to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback<T> {
    /// The result.
    pub value: T,
    /// The device that gave it.
    pub device: Device,
    /// The devices that failed before, each with its error, in the order in which they were tried.
    pub failures: Vec<(Device, Error)>,
}

/// Does `work` on the first of `devices`; if that device fails, on the next one, and so on.
///
/// A device fails if the error says so ([`Error::is_device_failure`]): it is lost, has a fault, is not there, or has no
/// memory left. Any other error would be the same on the next device, and is returned at once. The work starts anew on
/// each device: it must not leave half of itself behind.
///
/// # Errors
/// [`Error::AllDevicesFailed`] if no device is left, [`Error::NoDevice`] if there was none; else what `work` returns.
pub fn with_fallback<T>(
    devices: &[Device],
    mut work: impl FnMut(&Device) -> Result<T>,
) -> Result<Fallback<T>> {
    let mut failures = Vec::new();
    for device in devices {
        match work(device) {
            Ok(value) => return Ok(Fallback { value, device: device.clone(), failures }),
            Err(error) if error.is_device_failure() => failures.push((device.clone(), error)),
            Err(error) => return Err(error),
        }
    }
    if failures.is_empty() {
        let (needed, refused) = ("a device to work on".into(), "there are no devices".into());
        return Err(Error::NoDevice { needed, refused });
    }
    let failures = failures.into_iter().map(|(device, error)| (device.to_string(), error));
    Err(Error::AllDevicesFailed { failures: failures.collect() })
}

impl Error {
    /// Whether a device failed at work that another device may be able to do: it is lost, has a fault, is not there, or
    /// has no memory left.
    pub fn is_device_failure(&self) -> bool {
        match self {
            Self::DeviceLost { .. }
            | Self::DeviceFault { .. }
            | Self::DeviceUnavailable { .. }
            | Self::NoDevice { .. }
            | Self::AllDevicesFailed { .. }
            | Self::OutOfMemory { .. } => true,
            Self::TaskSkipped { cause } => cause.is_device_failure(),
            _ => false,
        }
    }
}

/// Devices and their errors, as [`Error::AllDevicesFailed`] tells them.
pub(crate) fn in_a_line(failures: &[(String, Error)]) -> String {
    let each: Vec<_> =
        failures.iter().map(|(device, error)| format!("{device}: {error}")).collect();
    each.join("; ")
}
