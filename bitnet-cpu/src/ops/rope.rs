//! Rotary position embedding, in place. Bit for bit what the reference computes.

use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::backend::{RopeOrder, RopeTable};
use bitnet_core::memory::tensor::BitNetTensor;

/// Rotates each head of `x`. See [`bitnet_core::backend::Operations::rope`].
pub(crate) fn rope(
    x: &mut BitNetTensor,
    head_dim: usize,
    positions: &[usize],
    table: &RopeTable,
    order: RopeOrder,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::rope(x, head_dim, positions, table)?;
    let width = x.shape()[1];
    exec.for_each_rows(x.f32_mut()?, width, width, &|range, x| {
        exec.isa.run_shared(Rope {
            x,
            width,
            head_dim,
            positions: &positions[range],
            table,
            order,
        });
        Ok(())
    })
}

struct Rope<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    positions: &'a [usize],
    table: &'a RopeTable,
    order: RopeOrder,
}

impl Op for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let half = self.table.dim / 2;
        if self.width == 0 || half == 0 {
            return;
        }
        for (position, x) in self.positions.iter().zip(self.x.chunks_exact_mut(self.width)) {
            let at = position * half;
            let (cos, sin) = (&self.table.cos[at..at + half], &self.table.sin[at..at + half]);
            for head in x.chunks_exact_mut(self.head_dim) {
                match self.order {
                    RopeOrder::Halves => rotate_halves(&mut head[..2 * half], cos, sin),
                    RopeOrder::Interleaved => rotate_pairs(&mut head[..2 * half], cos, sin),
                }
            }
        }
    }
}

#[inline(always)]
fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[inline(always)]
fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (([a, b], cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
