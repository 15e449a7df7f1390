//! Two threads that write to small blocks of their own: slow if an allocator puts both into one cache line.

use std::hint::black_box;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::sampling::{Plan, sample};

/// Bytes of a block.
const BYTES: usize = 8;

/// Writes to a block before it is given back.
const WRITES: u64 = 100;

/// Nanoseconds a write, where each of `threads` threads takes a small block, writes to it a hundred times and gives it back.
///
/// With `inherited`, each thread first gives back a block that one thread took for all: an allocator that then hands out
/// neighbours of these blocks makes threads share a cache line without their doing.
///
/// # Errors
/// [`Refused`] if the memory can't be had.
pub fn cache_lines<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    threads: usize,
    inherited: bool,
) -> Result<Vec<f64>, Refused> {
    let [samples] = sample(plan, WRITES as f64, |rounds| {
        let mut states = Vec::with_capacity(threads);
        for _ in 0..threads {
            states.push(if inherited { Some(blocks.take(BYTES)?) } else { None });
        }
        let time = together(&mut states, |state| {
            if let Some(block) = state.take() {
                blocks.give_back(block);
            }
            for _ in 0..rounds {
                let mut block = blocks.take(BYTES)?;
                for value in 0..WRITES {
                    B::write(&mut block, 0, value);
                    black_box(B::address(&block));
                }
                blocks.give_back(block);
            }
            Ok(())
        })?;
        Ok([time])
    })?;
    Ok(samples)
}
