//! The rotation of rows by signs and Walsh-Hadamard transforms. Bit for bit what the reference computes: the butterflies
//! of a component come in the same order, whatever the order of the others.

use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, Op};
use bitnet_core::Result;
use bitnet_core::backend::{Direction, Rotation, shape_check};
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::hadamard`].
pub(crate) fn hadamard(
    x: &BitNetTensor,
    rotation: &Rotation,
    direction: Direction,
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::hadamard(x, rotation, out)?;
    let (x, block) = (x.f32()?, rotation.block());
    let work = block * (block.ilog2() as usize + 1) / 4;
    exec.for_each_rows(out.f32_mut()?, block, work, &|range, out| {
        let first = range.start;
        let x = &x[first * block..range.end * block];
        exec.isa.run_shared(Hadamard { x, rotation, direction, first, out });
        Ok(())
    })
}

/// Some blocks.
struct Hadamard<'a> {
    x: &'a [f32],
    rotation: &'a Rotation,
    direction: Direction,
    /// The index of the first block among those of all rows.
    first: usize,
    out: &'a mut [f32],
}

impl Op for Hadamard<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { x, rotation, direction, first, out } = self;
        let (block, factor) = (rotation.block(), rotation.factor());
        let blocks_of_row = rotation.signs().len() / block;
        for (index, (x, out)) in x.chunks_exact(block).zip(out.chunks_exact_mut(block)).enumerate()
        {
            let start = (first + index) % blocks_of_row * block;
            let signs = &rotation.signs()[start..start + block];
            match direction {
                Direction::Forward => {
                    for ((out, x), sign) in out.iter_mut().zip(x).zip(signs) {
                        *out = x * sign;
                    }
                    transform(out);
                    out.iter_mut().for_each(|out| *out *= factor);
                }
                Direction::Inverse => {
                    out.copy_from_slice(x);
                    transform(out);
                    for (out, sign) in out.iter_mut().zip(signs) {
                        *out = *out * factor * sign;
                    }
                }
            }
        }
    }
}

/// The butterflies of one block, neighbours first.
#[inline(always)]
fn transform(block: &mut [f32]) {
    let (lanes, rest) = block.as_chunks_mut::<LANES>();
    if lanes.is_empty() {
        let mut stride = 1;
        while stride < rest.len() {
            butterflies(rest, stride);
            stride *= 2;
        }
        return;
    }
    for lanes in lanes.iter_mut() {
        *lanes = within_lanes(*lanes);
    }
    let mut stride = LANES;
    while 2 * stride < block.len() {
        two_stages(block, stride);
        stride *= 4;
    }
    if stride < block.len() {
        butterflies(block, stride);
    }
}

/// The butterflies of strides 1, 2, 4 and 8.
#[inline(always)]
fn within_lanes(mut x: [f32; LANES]) -> [f32; LANES] {
    x = stage::<1>(x);
    x = stage::<2>(x);
    x = stage::<4>(x);
    stage::<8>(x)
}

/// The butterflies of one stride below sixteen, as one addition of shuffled lanes with signs.
#[inline(always)]
fn stage<const STRIDE: usize>(x: [f32; LANES]) -> [f32; LANES] {
    let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        low[lane] = x[lane & !STRIDE];
        high[lane] = if lane & STRIDE == 0 { x[lane | STRIDE] } else { -x[lane | STRIDE] };
    }
    for (low, high) in low.iter_mut().zip(high) {
        *low += high;
    }
    low
}

/// The butterflies of one stride.
#[inline(always)]
fn butterflies(block: &mut [f32], stride: usize) {
    for pair in block.chunks_exact_mut(2 * stride) {
        let (low, high) = pair.split_at_mut(stride);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// The butterflies of `stride` and of twice as much in one pass.
#[inline(always)]
fn two_stages(block: &mut [f32], stride: usize) {
    for four in block.chunks_exact_mut(4 * stride) {
        let (low, high) = four.split_at_mut(2 * stride);
        let ((a, b), (c, d)) = (low.split_at_mut(stride), high.split_at_mut(stride));
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let (ab, a_b, cd, c_d) = (*a + *b, *a - *b, *c + *d, *c - *d);
            (*a, *b, *c, *d) = (ab + cd, a_b + c_d, ab - cd, a_b - c_d);
        }
    }
}
