//! Allocate, write, free: the shortest block lifetime.

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Measures nanoseconds per pair on each of `threads` threads; the slowest thread counts.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn pair<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    bytes: usize,
    threads: usize,
    how: Touch,
) -> Result<[Vec<f64>; 1], Refused> {
    let mut states = vec![(); threads];
    sample(plan, 1.0, |rounds| {
        let time = together(&mut states, |()| rounds_of(blocks, bytes, how, rounds))?;
        Ok([time])
    })
}

fn rounds_of<B: Blocks>(blocks: &B, bytes: usize, how: Touch, rounds: u64) -> Result<(), Refused> {
    for _ in 0..rounds {
        let mut block = blocks.take(bytes)?;
        touch::<B>(&mut block, bytes, how);
        blocks.free(block);
    }
    Ok(())
}
