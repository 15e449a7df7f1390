//! Half of the threads only allocate, in batches of random sizes; the other half only free.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bitnet_core::rng::SplitMix64;

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Blocks per batch.
const BATCH: usize = 128;

/// Maximum number of batches in flight.
const UNDER_WAY: usize = 16;

/// The block sizes.
const SIZES: [usize; 8] = [64, 64, 128, 256, 512, 1024, 2048, 4096];

struct Queue<B> {
    batches: Mutex<(VecDeque<Vec<B>>, bool)>,
    moved: Condvar,
}

impl<B> Queue<B> {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Vec<B>>, bool)> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, (VecDeque<Vec<B>>, bool)>,
    ) -> MutexGuard<'a, (VecDeque<Vec<B>>, bool)> {
        self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: Vec<B>) {
        let mut guard = self.lock();
        while guard.0.len() >= UNDER_WAY {
            guard = self.wait(guard);
        }
        guard.0.push_back(batch);
        self.moved.notify_one();
    }

    /// Returns the next batch; `None` if the queue is closed and empty.
    fn pop(&self) -> Option<Vec<B>> {
        let mut guard = self.lock();
        loop {
            if let Some(batch) = guard.0.pop_front() {
                self.moved.notify_one();
                return Some(batch);
            }
            if guard.1 {
                return None;
            }
            guard = self.wait(guard);
        }
    }

    fn end(&self) {
        self.lock().1 = true;
        self.moved.notify_all();
    }
}

/// Measures nanoseconds per block, with one allocating and one freeing thread.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn xmalloc<B: Blocks>(blocks: &B, plan: &Plan) -> Result<[Vec<f64>; 1], Refused> {
    sample(plan, BATCH as f64, |rounds| {
        let queue = Queue { batches: Mutex::default(), moved: Condvar::new() };
        let mut takers = [true, false];
        let time = together(&mut takers, |&mut takes| {
            if takes {
                let taken = take_batches(blocks, &queue, rounds);
                queue.end();
                taken
            } else {
                while let Some(batch) = queue.pop() {
                    batch.into_iter().for_each(|block| blocks.free(block));
                }
                Ok(())
            }
        })?;
        Ok([time])
    })
}

fn take_batches<B: Blocks>(
    blocks: &B,
    queue: &Queue<B::Block>,
    rounds: u64,
) -> Result<(), Refused> {
    let mut rng = SplitMix64::new(11);
    for _ in 0..rounds {
        let mut batch = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let bytes = SIZES[rng.below(SIZES.len())];
            let mut block = blocks.take(bytes)?;
            touch::<B>(&mut block, bytes, Touch::First);
            batch.push(block);
        }
        queue.push(batch);
    }
    Ok(())
}
