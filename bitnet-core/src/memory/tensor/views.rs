//! Other ways to see a tensor's elements: nothing here copies one, but `reshape` where it must.

use std::ops::Range;

use super::BitNetTensor;
use super::metadata::{Dims, elements_of, row_major_strides};
use crate::memory::HybridMemoryPool;
use crate::{Error, Result};

/// What is taken of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    All,
    /// A range.
    Range(Range<usize>),
    /// Every so-manieth of a range: `(range, 2)` takes its first, third, fifth element; with a negative step, from
    /// the range's last element backwards.
    Step(Range<usize>, isize),
    /// One element; the dimension goes.
    Index(usize),
}

/// The shape to which two shapes stretch: aligned at the end, extents are equal or one of them is 1.
///
/// # Errors
/// [`Error::NotBroadcastable`].
pub fn broadcast_shapes(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], dim: usize| {
        (dim + shape.len()).checked_sub(rank).map_or(1, |dim| shape[dim])
    };
    (0..rank)
        .map(|dim| match (extent(a, dim), extent(b, dim)) {
            (1, other) | (other, 1) => Ok(other),
            (x, y) if x == y => Ok(x),
            _ => Err(Error::NotBroadcastable { a: a.to_vec(), b: b.to_vec() }),
        })
        .collect()
}

impl BitNetTensor {
    /// A view with dimensions `a` and `b` exchanged.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a dimension that is not there.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        for index in [a, b] {
            self.expect_dim("transpose", index)?;
        }
        let (mut shape, mut strides) = self.dims();
        shape.swap(a, b);
        strides.swap(a, b);
        self.view_at("transpose", self.offset(), shape, strides)
    }

    /// A view whose dimension `i` is this tensor's `dims[i]`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if `dims` does not name every dimension once.
    pub fn permute(&self, dims: &[usize]) -> Result<Self> {
        let rank = self.shape().len();
        let named = |dim: usize| dims.iter().filter(|&&named| named == dim).count() == 1;
        if dims.len() != rank || !(0..rank).all(named) {
            return Err(Error::BadArgument {
                op: "permute",
                what: "the order of the dimensions",
                value: format!("{dims:?} for shape {:?}", self.shape()),
                expected: "it must name every dimension once",
            });
        }
        let shape = dims.iter().map(|&dim| self.shape()[dim]).collect();
        let strides = dims.iter().map(|&dim| self.metadata().strides()[dim]).collect();
        self.view_at("permute", self.offset(), shape, strides)
    }

    /// A view of `range` along dimension `dim`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the dimension or the range is not there, [`Error::UnalignedView`] where elements
    /// share bytes and the view would begin inside one.
    pub fn narrow(&self, dim: usize, range: Range<usize>) -> Result<Self> {
        self.stepped("narrow", dim, range, 1)
    }

    /// A view of every `step`-th element of `range` along `dim`; with a negative step from the range's last element
    /// backwards.
    ///
    /// # Errors
    /// As [`BitNetTensor::narrow`], and [`Error::BadArgument`] for a step of 0.
    pub fn narrow_step(&self, dim: usize, range: Range<usize>, step: isize) -> Result<Self> {
        self.stepped("narrow_step", dim, range, step)
    }

    fn stepped(
        &self,
        op: &'static str,
        dim: usize,
        range: Range<usize>,
        step: isize,
    ) -> Result<Self> {
        self.expect_dim(op, dim)?;
        expect_range(op, &range, self.shape()[dim])?;
        if step == 0 {
            return Err(Error::BadArgument {
                op,
                what: "the step",
                value: "0".into(),
                expected: "a view moves by at least one element",
            });
        }
        let first = match (range.is_empty(), step > 0) {
            (true, _) => 0,
            (false, true) => range.start,
            (false, false) => range.end - 1,
        };
        let (mut shape, mut strides) = self.dims();
        shape[dim] = range.len().div_ceil(step.unsigned_abs());
        strides[dim] = strides[dim].saturating_mul(step);
        self.view_at(op, self.moved(dim, first), shape, strides)
    }

    /// A view with dimension `dim` backwards.
    ///
    /// # Errors
    /// As [`BitNetTensor::narrow_step`].
    pub fn flip(&self, dim: usize) -> Result<Self> {
        self.expect_dim("flip", dim)?;
        self.narrow_step(dim, 0..self.shape()[dim], -1)
    }

    /// A view of a part of several dimensions: `slices[i]` of dimension `i`, all of those that are not named.
    ///
    /// ```
    /// use bitnet_core::memory::HybridMemoryPool;
    /// use bitnet_core::memory::tensor::{BitNetTensor, Slice};
    ///
    /// let pool = HybridMemoryPool::new()?;
    /// let x = BitNetTensor::arange(0.0, 12.0, 1.0, &pool)?.view(&[3, 4])?;
    /// let odd_backwards = x.slice(&[Slice::Index(1), Slice::Step(0..4, -2)])?; // x[1, 3::-2]
    /// assert_eq!(odd_backwards.to_contiguous(&pool)?.f32()?, [7.0, 5.0]);
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`BitNetTensor::narrow_step`], and [`Error::OutOfRange`] for an index that is not there or for more slices
    /// than dimensions.
    pub fn slice(&self, slices: &[Slice]) -> Result<Self> {
        let mut out = self.clone();
        let mut dim = 0;
        for slice in slices {
            out.expect_dim("slice", dim)?;
            out = match slice {
                Slice::All => out,
                Slice::Range(range) => out.narrow(dim, range.clone())?,
                Slice::Step(range, step) => out.narrow_step(dim, range.clone(), *step)?,
                Slice::Index(index) => {
                    let len = out.shape()[dim];
                    if *index >= len {
                        return Err(Error::OutOfRange { op: "slice", index: *index, len });
                    }
                    out.narrow(dim, *index..index + 1)?.squeeze(dim)?
                }
            };
            if !matches!(slice, Slice::Index(_)) {
                dim += 1;
            }
        }
        Ok(out)
    }

    /// A view without dimension `dim`, whose extent is 1.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the dimension is not there, [`Error::ShapeMismatch`] if its extent is not 1.
    pub fn squeeze(&self, dim: usize) -> Result<Self> {
        self.expect_dim("squeeze", dim)?;
        let (mut shape, mut strides) = self.dims();
        if shape.remove(dim) != 1 {
            let expected = format!("extent 1 in dimension {dim}");
            return Err(self.mismatch("squeeze", "the tensor", expected));
        }
        strides.remove(dim);
        self.view_at("squeeze", self.offset(), shape, strides)
    }

    /// A view with a dimension of extent 1 before dimension `dim`, or after the last one.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such place.
    pub fn unsqueeze(&self, dim: usize) -> Result<Self> {
        let (mut shape, mut strides) = self.dims();
        if dim > shape.len() {
            return Err(Error::OutOfRange { op: "unsqueeze", index: dim, len: shape.len() + 1 });
        }
        shape.insert(dim, 1);
        strides.insert(dim, 1);
        self.view_at("unsqueeze", self.offset(), shape, strides)
    }

    /// A view of a larger shape that repeats elements: a dimension of extent 1, or one that this tensor lacks in
    /// front, is stepped through without moving (stride 0).
    ///
    /// # Errors
    /// [`Error::NotBroadcastable`], [`Error::SizeOverflow`].
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        let refused = || Error::NotBroadcastable { a: self.shape().to_vec(), b: shape.to_vec() };
        let added = shape.len().checked_sub(self.shape().len()).ok_or_else(refused)?;
        elements_of(shape)?;
        let mut strides = Dims::from_elem(0isize, shape.len());
        for (dim, &extent) in self.shape().iter().enumerate() {
            if extent == shape[added + dim] {
                strides[added + dim] = self.metadata().strides()[dim];
            } else if extent != 1 {
                return Err(refused());
            }
        }
        self.view_at("broadcast_to", self.offset(), Dims::from_slice(shape), strides)
    }

    /// The same elements in row-major order under another shape, without a copy.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the number of elements differs, [`Error::NotContiguous`] if no strides give that
    /// order.
    pub fn view(&self, shape: &[usize]) -> Result<Self> {
        self.expect_elements(shape)?;
        let strides = restride(self.shape(), self.metadata().strides(), shape)
            .ok_or_else(|| Error::NotContiguous { op: "view", shape: self.shape().to_vec() })?;
        self.view_at("view", self.offset(), Dims::from_slice(shape), strides)
    }

    /// The same elements in row-major order under another shape: a view where there is one, else a copy in the pool.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the number of elements differs; as [`BitNetTensor::to_contiguous`].
    #[track_caller]
    pub fn reshape(&self, shape: &[usize], pool: &HybridMemoryPool) -> Result<Self> {
        match self.view(shape) {
            Err(Error::NotContiguous { .. }) => self.to_contiguous(pool)?.view(shape),
            other => other,
        }
    }

    fn dims(&self) -> (Dims<usize>, Dims<isize>) {
        (Dims::from_slice(self.shape()), Dims::from_slice(self.metadata().strides()))
    }

    /// The offset of element `index` along `dim`, which is there.
    fn moved(&self, dim: usize, index: usize) -> usize {
        let steps = self.metadata().strides()[dim].wrapping_mul(index as isize);
        self.offset().wrapping_add_signed(steps)
    }

    fn expect_elements(&self, shape: &[usize]) -> Result<()> {
        if elements_of(shape)? == self.metadata().elements()? {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            op: "reshape",
            operand: "the new shape",
            got: shape.to_vec(),
            expected: format!("as many elements as {:?}", self.shape()),
        })
    }
}

