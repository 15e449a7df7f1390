//! The metadata of a tensor: shape, strides, element type and device.

use smallvec::SmallVec;

use super::BitNetDType;
use crate::device::Device;
use crate::{Error, Result};

/// One number for each dimension: up to eight inline, more on the heap.
pub(crate) type Dims<T> = SmallVec<[T; 8]>;

/// Shape, strides (in elements), element type and device of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    shape: Dims<usize>,
    strides: Dims<isize>,
    dtype: BitNetDType,
    device: Device,
}

impl TensorMetadata {
    /// A contiguous, row-major tensor of this shape.
    pub fn new(shape: Vec<usize>, dtype: BitNetDType, device: Device) -> Self {
        Self::row_major(&shape, dtype, device)
    }

    /// As [`TensorMetadata::new`], from a borrowed shape.
    pub fn row_major(shape: &[usize], dtype: BitNetDType, device: Device) -> Self {
        Self { strides: row_major_strides(shape), shape: Dims::from_slice(shape), dtype, device }
    }

    /// The extent of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements to skip for one step in each dimension: negative where a view runs backwards, 0 where it repeats one
    /// element.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// The element type.
    pub fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    /// The device of the tensor.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of elements.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if it does not fit.
    pub fn elements(&self) -> Result<usize> {
        elements_of(&self.shape)
    }

    /// Whether the elements are row-major without gaps, as for a tensor without elements.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        for (&extent, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if extent > 1 && stride != expected {
                return self.shape.contains(&0);
            }
            expected = expected.saturating_mul(signed(extent));
        }
        true
    }

    /// The same element type and device with another shape and other strides.
    pub(super) fn viewed(&self, shape: Dims<usize>, strides: Dims<isize>) -> Self {
        Self { shape, strides, dtype: self.dtype, device: self.device.clone() }
    }
}

/// The product of the extents.
///
/// # Errors
/// [`Error::SizeOverflow`] if it does not fit.
pub(crate) fn elements_of(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or(Error::SizeOverflow { what: "tensor" })
}

/// The strides of a row-major tensor without gaps.
pub(crate) fn row_major_strides(shape: &[usize]) -> Dims<isize> {
    let mut strides = Dims::from_elem(1isize, shape.len());
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(signed(shape[i]));
    }
    strides
}

/// An extent as a factor of strides; one that is too large for it belongs to a tensor that can't be allocated.
fn signed(extent: usize) -> isize {
    isize::try_from(extent).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_major_strides_and_contiguity() {
        let m = TensorMetadata::new(vec![2, 3, 4], BitNetDType::F32, Device::Cpu);
        assert_eq!(m.strides(), [12, 4, 1]);
        assert!(m.is_contiguous());
        let viewed = |shape: [usize; 3], strides: [isize; 3]| {
            m.viewed(Dims::from_slice(&shape), Dims::from_slice(&strides)).is_contiguous()
        };
        assert!(!viewed([4, 3, 2], [1, 4, 12]));
        assert!(viewed([1, 3, 4], [12, 4, 1]));
        assert!(!viewed([2, 2, 4], [12, 4, 1]));
        assert!(viewed([0, 2, 4], [12, 4, 1]), "no elements");
        assert!(
            TensorMetadata::new(vec![usize::MAX, 2], BitNetDType::I8, Device::Cpu)
                .elements()
                .is_err()
        );
    }

    #[test]
    fn more_than_eight_dimensions_are_supported() {
        let shape = vec![2; 11];
        let m = TensorMetadata::new(shape.clone(), BitNetDType::F32, Device::Cpu);
        assert_eq!(m.shape(), shape);
        assert_eq!(m.strides()[0], 1 << 10);
        assert_eq!(m.elements(), Ok(1 << 11));
    }
}
