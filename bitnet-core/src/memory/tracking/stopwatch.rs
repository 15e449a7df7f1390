//! How long the calls of a pool take, by the clock.

use std::cell::Cell;
use std::time::Instant;

use super::{LatencyKind, Tracker, TrackingLevel};

/// Times one call in 32 of a tracker that wants latencies.
pub(in crate::memory) struct Stopwatch<'a>(&'a Tracker, Instant);

impl<'a> Stopwatch<'a> {
    /// `None` for the calls that are not timed.
    pub(in crate::memory) fn start(tracker: &'a Tracker) -> Option<Self> {
        if tracker.level() != TrackingLevel::Detailed {
            return None;
        }
        thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        calls.is_multiple_of(32).then(|| Self(tracker, Instant::now()))
    }

    pub(in crate::memory) fn stop(self, kind: LatencyKind) {
        let Self(tracker, start) = self;
        let nanoseconds = start.elapsed().as_nanos();
        tracker.latency(kind, u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    }
}
