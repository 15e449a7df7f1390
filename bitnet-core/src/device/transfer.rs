//! Copies of tensors from one device to another.

use std::time::Instant;

use super::{Device, Operation};
use crate::Result;
use crate::memory::DeviceSpecificPools;
use crate::memory::tensor::{BitNetTensor, TensorMetadata};

/// A contiguous copy of `tensor` on the device `to`, in that device's pool. Bytes and time are added to
/// [`DeviceSpecificPools::transfers`].
///
/// A strided view is gathered in the pool of its own device first.
///
/// # Errors
/// [`crate::Error::DeviceLost`] or [`crate::Error::DeviceFault`] of either device, [`crate::Error::OutOfMemory`] of the
/// pools, or as [`BitNetTensor::to_contiguous`].
pub fn copy_tensor(
    tensor: &BitNetTensor,
    to: &Device,
    pools: &DeviceSpecificPools,
) -> Result<BitNetTensor> {
    let from = tensor.device();
    from.begin(Operation::Transfer)?;
    if from != to {
        to.begin(Operation::Transfer)?;
    }
    let metadata = TensorMetadata::new(tensor.shape().to_vec(), tensor.dtype(), to.clone());
    let mut copy = pools.tensor(metadata)?;
    let start = Instant::now();
    if tensor.metadata().is_contiguous() {
        copy.bytes_mut()?.copy_from_slice(tensor.bytes()?);
    } else {
        let gathered = tensor.to_contiguous(&pools.pool(from)?)?;
        copy.bytes_mut()?.copy_from_slice(gathered.bytes()?);
    }
    pools.record_transfer(from, to, copy.bytes()?.len() as u64, start.elapsed());
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::LimitedCpu;
    use crate::memory::HybridMemoryPool;
    use crate::memory::tensor::BitNetDType;

    #[test]
    fn tensors_of_every_type_are_copied_between_devices() {
        let pools = DeviceSpecificPools::new();
        let (a, b) =
            (Device::from(LimitedCpu::new(1 << 20, 1)), Device::from(LimitedCpu::new(1 << 20, 1)));
        let dtypes = [
            BitNetDType::F32,
            BitNetDType::BF16,
            BitNetDType::I8,
            BitNetDType::I2,
            BitNetDType::BitNet158,
        ];
        let mut bytes = 0;
        for (index, dtype) in dtypes.into_iter().enumerate() {
            let metadata = TensorMetadata::new(vec![3, 35], dtype, Device::Cpu);
            let mut x = pools.tensor(metadata).unwrap();
            x.bytes_mut().unwrap().iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(x, i)| *x = i);
            let at_a = copy_tensor(&x, &a, &pools).unwrap();
            let at_b = copy_tensor(&at_a, &b, &pools).unwrap();
            let back = copy_tensor(&at_b, &Device::Cpu, &pools).unwrap();
            assert_eq!((at_a.device(), at_b.device(), back.device()), (&a, &b, &Device::Cpu));
            assert_eq!(
                (back.bytes(), back.dtype(), back.shape()),
                (x.bytes(), dtype, &[3, 35][..])
            );
            bytes += x.bytes().unwrap().len() as u64;
            let transfers = pools.transfers();
            let pairs: Vec<_> =
                transfers.iter().map(|t| (&t.from, &t.to, t.count, t.bytes)).collect();
            let count = index as u64 + 1;
            let expected = [
                (&Device::Cpu, &a, count, bytes),
                (&a, &b, count, bytes),
                (&b, &Device::Cpu, count, bytes),
            ];
            assert_eq!(pairs, expected);
        }
        let host = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::from_f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &host).unwrap();
        let turned = copy_tensor(&x.transpose(0, 1).unwrap(), &a, &pools).unwrap();
        assert_eq!(turned.f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!((turned.shape(), turned.device()), (&[3, 2][..], &a));
    }
}
