//! Producer and consumer: one thread allocates blocks, another frees them, with a ring buffer between.

use std::hint::spin_loop;
use std::thread;
use std::time::Instant;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::blocks::{Blocks, Refused};
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Maximum number of blocks in flight; for large blocks limited to 64 MiB, but at least four.
const UNDER_WAY: usize = 512;

/// Spins on a full or empty ring before yielding.
const PATIENCE: u32 = 64;

/// Measures nanoseconds per block, including both threads' work and the ring, `[samples]`.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn handover<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    bytes: usize,
) -> Result<[Vec<f64>; 1], Refused> {
    let capacity = ((64 << 20) / bytes.max(1)).clamp(4, UNDER_WAY);
    sample(plan, 1.0, |rounds| {
        let (sender, receiver) = RingBuffer::new(capacity);
        let start = Instant::now();
        thread::scope(|scope| {
            let taker = scope.spawn(move || take_all(blocks, sender, bytes, rounds));
            give_back_all(blocks, receiver);
            taker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok([start.elapsed()])
    })
}

fn take_all<B: Blocks>(
    blocks: &B,
    mut sender: Producer<B::Block>,
    bytes: usize,
    rounds: u64,
) -> Result<(), Refused> {
    for _ in 0..rounds {
        let mut block = blocks.take(bytes)?;
        touch::<B>(&mut block, bytes, Touch::First);
        let mut waited = 0;
        while let Err(PushError::Full(back)) = sender.push(block) {
            block = back;
            wait(&mut waited);
        }
    }
    Ok(())
}

fn give_back_all<B: Blocks>(blocks: &B, mut receiver: Consumer<B::Block>) {
    let mut waited = 0;
    loop {
        // Checked before the pop, so that all blocks pushed before the end are seen.
        let ended = receiver.is_abandoned();
        match receiver.pop() {
            Ok(block) => {
                blocks.free(block);
                waited = 0;
            }
            Err(_) if ended => return,
            Err(_) => wait(&mut waited),
        }
    }
}

fn wait(waited: &mut u32) {
    *waited += 1;
    if (*waited).is_multiple_of(PATIENCE) {
        thread::yield_now();
    } else {
        spin_loop();
    }
}
