//! The level and the thresholds of tracking.

use std::time::Duration;

/// The level of recording of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrackingLevel {
    /// Nothing beyond [`super::super::MemoryMetrics`].
    None,
    /// Counters per size class, fragmentation and peaks, which the allocator has anyway.
    Basic,
    /// Also site, age, pattern and timeline of each allocation of 4 KiB and more, and of a sample of the smaller ones.
    #[default]
    Standard,
    /// Also each of these for every allocation, with histograms of latency.
    Detailed,
}

/// What a pool records, and its thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackingConfig {
    /// How much is recorded.
    pub level: TrackingLevel,
    /// Whether memory pressure, of the pool and of the system, is watched and reported to callbacks.
    pub enable_pressure_detection: bool,
    /// Whether allocations are recorded with their age and line until they are freed.
    pub enable_leak_detection: bool,
    /// The part of the pool's limit above which pressure begins (0 to 1).
    pub pressure_threshold_ratio: f64,
    /// The age above which an allocation is reported as a possible leak.
    pub leak_detection_interval: Duration,
}

impl Default for TrackingConfig {
    /// Standard, with pressure and leak detection, 0.8 and 60 s.
    fn default() -> Self {
        Self {
            level: TrackingLevel::Standard,
            enable_pressure_detection: true,
            enable_leak_detection: true,
            pressure_threshold_ratio: 0.8,
            leak_detection_interval: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_from_none_to_detailed() {
        let levels = [
            TrackingLevel::None,
            TrackingLevel::Basic,
            TrackingLevel::Standard,
            TrackingLevel::Detailed,
        ];
        assert!(levels.is_sorted_by(|a, b| a < b));
        assert_eq!(
            levels.map(|level| format!("{level:?}")),
            ["None", "Basic", "Standard", "Detailed"]
        );
        assert_eq!(TrackingConfig::default().level, TrackingLevel::default());
    }
}
