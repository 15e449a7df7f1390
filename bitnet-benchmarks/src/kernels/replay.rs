//! Replay of a trace of allocations and frees.

use crate::blocks::{Blocks, Refused};
use crate::kernels::together::together;
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};
use crate::trace::{Event, Trace};

/// Measures nanoseconds per repetition of `trace`.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn replay<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    trace: &Trace,
    how: Touch,
) -> Result<[Vec<f64>; 1], Refused> {
    let mut slots: Vec<Option<B::Block>> = (0..trace.slots).map(|_| None).collect();
    step(blocks, &mut slots, &trace.prologue, how)?;
    sample(plan, 1.0, |rounds| {
        let time = together(&mut [&mut slots], |slots| {
            (0..rounds).try_for_each(|_| step(blocks, slots, &trace.events, how))
        })?;
        Ok([time])
    })
}

fn step<B: Blocks>(
    blocks: &B,
    slots: &mut [Option<B::Block>],
    events: &[Event],
    how: Touch,
) -> Result<(), Refused> {
    for event in events {
        match *event {
            Event::Take { slot, bytes } => {
                let mut block = blocks.take(bytes)?;
                touch::<B>(&mut block, bytes, how);
                slots[slot] = Some(block);
            }
            Event::GiveBack { slot } => {
                if let Some(block) = slots[slot].take() {
                    blocks.free(block);
                }
            }
        }
    }
    Ok(())
}
