//! False sharing: threads write to their own small blocks, which is slow if these share a cache line.

use std::hint::black_box;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::sampling::{Plan, sample};

/// Bytes of a block.
const BYTES: usize = 8;

/// Writes per block before it is freed.
const WRITES: u64 = 100;

/// Measures nanoseconds per write: each of `threads` threads allocates a small
/// block, writes to it a hundred times and frees it.
///
/// With `inherited`, each thread first frees a block that one thread allocated for all: an allocator that reuses
/// adjacent blocks then causes passive false sharing.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn cache_lines<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    threads: usize,
    inherited: bool,
) -> Result<[Vec<f64>; 1], Refused> {
    sample(plan, WRITES as f64, |rounds| {
        let mut states = Vec::with_capacity(threads);
        for _ in 0..threads {
            states.push(if inherited { Some(blocks.take(BYTES)?) } else { None });
        }
        let time = together(&mut states, |state| {
            if let Some(block) = state.take() {
                blocks.free(block);
            }
            for _ in 0..rounds {
                let mut block = blocks.take(BYTES)?;
                for value in 0..WRITES {
                    B::write(&mut block, 0, value);
                    black_box(B::address(&block));
                }
                blocks.free(block);
            }
            Ok(())
        })?;
        Ok([time])
    })
}
