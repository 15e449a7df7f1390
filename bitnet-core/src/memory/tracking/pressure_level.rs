//! Levels of memory pressure, and the thresholds between them.
//!
//! | level | pool, used / limit | control group, machine | tasks waiting (some, full) |
//! |---|---|---|---|
//! | Low | r | 0.80 | 5 %, 1 % |
//! | Medium | r + (1 - r) / 4 | 0.90 | 10 %, 2.5 % |
//! | High | r + (1 - r) / 2 | 0.95 | 25 %, 10 % |
//! | Critical | r + 3 (1 - r) / 4 | 0.98 | 50 %, 25 % |
//!
//! r is `pressure_threshold_ratio`. The highest of the four counts. Between two readings of the system a control group
//! that was throttled or hit its limit is Medium, and one that ran out of memory is Critical. A level is entered at its
//! threshold, and left only a margin below it: an eighth of 1 - r (at least 0.01) for the pool, a fifth of the
//! threshold for tasks waiting, 0.02 for the rest.

use crate::os::pressure::{GroupEvents, Stall, SystemReading, ratio};

/// How scarce memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum MemoryPressureLevel {
    /// There is enough.
    #[default]
    None,
    /// The threshold has been passed.
    Low,
    /// Caches that can be rebuilt should be freed.
    Medium,
    /// All memory that can be freed should be.
    High,
    /// Allocations are about to fail, or the process to be killed.
    Critical,
}

impl MemoryPressureLevel {
    const ALL: [Self; 5] = [Self::None, Self::Low, Self::Medium, Self::High, Self::Critical];

    pub(super) fn from_index(index: u8) -> Self {
        Self::ALL[usize::from(index).min(4)]
    }

    /// The highest level whose threshold `value` reaches.
    fn of(value: f64, thresholds: [f64; 4]) -> Self {
        Self::from_index(thresholds.iter().filter(|&&threshold| value >= threshold).count() as u8)
    }
}

/// The level that a signal enters, and the highest level that it does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Bounds {
    pub(super) enter: MemoryPressureLevel,
    pub(super) stay: MemoryPressureLevel,
}

impl Bounds {
    pub(super) fn of(value: f64, thresholds: [f64; 4], margin: impl Fn(f64) -> f64) -> Self {
        let enter = MemoryPressureLevel::of(value, thresholds);
        Self {
            enter,
            stay: MemoryPressureLevel::of(value, thresholds.map(|t| t - margin(t))).max(enter),
        }
    }

    pub(super) fn both(self, other: Self) -> Self {
        Self { enter: self.enter.max(other.enter), stay: self.stay.max(other.stay) }
    }

    pub(super) fn next(self, current: MemoryPressureLevel) -> MemoryPressureLevel {
        self.enter.max(current.min(self.stay))
    }
}

/// Returns the bounds of a reading of the system; `before` holds the events of its control group at the reading before.
pub(super) fn system_bounds(reading: &SystemReading, before: Option<GroupEvents>) -> Bounds {
    let mut bounds = Bounds::default();
    for used in [reading.group, reading.machine].into_iter().flatten() {
        bounds = bounds.both(Bounds::of(ratio(used), [0.80, 0.90, 0.95, 0.98], |_| 0.02));
    }
    for Stall { some, full } in [reading.stall, reading.group_stall].into_iter().flatten() {
        bounds = bounds.both(Bounds::of(some, [5.0, 10.0, 25.0, 50.0], |t| t / 5.0));
        bounds = bounds.both(Bounds::of(full, [1.0, 2.5, 10.0, 25.0], |t| t / 5.0));
    }
    if let (Some(before), Some(now)) = (before, reading.group_events) {
        let level = if now.oom > before.oom {
            MemoryPressureLevel::Critical
        } else if now.max > before.max || now.high > before.high {
            MemoryPressureLevel::Medium
        } else {
            MemoryPressureLevel::None
        };
        bounds = bounds.both(Bounds { enter: level, stay: level });
    }
    bounds
}
