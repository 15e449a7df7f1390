//! The clock of ages and idle times: the system's, or a manual one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A monotonic clock. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Instant),
    ByHand(Arc<AtomicU64>),
}

impl Clock {
    /// The system's monotonic clock, counted from now.
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// The time since the clock was made.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::ByHand(nanos) => Duration::from_nanos(nanos.load(Ordering::Relaxed)),
        }
    }

    /// The same in nanoseconds: enough for five hundred years.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}

/// A clock that changes only by [`ManualClock::advance`], to test time-dependent code without waiting.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a clock that reads this one.
    pub fn clock(&self) -> Clock {
        Clock(Source::ByHand(Arc::clone(&self.nanos)))
    }

    /// Advances the clock.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let moved = |now: u64| Some(now.saturating_add(nanos));
        // The closure never refuses.
        let _ = self.nanos.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clocks_move_only_when_advanced() {
        let manual = ManualClock::new();
        let clock = manual.clock();
        manual.advance(Duration::from_secs(3));
        assert_eq!(clock.now(), Duration::from_secs(3));
        assert_eq!(clock.clone().now(), Duration::from_secs(3));
        manual.advance(Duration::MAX);
        assert_eq!(clock.nanos(), u64::MAX);
        let system = Clock::system();
        let before = system.now();
        assert!(system.now() >= before);
    }
}
