//! When a pool is cleaned, and how: pure functions of observations.
//!
//! | strategy | due | moves tensors | compresses tensors |
//! |---|---|---|---|
//! | Pressure | the pool or the system is short of memory | all without guards | those idle for an interval |
//! | Idle | no calls for an interval | all without guards | none |
//! | Periodic | [`PERIOD`] intervals have passed since the last cleanup | those idle for an interval | none |
//! | OnDemand | never by itself | all without guards | none |
//!
//! The interval is `idle_cleanup_interval`. Nothing is due again before a block was allocated or freed since the last
//! cleanup, unless that was cut short; but Pressure, which does more, may follow any other. The time between two
//! cleanups is at least nine times `max_cleanup_time`, so that they take at most a tenth of a processor.

use std::time::Duration;

use super::CleanupConfig;
use crate::memory::MemoryPressureLevel;

/// A pool that is never idle is cleaned once in this many idle intervals.
pub const PERIOD: u32 = 10;
/// The time between two observations of the system's memory.
const OBSERVATION_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest time to the next observation, for any configuration.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Why a pool is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Strategy {
    /// Memory is short.
    Pressure,
    /// No calls for a while.
    Idle,
    /// It has not been cleaned for long.
    Periodic,
    /// By a call.
    #[default]
    OnDemand,
}

impl Strategy {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Pressure, Self::Idle, Self::Periodic, Self::OnDemand];

    /// What such a cleanup does.
    pub fn work(self, config: &CleanupConfig) -> Work {
        let interval = config.idle_cleanup_interval;
        let move_idle_for = match self {
            Self::Periodic => interval,
            Self::Pressure | Self::Idle | Self::OnDemand => Duration::ZERO,
        };
        Work {
            move_idle_for: config.enable_compaction.then_some(move_idle_for),
            compress_idle_for: (self == Self::Pressure).then_some(interval),
        }
    }
}

/// What a cleanup does beyond releasing free memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Tensors in sparse memory are moved if no guard has been alive for this long.
    pub move_idle_for: Option<Duration>,
    /// Tensors are compressed if no guard has been alive for this long.
    pub compress_idle_for: Option<Duration>,
}

/// An observation of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// The time of the observation.
    pub now: Duration,
    /// Allocations and deallocations so far.
    pub activity: u64,
    /// Bytes in use.
    pub used: u64,
    /// The most bytes that the pool may use.
    pub limit: u64,
    /// How scarce memory is, by the pool's tracker or by the system.
    pub level: MemoryPressureLevel,
}

impl Observed {
    /// Whether memory is short: more than the threshold is in use, or the level is High or Critical.
    pub fn is_pressed(&self, config: &CleanupConfig) -> bool {
        let most = config.pressure_cleanup_threshold * self.limit as f64;
        self.used as f64 > most || self.level >= MemoryPressureLevel::High
    }
}

/// The state of a schedule between observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// The activity at the last observation.
    activity: u64,
    /// Since when the activity has been unchanged.
    quiet_since: Duration,
    /// When the last cleanup ended, or the time of the first observation.
    cleaned_at: Duration,
    /// The last cleanup, and the activity when it ended.
    cleaned: Option<Cleaned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cleaned {
    strategy: Strategy,
    activity: u64,
    was_cut: bool,
}

impl Past {
    /// The state after the first observation.
    pub fn new(first: &Observed) -> Self {
        let (activity, now) = (first.activity, first.now);
        Self { activity, quiet_since: now, cleaned_at: now, cleaned: None }
    }

    /// Records an observation.
    pub fn record(&mut self, observed: &Observed) {
        if observed.activity != self.activity {
            self.activity = observed.activity;
            self.quiet_since = observed.now;
        }
    }

    /// Records a cleanup that ended at `now`. `activity` is that observed before it plus its own.
    pub fn cleaned(&mut self, strategy: Strategy, now: Duration, activity: u64, was_cut: bool) {
        // The calls of a cleanup are not the users' activity.
        self.activity = activity;
        self.cleaned_at = now;
        self.cleaned = Some(Cleaned { strategy, activity, was_cut });
    }

