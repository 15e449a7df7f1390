//! One thread takes blocks and another gives them back, through a ring between them.

use std::hint::spin_loop;
use std::thread;
use std::time::Instant;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::blocks::{Blocks, Refused};
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Blocks that are under way at most; of large ones only as many as 64 MiB hold, but four.
const UNDER_WAY: usize = 512;

/// Looks at a full or an empty ring before the processor is offered to others.
const PATIENCE: u32 = 64;

/// Nanoseconds a block from one thread to the other, `[samples]`: both threads' work and the ring.
///
/// # Errors
/// [`Refused`] if the memory can't be had.
pub fn handover<B: Blocks>(blocks: &B, plan: &Plan, bytes: usize) -> Result<Vec<f64>, Refused> {
    let capacity = ((64 << 20) / bytes.max(1)).clamp(4, UNDER_WAY);
    let [samples] = sample(plan, 1.0, |rounds| {
        let (sender, receiver) = RingBuffer::new(capacity);
        let start = Instant::now();
        thread::scope(|scope| {
            let taker = scope.spawn(move || take_all(blocks, sender, bytes, rounds));
            give_back_all(blocks, receiver);
            taker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok([start.elapsed()])
    })?;
    Ok(samples)
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
        // Asked before the pop: what was pushed before the end is then seen.
        let ended = receiver.is_abandoned();
        match receiver.pop() {
            Ok(block) => {
                blocks.give_back(block);
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
