//! Strided operands in row-major order, gathered in contiguous pieces for element-wise loops.

use crate::Result;
use crate::memory::tensor::{BitNetTensor, Cursor, Walk, copy_run};

/// Elements that are gathered and computed together: they fit in the first-level cache.
pub(super) const PIECE: usize = 1024;

/// The elements of an f32 tensor, run after run.
#[derive(Debug)]
pub(super) struct Gather<'a> {
    all: &'a [f32],
    runs: Cursor<'a, 1>,
    run: usize,
    step: isize,
    /// Position of the next element, and how many the run still has.
    at: usize,
    left: usize,
}

impl<'a> Gather<'a> {
    /// The elements of `x` in the order of its [`BitNetTensor::walk`].
    pub(super) fn new(x: &'a BitNetTensor, walk: &'a Walk<1>) -> Result<Self> {
        let (all, _) = x.strided_f32()?;
        let (run, [step]) = walk.run();
        Ok(Self { all, runs: walk.cursor(), run, step, at: 0, left: 0 })
    }

    /// Advances to the next run if this one has ended. Returns whether there is one.
    fn advance(&mut self) -> bool {
        if self.left == 0
            && let Some([at]) = self.runs.next()
        {
            (self.at, self.left) = (at, self.run);
        }
        self.left > 0
    }

    pub(super) fn fill(&mut self, mut out: &mut [f32]) {
        while !out.is_empty() && self.advance() {
            let count = self.left.min(out.len());
            let (now, later) = out.split_at_mut(count);
            copy_run(self.all, self.at, self.step, now);
            self.at = self.at.wrapping_add_signed(self.step.wrapping_mul(count as isize));
            self.left -= count;
            out = later;
        }
    }

    /// The next `count` elements, at most a [`PIECE`]: in place if they are contiguous, else in `buffer`.
    pub(super) fn next<'b>(&mut self, count: usize, buffer: &'b mut [f32; PIECE]) -> &'b [f32]
    where
        'a: 'b,
    {
        if self.step == 1 && self.advance() && self.left >= count {
            let piece = &self.all[self.at..self.at + count];
            self.at += count;
            self.left -= count;
            return piece;
        }
        let buffer = &mut buffer[..count];
        self.fill(buffer);
        buffer
    }
}