    /// Whether a cleanup under pressure, or another one, could find anything.
    fn has_work(&self, observed: &Observed, pressed: bool) -> bool {
        self.cleaned.is_none_or(|last| {
            let more = pressed && last.strategy != Strategy::Pressure;
            last.was_cut || last.activity != observed.activity || more
        })
    }

    /// The shortest time between two cleanups.
    fn gap(config: &CleanupConfig) -> Duration {
        config.max_cleanup_time.saturating_mul(9)
    }

    /// When the next cleanup may begin.
    fn earliest(&self, config: &CleanupConfig) -> Duration {
        match self.cleaned {
            Some(_) => self.cleaned_at.saturating_add(Self::gap(config)),
            None => Duration::ZERO,
        }
    }

    fn idle_at(&self, config: &CleanupConfig) -> Duration {
        self.quiet_since.saturating_add(config.idle_cleanup_interval)
    }

    fn period_ends(&self, config: &CleanupConfig) -> Duration {
        self.cleaned_at.saturating_add(config.idle_cleanup_interval.saturating_mul(PERIOD))
    }
}

/// The strategy that is due, if one is. `past` has recorded `observed`: [`Past::record`].
pub fn due(config: &CleanupConfig, observed: &Observed, past: &Past) -> Option<Strategy> {
    let pressed = observed.is_pressed(config);
    if !past.has_work(observed, pressed) || observed.now < past.earliest(config) {
        None
    } else if pressed {
        Some(Strategy::Pressure)
    } else if observed.now >= past.idle_at(config) {
        Some(Strategy::Idle)
    } else if observed.now >= past.period_ends(config) {
        Some(Strategy::Periodic)
    } else {
        None
    }
}

