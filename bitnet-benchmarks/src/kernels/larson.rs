//! A server's memory: each thread replaces random blocks of its own by blocks of random size, and leaves them to its successor.

use bitnet_core::rng::SplitMix64;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Blocks that each thread keeps alive.
const ALIVE: usize = 1000;

struct Server<B> {
    alive: Vec<Option<B>>,
    rng: SplitMix64,
}

/// Nanoseconds to give a random block back and take another of `smallest` to `largest` bytes, on each of `threads` threads.
///
/// Every sample is run by new threads, which find the blocks of those before them.
///
/// # Errors
/// [`Refused`] if the memory can't be had.
pub fn larson<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    [smallest, largest]: [usize; 2],
    threads: usize,
) -> Result<Vec<f64>, Refused> {
    let mut servers = Vec::with_capacity(threads);
    for seed in 0..threads {
        let mut server: Server<B::Block> =
            Server { alive: Vec::with_capacity(ALIVE), rng: SplitMix64::new(4141 + seed as u64) };
        for _ in 0..ALIVE {
            server.alive.push(Some(take(blocks, [smallest, largest], &mut server.rng)?));
        }
        servers.push(server);
    }
    let [samples] = sample(plan, 1.0, |rounds| {
        let time = together(&mut servers, |server| {
            for _ in 0..rounds {
                let place = server.rng.below(ALIVE);
                if let Some(block) = server.alive[place].take() {
                    blocks.give_back(block);
                }
                server.alive[place] = Some(take(blocks, [smallest, largest], &mut server.rng)?);
            }
            Ok(())
        })?;
        Ok([time])
    })?;
    Ok(samples)
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
