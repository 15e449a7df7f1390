//! How much of each limit of a pool is in use, who is told of it, and which limit a refused allocation met.

use super::core::Core;
use super::release::callbacks_wait;
use super::size_class::{CLASSES, LINE, SMALL_LIMIT};
use super::small_block::share_of_slab;
use super::tag::SIZE_LIMIT;
use super::tracking::{MemoryPressureLevel, PressureMonitor, Tracker};
use crate::error::{Error, MemoryLimit};

/// Bytes in use, and the most that there may be.
#[derive(Debug, Clone, Copy)]
struct Usage {
    used: usize,
    limit: usize,
}

impl Usage {
    fn ratio(self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

impl Core {
    fn monitor(&self) -> Option<&PressureMonitor> {
        self.tracker.as_ref().and_then(Tracker::pressure)
    }

    /// Whether each block of 1 MiB and more, and each slab, is to be told to a monitor.
    pub(super) fn watches_pressure(&self) -> bool {
        self.monitor().is_some()
    }

    /// Tells the monitor, if there is one, what is in use; its callbacks may run, so the caller holds no lock.
    #[cold]
    pub(super) fn observe_pressure(&self) {
        let Some(monitor) = self.monitor().filter(|_| !callbacks_wait()) else { return };
        let large = self.large_usage();
        // What waits in threads is counted only where it might matter, since that takes as long as many allocations.
        let most = Usage { used: self.small.out_bytes(), ..self.small_usage_limit() };
        let calm =
            monitor.level() == MemoryPressureLevel::None && !monitor.is_pressure(most.ratio());
        let small = if calm { most } else { self.small_usage() };
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        monitor.observe(used as u64, limit as u64);
    }

    /// Bytes in use and the limit, of small or of large blocks: of those of which a larger part is in use.
    pub(super) fn tightest_usage(&self) -> (u64, u64) {
        let (small, large) = (self.small_usage(), self.large_usage());
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        (used as u64, limit as u64)
    }

    /// Tells the monitor that an allocation of `size` bytes, which the limit of its kind would allow, is being refused; whether
    /// there is one. Callbacks may give memory back: the caller tries once more.
    #[cold]
    pub(super) fn announce_refusal(&self, size: usize, align: usize) -> bool {
        let Some(monitor) = self.monitor().filter(|_| !callbacks_wait()) else { return false };
        let limit =
            if is_small(size, align) { self.small.arena() } else { self.large.arena() }.limit();
        if size > limit {
            return false;
        }
        monitor.refused();
        true
    }

    /// The error for an allocation that was refused: which limit it met, or that the system had no memory.
    #[cold]
    pub(super) fn refusal(&self, size: usize, align: usize) -> Error {
        let small = is_small(size, align);
        let arena = if small { self.small.arena() } else { self.large.arena() };
        let needed = size.saturating_add(if align > LINE { align } else { 0 });
        let usage = if small { self.small_usage() } else { self.large_usage() };
        let (limit, met) = if size as u64 >= SIZE_LIMIT {
            (usize::try_from(SIZE_LIMIT).unwrap_or(usize::MAX), MemoryLimit::Block)
        } else if arena.has_room(needed) {
            (usage.limit, MemoryLimit::System)
        } else if small {
            (usage.limit, MemoryLimit::SmallPool)
        } else {
            (usage.limit, MemoryLimit::LargePool)
        };
        Error::OutOfMemory { bytes: size, live: usage.used, limit, met }
    }

    fn small_usage_limit(&self) -> Usage {
        Usage { used: 0, limit: self.small.arena().limit() }
    }

    /// What small blocks in use take of their limit.
    fn small_usage(&self) -> Usage {
        let live = self.live_blocks();
        let used = (0..CLASSES).map(|class| live[class] * share_of_slab(class)).sum();
        Usage { used, ..self.small_usage_limit() }
    }

    /// What large blocks in use take of their limit.
    fn large_usage(&self) -> Usage {
        Usage { used: self.large.occupied(), limit: self.large.arena().limit() }
    }
}

/// Whether a block of `size` bytes at a multiple of `align` comes from the slabs.
pub(super) fn is_small(size: usize, align: usize) -> bool {
    size.max(1).checked_add(align.max(LINE) - LINE).is_some_and(|whole| whole < SMALL_LIMIT)
}
