//! The configuration of a pool: sizes, tracking, cleanup.

use super::cleanup::CleanupConfig;
use super::tracking::TrackingConfig;

/// Sizes of a pool, and whether it is tracked and cleaned.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPoolConfig {
    /// Bytes of address space that are reserved at the start for blocks below
    /// 1 MiB. No page is touched before it is used.
    pub initial_small_pool_size: usize,
    /// The most bytes that the pool maps for blocks below 1 MiB.
    pub max_small_pool_size: usize,
    /// Bytes of address space that are reserved at the start for blocks of 1 MiB and more.
    pub initial_large_pool_size: usize,
    /// The most bytes that the pool maps for blocks of 1 MiB and more.
    pub max_large_pool_size: usize,
    /// Whether `tracking_config` is in force.
    pub enable_advanced_tracking: bool,
    /// What is recorded, if `enable_advanced_tracking` is set; `None` is the default.
    pub tracking_config: Option<TrackingConfig>,
    /// Whether a scheduler thread cleans up by `cleanup_config`.
    pub enable_automatic_cleanup: bool,
    /// When and how long the scheduler cleans, if `enable_automatic_cleanup` is set; `None` is the default.
    pub cleanup_config: Option<CleanupConfig>,
}

impl Default for MemoryPoolConfig {
    /// 64 MiB to 512 MiB for small blocks, 128 MiB to 2 GiB for large ones; neither tracked nor cleaned by itself.
    fn default() -> Self {
        Self {
            initial_small_pool_size: 64 << 20,
            max_small_pool_size: 512 << 20,
            initial_large_pool_size: 128 << 20,
            max_large_pool_size: 2 << 30,
            enable_advanced_tracking: false,
            tracking_config: None,
            enable_automatic_cleanup: false,
            cleanup_config: None,
        }
    }
}

impl MemoryPoolConfig {
    /// Bounded only by the system, with nothing reserved at the start.
    pub fn unbounded() -> Self {
        Self {
            initial_small_pool_size: 0,
            max_small_pool_size: isize::MAX as usize,
            initial_large_pool_size: 0,
            max_large_pool_size: isize::MAX as usize,
            ..Self::default()
        }
    }
}