/// The time in which nothing can become due without pressure; above zero.
pub fn next_check(config: &CleanupConfig, observed: &Observed, past: &Past) -> Duration {
    let pressed = observed.is_pressed(config);
    let wait = if !past.has_work(observed, pressed) {
        // Only activity or pressure makes a strategy due. Idleness counts from the observation of the activity.
        config.idle_cleanup_interval.max(Past::gap(config))
    } else {
        let due = past.idle_at(config).min(past.period_ends(config));
        let due = if pressed { Duration::ZERO } else { due };
        due.max(past.earliest(config)).saturating_sub(observed.now)
    };
    wait.clamp(MIN_INTERVAL, OBSERVATION_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> CleanupConfig {
        CleanupConfig {
            idle_cleanup_interval: 30 * SECOND,
            pressure_cleanup_threshold: 0.9,
            enable_compaction: true,
            max_cleanup_time: SECOND / 10,
        }
    }

    fn at(seconds: u32, activity: u64, used: u64) -> Observed {
        let level = MemoryPressureLevel::None;
        Observed { now: seconds * SECOND, activity, used, limit: 1000, level }
    }

    /// Returns the strategies due in a pool with these observations (second, activity, used), if cleanups take no time.
    fn strategies_due(observations: &[(u32, u64, u64)]) -> Vec<(u32, Strategy)> {
        let config = config();
        let mut past = Past::new(&at(0, 0, 0));
        let mut done = Vec::new();
        for &(seconds, activity, used) in observations {
            let seen = at(seconds, activity, used);
            past.record(&seen);
            if let Some(strategy) = due(&config, &seen, &past) {
                done.push((seconds, strategy));
                past.cleaned(strategy, seen.now, activity, false);
            }
        }
        done
    }

    #[test]
    fn an_idle_pool_is_cleaned_once() {
        let observations: Vec<_> =
            (0..200).map(|second| (second, u64::from(second.min(10)), 5)).collect();
        assert_eq!(
            strategies_due(&observations),
            [(40, Strategy::Idle)],
            "30 s after the last activity"
        );
        let observations: Vec<_> = (0..200).map(|s| (s, if s < 100 { 1 } else { 2 }, 5)).collect();
        assert_eq!(strategies_due(&observations), [(30, Strategy::Idle), (130, Strategy::Idle)]);
        let untouched: Vec<_> = (0..100).map(|second| (second, 0, 0)).collect();
        assert_eq!(
            strategies_due(&untouched),
            [(30, Strategy::Idle)],
            "the reserved memory may be released"
        );
    }

    #[test]
    fn a_busy_pool_is_cleaned_periodically() {
        let observations: Vec<_> = (0..1000).map(|second| (second, u64::from(second), 5)).collect();
        let every = [300, 600, 900].map(|second| (second, Strategy::Periodic));
        assert_eq!(strategies_due(&observations), every);
    }

    #[test]
    fn pressure_has_priority_and_repeats_only_after_activity_and_a_gap() {
        let observations: Vec<_> = (0..100).map(|second| (second, 1, 901)).collect();
        assert_eq!(strategies_due(&observations), [(0, Strategy::Pressure)], "nothing new since");
        let config = config();
        let mut past = Past::new(&at(0, 1, 901));
        past.cleaned(Strategy::Pressure, Duration::ZERO, 1, false);
        for (millis, expected) in [(100, None), (899, None), (900, Some(Strategy::Pressure))] {
            let seen = Observed { now: Duration::from_millis(millis), ..at(0, 2, 901) };
            past.record(&seen);
            assert_eq!(due(&config, &seen, &past), expected, "{millis} ms");
        }
        let just_full = at(5, 2, 900);
        assert_eq!(due(&config, &just_full, &past), None, "at the threshold, not above");
        let short = Observed { level: MemoryPressureLevel::High, ..just_full };
        assert_eq!(due(&config, &short, &past), Some(Strategy::Pressure));
        let low = Observed { level: MemoryPressureLevel::Medium, ..just_full };
        assert_eq!(due(&config, &low, &past), None);
    }

    #[test]
    fn interrupted_cleanups_continue_without_new_activity() {
        let mut past = Past::new(&at(0, 7, 5));
        past.cleaned(Strategy::Idle, 30 * SECOND, 7, true);
        assert_eq!(due(&config(), &at(30, 7, 5), &past), None, "the gap");
        assert_eq!(due(&config(), &at(31, 7, 5), &past), Some(Strategy::Idle));
        past.cleaned(Strategy::Idle, 31 * SECOND, 7, false);
        assert_eq!(due(&config(), &at(1000, 7, 5), &past), None);
        let short = Observed { level: MemoryPressureLevel::Critical, ..at(1000, 7, 5) };
        assert_eq!(due(&config(), &short, &past), Some(Strategy::Pressure), "it does more");
        past.cleaned(Strategy::Pressure, 1000 * SECOND, 7, false);
        assert_eq!(due(&config(), &Observed { now: 2000 * SECOND, ..short }, &past), None);
    }

    #[test]
    fn the_next_observation_is_when_a_strategy_can_be_due() {
        let config = config();
        let mut past = Past::new(&at(0, 1, 5));
        assert_eq!(next_check(&config, &at(0, 1, 5), &past), 5 * SECOND, "the system is observed");
        assert_eq!(next_check(&config, &at(28, 1, 5), &past), 2 * SECOND);
        past.cleaned(Strategy::Idle, 30 * SECOND, 1, false);
        assert_eq!(next_check(&config, &at(30, 1, 5), &past), OBSERVATION_INTERVAL);
        assert_eq!(next_check(&config, &at(30, 2, 950), &past), Duration::from_millis(900));
        let mut odd = CleanupConfig { idle_cleanup_interval: Duration::ZERO, ..config };
        assert_eq!(next_check(&odd, &at(50, 1, 5), &past), 9 * config.max_cleanup_time, "the gap");
        odd.idle_cleanup_interval = Duration::MAX;
        odd.max_cleanup_time = Duration::MAX;
        assert_eq!(next_check(&odd, &at(50, 2, 5), &past), OBSERVATION_INTERVAL);
        assert_eq!(due(&odd, &at(50, 2, 5), &past), None);
    }

    #[test]
    fn work_follows_the_strategy() {
        let config = config();
        let interval = Some(config.idle_cleanup_interval);
        let zero = Some(Duration::ZERO);
        let work = |move_idle_for, compress_idle_for| Work { move_idle_for, compress_idle_for };
        assert_eq!(Strategy::Pressure.work(&config), work(zero, interval));
        assert_eq!(Strategy::Idle.work(&config), work(zero, None));
        assert_eq!(Strategy::Periodic.work(&config), work(interval, None));
        let still = CleanupConfig { enable_compaction: false, ..config };
        assert_eq!(Strategy::OnDemand.work(&still), Work::default());
        for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
            assert_eq!(strategy as usize, index);
        }
    }
}
