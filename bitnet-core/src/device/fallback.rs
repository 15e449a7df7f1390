//! Fallback: work that fails on a device is repeated on the next one.

use super::Device;
use crate::{Error, Result};

/// The outcome of [`with_fallback`].
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback<T> {
    /// The result.
    pub value: T,
    /// The device that returned it.
    pub device: Device,
    /// The devices that failed before, each with its error, in the order in which they were tried.
    pub failures: Vec<(Device, Error)>,
}

/// Calls `work` for the first of `devices`; if that device fails, for the next one, and so on.
///
/// A device fails if the error is an [`Error::is_device_failure`]; any other error is returned at once. Each call
/// starts from the beginning: a failed one must leave no partial effects.
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
    /// Whether another device may succeed: the device is lost, faulty, absent, or out of memory.
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

/// Devices and their errors, as [`Error::AllDevicesFailed`] prints them.
pub(crate) fn in_a_line(failures: &[(String, Error)]) -> String {
    let each: Vec<_> =
        failures.iter().map(|(device, error)| format!("{device}: {error}")).collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{FaultPlan, LimitedCpu, Operation, copy_tensor};
    use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
    use crate::memory::{DeviceSpecificPools, HybridMemoryPool};

    /// RMS norm of `[tokens, hidden]`, with input and output in the memory of `device`.
    fn work(
        x: &BitNetTensor,
        device: &Device,
        pools: &DeviceSpecificPools,
    ) -> Result<BitNetTensor> {
        let there = copy_tensor(x, device, pools)?;
        device.begin(Operation::Task)?;
        let metadata = TensorMetadata::new(x.shape().to_vec(), BitNetDType::F32, device.clone());
        let mut y = pools.tensor(metadata)?;
        let ones = vec![1.0f32; x.shape()[1]];
        crate::reference::rms_norm(there.f32()?, &ones, 1e-5, y.f32_mut()?);
        copy_tensor(&y, &Device::Cpu, pools)
    }

    #[test]
    fn fallback_returns_the_same_result() {
        let pools = DeviceSpecificPools::new();
        let host = HybridMemoryPool::new().unwrap();
        let values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = BitNetTensor::from_f32(&[8, 64], &values, &host).unwrap();
        let expected = work(&x, &Device::Cpu, &pools).unwrap();
        let limited = LimitedCpu::new(1 << 20, 1);
        let devices = [Device::from(limited.clone()), Device::Cpu];
        let run = |plan: FaultPlan| {
            limited.inject(plan);
            let done = with_fallback(&devices, |device| work(&x, device, &pools)).unwrap();
            assert_eq!(done.value.bytes().unwrap(), expected.bytes().unwrap());
            done
        };
        let good = run(FaultPlan::none());
        assert_eq!((good.device, good.failures.len()), (devices[0].clone(), 0));
        let operations = 2 + 2 + 1;
        for nth in 1..=operations {
            let lost = run(FaultPlan::none().lose_at(nth));
            assert_eq!(lost.device, Device::Cpu, "lost at operation {nth}");
            assert_eq!(lost.failures[0].0, devices[0]);
            assert!(matches!(lost.failures[0].1, Error::DeviceLost { .. }));
        }
        assert!(
            run(FaultPlan::none().lose_at(operations + 1)).failures.is_empty(),
            "all were tried"
        );
        for (operation, count) in
            [(Operation::Allocation, 2), (Operation::Transfer, 2), (Operation::Task, 1)]
        {
            for nth in 1..=count {
                let done = run(FaultPlan::none().fail(operation, nth));
                let [(device, Error::DeviceFault { operation: failed, number, .. })] =
                    &done.failures[..]
                else {
                    panic!("{:?}", done.failures)
                };
                assert_eq!((device, *failed, *number), (&devices[0], operation, nth));
                assert_eq!(done.device, Device::Cpu);
            }
        }
        assert_eq!(
            pools.metrics(&devices[0]).total_allocated,
            0,
            "all memory of the device is freed"
        );
    }

    #[test]
    fn only_device_failures_fall_back() {
        let lost = LimitedCpu::new(1 << 20, 1);
        lost.lose();
        let small = Device::from(LimitedCpu::new(16, 1));
        let devices = [Device::from(lost), small.clone(), Device::Cpu];
        let pools = DeviceSpecificPools::new();
        let mut tried = 0;
        let done = with_fallback(&devices, |device| {
            tried += 1;
            pools.allocate(1000, 64, device)
        });
        let done = done.unwrap();
        assert_eq!((tried, done.device), (3, Device::Cpu));
        assert!(matches!(done.failures[1], (_, Error::OutOfMemory { bytes: 1000, limit: 16, .. })));

        let mut tried = 0;
        let wrong = with_fallback(&devices, |_| -> Result<()> {
            tried += 1;
            Err(Error::BadAlignment { align: 3 })
        });
        assert_eq!((tried, wrong), (1, Err(Error::BadAlignment { align: 3 })));

        let none_left = with_fallback(&devices[..2], |device| pools.allocate(1000, 64, device));
        let error = none_left.unwrap_err();
        assert!(
            matches!(&error, Error::AllDevicesFailed { failures } if failures.len() == 2),
            "{error}"
        );
        assert!(error.to_string().contains(&small.to_string()), "{error}");
        assert!(matches!(with_fallback(&[], |_| Ok(())), Err(Error::NoDevice { .. })));
    }
}