fn expect_range(op: &'static str, range: &Range<usize>, extent: usize) -> Result<()> {
    if range.start > range.end || range.end > extent {
        let index = range.end.max(range.start);
        return Err(Error::OutOfRange { op, index, len: extent + 1 });
    }
    Ok(())
}

/// The strides under which `new`, of as many elements as `old`, visits them in `old`'s order; `None` if there are none.
fn restride(old: &[usize], strides: &[isize], new: &[usize]) -> Option<Dims<isize>> {
    if old.contains(&0) {
        return Some(row_major_strides(new));
    }
    // What lies evenly in the old shape, innermost first: elements and the step between them.
    let mut even: Dims<(usize, isize)> = Dims::new();
    for (&extent, &stride) in old.iter().zip(strides).rev().filter(|(extent, _)| **extent != 1) {
        match even.last_mut() {
            Some((count, step)) if step.checked_mul(*count as isize) == Some(stride) => {
                *count *= extent;
            }
            _ => even.push((extent, stride)),
        }
    }
    let mut even = even.into_iter();
    let (mut left, mut step) = even.next().unwrap_or((1, 1));
    let mut out = Dims::from_elem(1isize, new.len());
    for (out, &extent) in out.iter_mut().zip(new).rev().filter(|(_, extent)| **extent != 1) {
        if left == 1 {
            (left, step) = even.next()?;
        }
        if !left.is_multiple_of(extent) {
            return None;
        }
        *out = step;
        left /= extent;
        step = step.checked_mul(extent as isize)?;
    }
    Some(out)
}
