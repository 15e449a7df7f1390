//! Short-lived threads that leave blocks behind, some of them in shared slots.

use std::sync::{Mutex, PoisonError};

use bitnet_core::rng::SplitMix64;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Threads per generation.
const THREADS: usize = 4;

/// Steps per thread.
const STEPS: usize = 2000;

/// Shared slots for exchanging blocks.
const SHARED: usize = 256;

struct Life<B> {
    rng: SplitMix64,
    own: Vec<B>,
}

/// Measures nanoseconds per step of one thread, including thread creation and exit: a step allocates a block, frees an
/// own one, or exchanges one for that of another, possibly finished, thread. Half of the blocks outlive their thread.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn mstress<B: Blocks>(blocks: &B, plan: &Plan) -> Result<[Vec<f64>; 1], Refused> {
    let shared: Vec<Mutex<Option<B::Block>>> = (0..SHARED).map(|_| Mutex::new(None)).collect();
    let mut lives: Vec<Life<B::Block>> = (0..THREADS as u64)
        .map(|seed| Life { rng: SplitMix64::new(seed), own: Vec::with_capacity(STEPS) })
        .collect();
    sample(plan, (STEPS * THREADS) as f64, |rounds| {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            together(&mut lives, |life| live(blocks, life, &shared))?;
        }
        Ok([start.elapsed()])
    })
}

fn live<B: Blocks>(
    blocks: &B,
    life: &mut Life<B::Block>,
    shared: &[Mutex<Option<B::Block>>],
) -> Result<(), Refused> {
    for _ in 0..STEPS {
        match life.rng.below(8) {
            0..4 => {
                let block = take(blocks, &mut life.rng)?;
                life.own.push(block);
            }
            4..7 => {
                if !life.own.is_empty() {
                    let place = life.rng.below(life.own.len());
                    blocks.free(life.own.swap_remove(place));
                }
            }
            _ => {
                let place = &shared[life.rng.below(shared.len())];
                let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                let other = std::mem::replace(&mut *place, life.own.pop());
                drop(place);
                life.own.extend(other);
            }
        }
    }
    for block in life.own.drain(life.own.len() / 2..) {
        blocks.free(block);
    }
    Ok(())
}

/// Returns a random block size; one block in 64 is large.
fn take<B: Blocks>(blocks: &B, rng: &mut SplitMix64) -> Result<B::Block, Refused> {
    let lines = if rng.below(64) == 0 { rng.below(1024) } else { rng.below(16) } + 1;
    let bytes = lines * 64;
    let mut block = blocks.take(bytes)?;
    touch::<B>(&mut block, bytes, Touch::First);
    Ok(block)
}
