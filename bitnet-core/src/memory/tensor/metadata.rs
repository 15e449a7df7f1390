//! What a tensor is: shape, strides, element type and device.

use super::BitNetDType;
use crate::device::Device;
use crate::{Error, Result};

/// Shape, strides (in elements), element type and device of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    shape: Vec<usize>,
    strides: Vec<usize>,
    dtype: BitNetDType,
    device: Device,
}

impl TensorMetadata {
    /// A contiguous, row-major tensor of this shape.
    pub fn new(shape: Vec<usize>, dtype: BitNetDType, device: Device) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Self { shape, strides, dtype, device }
    }

    /// The extent of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements to skip for one step in each dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The element type.
    pub fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of elements.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if it does not fit.
    pub fn elements(&self) -> Result<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .ok_or(Error::SizeOverflow { what: "tensor" })
    }

    /// Whether the elements lie row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        for (&extent, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if extent > 1 && stride != expected {
                return false;
            }
            expected = expected.saturating_mul(extent);
        }
        true
    }

    pub(super) fn transposed(&self, a: usize, b: usize) -> Self {
        let mut out = self.clone();
        out.shape.swap(a, b);
        out.strides.swap(a, b);
        out
    }

    pub(super) fn narrowed(&self, dim: usize, len: usize) -> Self {
        let mut out = self.clone();
        out.shape[dim] = len;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_major_strides_and_contiguity() {
        let m = TensorMetadata::new(vec![2, 3, 4], BitNetDType::F32, Device::Cpu);
        assert_eq!(m.strides(), [12, 4, 1]);
        assert!(m.is_contiguous());
        assert!(!m.transposed(0, 2).is_contiguous());
        assert!(m.narrowed(0, 1).is_contiguous());
        assert!(!m.narrowed(1, 2).is_contiguous());
        assert!(
            TensorMetadata::new(vec![usize::MAX, 2], BitNetDType::I8, Device::Cpu)
                .elements()
                .is_err()
        );
    }
}
