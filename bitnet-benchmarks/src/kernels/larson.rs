//! Larson's server simulation: each thread replaces random blocks by blocks
//! of random size and passes them to its successor.

use bitnet_core::rng::SplitMix64;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Live blocks per thread.
const ALIVE: usize = 1000;

struct Server<B> {
    alive: Vec<Option<B>>,
    rng: SplitMix64,
}

/// Measures nanoseconds per replacement of a random block by one
/// of `smallest` to `largest` bytes, on each of `threads` threads.
///
/// New threads run every sample with the blocks of the previous threads.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn larson<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    [smallest, largest]: [usize; 2],
    threads: usize,
) -> Result<[Vec<f64>; 1], Refused> {
    let mut servers = Vec::with_capacity(threads);
    for seed in 0..threads {
        let mut server: Server<B::Block> =
            Server { alive: Vec::with_capacity(ALIVE), rng: SplitMix64::new(4141 + seed as u64) };
        for _ in 0..ALIVE {
            server.alive.push(Some(take(blocks, [smallest, largest], &mut server.rng)?));
        }
        servers.push(server);
    }
    sample(plan, 1.0, |rounds| {
        let time = together(&mut servers, |server| {
            for _ in 0..rounds {
                let place = server.rng.below(ALIVE);
                if let Some(block) = server.alive[place].take() {
                    blocks.free(block);
                }
                server.alive[place] = Some(take(blocks, [smallest, largest], &mut server.rng)?);
            }
            Ok(())
        })?;
        Ok([time])
    })
}

#[inline]
fn take<B: Blocks>(
    blocks: &B,
    [smallest, largest]: [usize; 2],
    rng: &mut SplitMix64,
) -> Result<B::Block, Refused> {
    let bytes = smallest + rng.below(largest - smallest + 1);
    let mut block = blocks.take(bytes)?;
    touch::<B>(&mut block, bytes, Touch::First);
    Ok(block)
}
