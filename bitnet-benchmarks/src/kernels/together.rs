//! Threads that start together, and the time until the last of them is done.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::blocks::Refused;

/// Runs `work` once on a thread for each of `states`, all starting together; the time of the slowest. With one state it runs on
/// the caller's thread.
///
/// # Errors
/// The first of the work's.
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
