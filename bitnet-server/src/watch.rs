//! Whether an engine works, for whoever restarts servers that hang.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitnet_inference::engine::Engine;

/// An engine with requests that makes no step for this long hangs: no step takes as long, and readers that make it wait
/// are cut off earlier.
const PATIENCE: Duration = Duration::from_secs(150);

/// Tells an engine that works from one that hangs. Clones share what was seen.
#[derive(Debug, Clone)]
pub struct EngineWatch {
    engine: Engine,
    seen: Arc<Mutex<Seen>>,
}

/// The last change that was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    steps: u64,
    unfinished: usize,
    at: Instant,
}

impl EngineWatch {
    /// Begins to watch.
    pub fn new(engine: Engine) -> Self {
        let seen = Seen { steps: 0, unfinished: 0, at: Instant::now() };
        Self { engine, seen: Arc::new(Mutex::new(seen)) }
    }

    /// Whether the engine has made a step lately, or has nothing to do. Must be asked every few seconds: a change counts
    /// from when it was seen.
    pub fn is_alive(&self) -> bool {
        let (steps, unfinished) = (self.engine.stats().steps, self.engine.unfinished());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look(steps, unfinished, Instant::now())
    }
}

impl Seen {
    fn look(&mut self, steps: u64, unfinished: usize, now: Instant) -> bool {
        if unfinished == 0 || (steps, unfinished) != (self.steps, self.unfinished) {
            *self = Self { steps, unfinished, at: now };
        }
        now.duration_since(self.at) < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_hangs_if_nothing_changes_while_requests_wait() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen { steps: 0, unfinished: 0, at: start };
        assert!(seen.look(0, 0, at(1000)), "nothing to do");
        assert!(seen.look(0, 3, at(1001)));
        assert!(seen.look(0, 3, at(1150)));
        assert!(!seen.look(0, 3, at(1151)), "no step for 150 s");
        assert!(seen.look(1, 3, at(1152)), "a step");
        assert!(seen.look(1, 2, at(1301)), "a request ended");
        assert!(!seen.look(1, 2, at(1500)));
        assert!(seen.look(1, 0, at(1501)));
    }
}
