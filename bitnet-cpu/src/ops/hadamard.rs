//! The blockwise Walsh-Hadamard transform with signs, bit for bit what the reference computes.
//!
//! A stage of stride `s` replaces each pair `(x[i], x[i + s])` by its sum and its difference. From stride 64 on the two
//! are lanes of different vectors. The six stages before that are done for 64 components at a time, two stages a pass:
//! a pass combines four neighbours and writes the four results 16 places apart. That turns the indices by two bits, so
//! the next pass finds at strides 1 and 2 what stood at 4 and 8, and after the third everything is in its place again.

use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, Op};
use bitnet_core::Result;
use bitnet_core::backend::{Direction, Rotation, shape_check};
use bitnet_core::memory::tensor::BitNetTensor;

/// Components whose transform takes three passes.
const TILE: usize = 64;

/// Elementary steps that one component is counted as.
const STEPS: usize = 4;

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
    exec.for_each_rows(out.f32_mut()?, block, STEPS * block, &|range, out| {
        let x = &x[range.start * block..range.end * block];
        exec.isa.run_shared(Hadamard { x, first: range.start, rotation, direction, out });
        Ok(())
    })
}

/// Some blocks, of which the first one has the number `first` among those of all rows.
struct Hadamard<'a> {
    x: &'a [f32],
    first: usize,
    rotation: &'a Rotation,
    direction: Direction,
    out: &'a mut [f32],
}

impl Op for Hadamard<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let (block, signs) = (self.rotation.block(), self.rotation.signs());
        let factor = self.rotation.factor();
        let blocks = self.x.chunks_exact(block).zip(self.out.chunks_exact_mut(block));
        for (number, (x, out)) in (self.first..).zip(blocks) {
            let signs = &signs[number * block % signs.len()..][..block];
            match self.direction {
                Direction::Forward => {
                    for ((out, x), sign) in out.iter_mut().zip(x).zip(signs) {
                        *out = x * sign;
                    }
                }
                Direction::Inverse => out.copy_from_slice(x),
            }
            transform(out);
            match self.direction {
                Direction::Forward => {
                    for out in out {
                        *out *= factor;
                    }
                }
                Direction::Inverse => {
                    for (out, sign) in out.iter_mut().zip(signs) {
                        *out *= factor * sign;
                    }
                }
            }
        }
    }
}

/// The stages of one block in ascending order, without the factor.
#[inline(always)]
fn transform(block: &mut [f32]) {
    let (tiles, rest) = block.as_chunks_mut::<TILE>();
    for tile in tiles {
        let (mut once, mut twice) = ([0f32; TILE], [0f32; TILE]);
        pass(tile, &mut once);
        pass(&once, &mut twice);
        pass(&twice, tile);
    }
    let mut stride = 1;
    while stride < rest.len() {
        for pairs in rest.chunks_exact_mut(2 * stride) {
            let (low, high) = pairs.split_at_mut(stride);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        stride *= 2;
    }
    let mut stride = TILE;
    while 4 * stride <= block.len() {
        for fours in block.chunks_exact_mut(4 * stride) {
            two_stages(fours);
        }
        stride *= 4;
    }
    if stride < block.len() {
        one_stage(block);
    }
}

/// Two stages, strides 1 and 2. What belongs at `4 * i + j` comes to `16 * j + i`.
#[inline(always)]
fn pass(x: &[f32; TILE], out: &mut [f32; TILE]) {
    let (low, high) = out.split_at_mut(TILE / 2);
    let ((p, q), (r, s)) = (low.split_at_mut(TILE / 4), high.split_at_mut(TILE / 4));
    let places = p.iter_mut().zip(q).zip(r).zip(s);
    for ((((p, q), r), s), &[a, b, c, d]) in places.zip(x.as_chunks::<4>().0) {
        let (ab, cd) = ((a + b, a - b), (c + d, c - d));
        (*p, *q) = (ab.0 + cd.0, ab.1 + cd.1);
        (*r, *s) = (ab.0 - cd.0, ab.1 - cd.1);
    }
}

/// The stages whose strides are a quarter of the length and half of it.
#[inline(always)]
fn two_stages(x: &mut [f32]) {
    let (low, high) = halves(x.as_chunks_mut::<LANES>().0);
    let ((a, b), (c, d)) = (halves(low), halves(high));
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (ab, cd) = (butterfly(a, b), butterfly(c, d));
        (*a, *c) = butterfly(&ab.0, &cd.0);
        (*b, *d) = butterfly(&ab.1, &cd.1);
    }
}

/// The stage whose stride is half the length.
#[inline(always)]
fn one_stage(x: &mut [f32]) {
    let (low, high) = halves(x.as_chunks_mut::<LANES>().0);
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = butterfly(a, b);
    }
}

#[inline(always)]
fn halves<T>(x: &mut [T]) -> (&mut [T], &mut [T]) {
    x.split_at_mut(x.len() / 2)
}

/// `(a + b, a - b)` in each lane.
#[inline(always)]
fn butterfly(a: &[f32; LANES], b: &[f32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let (mut sum, mut difference) = (*a, *a);
    for ((sum, difference), b) in sum.iter_mut().zip(&mut difference).zip(b) {
        *sum += b;
        *difference -= b;
    }
    (sum, difference)
}
