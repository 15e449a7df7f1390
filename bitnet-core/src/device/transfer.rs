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
