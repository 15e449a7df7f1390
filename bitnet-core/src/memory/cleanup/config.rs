//! The configuration of cleanups.

use std::time::Duration;

/// When a pool is cleaned, and how long that may take.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanupConfig {
    /// How long a pool must have been idle before its free memory is released.
    pub idle_cleanup_interval: Duration,
    /// The part of the pool's limit above which it is cleaned at once (0 to 1).
    pub pressure_cleanup_threshold: f64,
    /// Whether tensors that are held by handles are moved, so that sparse memory can be released.
    pub enable_compaction: bool,
    /// The longest that one cleanup may take.
    pub max_cleanup_time: Duration,
}

impl Default for CleanupConfig {
    /// 30 s, 0.9, with compaction, 100 ms.
    fn default() -> Self {
        Self {
            idle_cleanup_interval: Duration::from_secs(30),
            pressure_cleanup_threshold: 0.9,
            enable_compaction: true,
            max_cleanup_time: Duration::from_millis(100),
        }
    }
}
