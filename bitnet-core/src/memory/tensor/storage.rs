//! Where the bytes of a tensor are: in a block of a pool, in memory that someone else keeps alive, or on a device.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::memory::MemoryHandle;
use crate::{Error, Result};

/// Memory outside every pool that a tensor can stand on: a mapped file, or memory shared with another process.
pub trait ExternalBytes: Send + Sync {
    /// The bytes. Their number and their address never change.
    fn bytes(&self) -> &[u8];

    /// The bytes, for writing; `None` if they may only be read.
    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// Whether the bytes still are what they were when the memory was obtained.
    ///
    /// # Errors
    /// Says what happened to them, as [`crate::Error::FileTruncated`] does.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the bytes can be read now. Tensors ask before each read, so it must be cheap; contents that changed are
    /// for [`ExternalBytes::check`], which is called unless this is implemented.
    ///
    /// # Errors
    /// As [`ExternalBytes::check`].
    fn check_readable(&self) -> Result<()> {
        self.check()
    }
}

/// Bytes in the memory of a device, which the host cannot read. The back end of the device finds its own type with a
/// downcast of `&dyn Any`.
pub trait DeviceBytes: Any + Debug + Send + Sync {
    /// The number of bytes.
    fn size(&self) -> usize;
}

#[derive(Clone)]
pub(super) enum Storage {
    Pool(Arc<MemoryHandle>),
    Device(Arc<dyn DeviceBytes>),
    External(Arc<dyn ExternalBytes>),
    /// Nowhere: the bytes are packed, and no guard of the tensor is out.
    Absent,
}

impl Storage {
    /// All bytes, of which a view uses a part.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Pool(handle) => handle.bytes(),
            Self::External(external) => external.bytes(),
            Self::Device(_) | Self::Absent => &[],
        }
    }

    /// The number of all bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Device(device) => device.size(),
            _ => self.bytes().len(),
        }
    }

    /// All bytes, for writing; `None` if another tensor shares them or they are read-only.
    pub(super) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Pool(handle) => Arc::get_mut(handle).map(MemoryHandle::bytes_mut),
            Self::Device(_) | Self::Absent => None,
            Self::External(external) => Arc::get_mut(external)?.bytes_mut(),
        }
    }

    /// All bytes, of which a view uses a part, if they can be read.
    pub(super) fn readable(&self) -> Result<&[u8]> {
        match self {
            Self::External(external) => external.check_readable()?,
            Self::Device(_) => return Err(Error::NotOnHost { op: "bytes" }),
            Self::Pool(_) | Self::Absent => {}
        }
        Ok(self.bytes())
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Pool(_) | Self::Device(_) | Self::Absent => Ok(()),
            Self::External(external) => external.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};

    struct Scratch {
        bytes: Vec<u8>,
        lost: bool,
    }

    impl ExternalBytes for Scratch {
        fn bytes(&self) -> &[u8] {
            &self.bytes
        }

        fn bytes_mut(&mut self) -> Option<&mut [u8]> {
            Some(&mut self.bytes)
        }

        fn check(&self) -> Result<()> {
            let error = Error::FileTruncated { file: "f".into(), mapped: 4, now: 0 };
            if self.lost { Err(error) } else { Ok(()) }
        }
    }

    #[test]
    fn external_memory_is_writable_until_shared() {
        let of = |lost| Arc::new(Scratch { bytes: vec![0; 4], lost });
        let metadata = TensorMetadata::new(vec![4], BitNetDType::I8, Device::Cpu);
        let mut t = BitNetTensor::from_external(metadata.clone(), of(false)).unwrap();
        t.bytes_mut().unwrap()[3] = 7;
        let view = t.clone();
        assert_eq!(view.bytes().unwrap(), [0, 0, 0, 7]);
        assert!(matches!(t.bytes_mut(), Err(Error::NotWritable { .. })), "a view is alive");
        t.check().unwrap();
        let lost = BitNetTensor::from_external(metadata, of(true)).unwrap();
        assert!(matches!(lost.check(), Err(Error::FileTruncated { .. })));
        let long = TensorMetadata::new(vec![5], BitNetDType::I8, Device::Cpu);
        let refused = BitNetTensor::from_external(long, of(false));
        assert!(matches!(refused, Err(Error::BadStorage { .. })));
    }
}
