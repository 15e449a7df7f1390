//! Threads that start together, and the time until the last one finishes.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::blocks::Refused;

/// Runs `work` once on a thread per state, starting together, and returns the time of the slowest. A single state runs
/// on the caller's thread.
///
/// # Errors
/// The first error of `work`.
pub fn together<S: Send>(
    states: &mut [S],
    work: impl Fn(&mut S) -> Result<(), Refused> + Sync,
) -> Result<Duration, Refused> {
    let timed = |state: &mut S| {
        let start = Instant::now();
        work(state).map(|()| start.elapsed())
    };
    if let [only] = states {
        return timed(only);
    }
    let barrier = Barrier::new(states.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = states
            .iter_mut()
            .map(|state| {
                scope.spawn(|| {
                    barrier.wait();
                    timed(state)
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for thread in threads {
            let time = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            slowest = slowest.max(time);
        }
        Ok(slowest)
    })
}
