//! The recorder of a pool: its live allocations with line and age, and its last events.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::live::{LiveTable, Peaks, Record, hash};
use super::profiler::{OperationFigures, Profiler};
use super::timeline::{EventKind, Ring, Timeline, TimelineEvent};
use super::{
    AllocationEvent, DeallocationEvent, LatencyKind, LatencySummary, LeakReport, PatternReport,
    PressureMonitor, TrackingConfig, TrackingLevel, threads,
};
use crate::memory::Purpose;
use crate::memory::heap::sampling;
use crate::os::clock;
use crate::sync::lock;

/// Shards, by address; a power of two.
const SHARDS: usize = 16;
/// Events of a shard at level Detailed.
const DETAILED_EVENTS: usize = 1024;
/// Events of a shard at level Standard.
const STANDARD_EVENTS: usize = 256;

/// The records of some addresses, in a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(Mutex<Part>);

#[derive(Debug)]
struct Part {
    live: LiveTable,
    ring: Ring,
}

/// Records the events of a pool, at the level of its configuration. Every method may be called by any thread.
///
/// | level | recorded |
/// |---|---|
/// | None, Basic | nothing |
/// | Standard | each allocation from 4 KiB on, and one in about 4 KiB of the smaller ones, with its end |
/// | Detailed | every allocation and its end, and latencies |
///
/// Memory is bounded by the number of live recorded allocations, at most three slots for two of them, and a fixed
/// number of events. If the system has no memory for another record, it is counted in [`Tracker::lost`] and left out.
#[derive(Debug)]
pub struct Tracker {
    config: TrackingConfig,
    /// When it was made, in nanoseconds of [`clock`].
    start: u64,
    /// Empty below level Standard.
    shards: Box<[Shard]>,
    sequence: AtomicU64,
    failed: AtomicU64,
    largest_failed: AtomicU64,
    lost: AtomicU64,
    profiler: Profiler,
    peaks: Peaks,
    pressure: Option<PressureMonitor>,
}

impl Tracker {
    /// A tracker that watches this system's memory, if so configured.
    pub fn new(config: TrackingConfig) -> Self {
        let monitor = config
            .enable_pressure_detection
            .then(|| PressureMonitor::new(config.pressure_threshold_ratio));
        Self::with_monitor(config, monitor)
    }

    /// A tracker with this pressure monitor, or none.
    pub fn with_monitor(config: TrackingConfig, pressure: Option<PressureMonitor>) -> Self {
        let events = match config.level {
            TrackingLevel::None | TrackingLevel::Basic => None,
            TrackingLevel::Standard => Some(STANDARD_EVENTS),
            TrackingLevel::Detailed => Some(DETAILED_EVENTS),
        };
        let shard = |events| {
            Shard(Mutex::new(Part { live: LiveTable::default(), ring: Ring::new(events) }))
        };
        Self {
            start: clock::precise(),
            shards: events.map_or_else(Box::default, |n| (0..SHARDS).map(|_| shard(n)).collect()),
            sequence: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            largest_failed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            profiler: Profiler::new(config.level == TrackingLevel::Detailed),
            peaks: Peaks::default(),
            pressure,
            config,
        }
    }

    /// How much is recorded.
    #[inline]
    pub fn level(&self) -> TrackingLevel {
        self.config.level
    }

    /// The configuration.
    pub fn config(&self) -> &TrackingConfig {
        &self.config
    }

    /// Records an allocation, at level Standard a sample; called before its handle is returned.
    #[inline]
    pub fn allocated(&self, event: &AllocationEvent) {
        let is_recorded = match self.config.level {
            TrackingLevel::None | TrackingLevel::Basic => false,
            TrackingLevel::Standard => sampling::picks(event.size),
            TrackingLevel::Detailed => true,
        };
        if is_recorded {
            self.record_allocation(event);
        }
    }

    /// Records an allocation that was sampled; at level Detailed all are.
    pub(in crate::memory) fn record_allocation(&self, event: &AllocationEvent) {
        let bytes = if self.config.level == TrackingLevel::Detailed {
            self.peaks.add(event.purpose, event.size as u64);
            event.size as u64
        } else {
            sampling::represented_bytes(event.size)
        };
        self.record(event, bytes);
    }

    /// Records the end of an allocation; called before its block can be allocated again.
    #[inline]
    pub fn deallocated(&self, event: &DeallocationEvent) {
        if self.config.level >= TrackingLevel::Standard {
            self.record_deallocation(event);
        }
    }

    /// Records that the allocation at `to` replaces the live one at `from`: it inherits line, thread and age.
    pub fn moved(&self, from: usize, to: usize, class_bytes: usize) {
        if self.shards.is_empty() {
            return;
        }
        let origin = lock(&self.shard(from).0).live.get(from).copied();
        let Some(origin) = origin else { return };
        let mut part = lock(&self.shard(to).0);
        if let Some(record) = part.live.get_mut(to) {
            (record.site, record.stamp, record.thread) = (origin.site, origin.stamp, origin.thread);
            return;
        }
        // The first was sampled, the second was not.
        drop(part);
        self.insert(Record { address: to, ..origin }, class_bytes, clock::stamp());
    }

    /// Counts an allocation of `size` bytes that failed.
    pub fn failed(&self, size: usize) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.largest_failed.fetch_max(size as u64, Ordering::Relaxed);
    }

    /// Returns the number of failed allocations, and the bytes of the largest.
    pub fn failures(&self) -> (u64, u64) {
        (self.failed.load(Ordering::Relaxed), self.largest_failed.load(Ordering::Relaxed))
    }

    /// Allocations that should have been recorded, but for which there was no memory.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records a latency, at level Detailed only. The caller decides how often it reads the clock.
    #[inline]
    pub fn latency(&self, kind: LatencyKind, nanoseconds: u64) {
        self.profiler.latency(kind, nanoseconds);
    }

    /// As [`Tracker::latency`], of a call that began at `start` and ends now.
    pub(in crate::memory) fn latency_since(&self, kind: LatencyKind, start: Instant) {
        self.latency(kind, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// The latencies of one kind; `None` below level Detailed.
    pub fn latencies(&self, kind: LatencyKind) -> Option<LatencySummary> {
        self.profiler.latencies(kind)
    }

    /// Counts a run of the operation `name` that took `nanoseconds`
    /// and moved `bytes` from or to memory; not at level None.
    pub fn operation(&self, name: &'static str, bytes: u64, nanoseconds: u64) {
        if self.config.level > TrackingLevel::None {
            self.profiler.operation(name, bytes, nanoseconds, 1);
        }
    }

    /// Times a run of the operation `name` that represents others: about one in 32 at level Standard, one in 8 at level
    /// Detailed, picked at random. A watch that is dropped counts nothing.
    #[inline]
    pub fn watch_operation(&self, name: &'static str) -> Option<OperationWatch<'_>> {
        let weight = match self.config.level {
            TrackingLevel::None | TrackingLevel::Basic => return None,
            TrackingLevel::Standard => 32,
            TrackingLevel::Detailed => 8,
        };
        sampling::one_in(weight).then(|| OperationWatch {
            tracker: self,
            name,
            weight,
            start: Instant::now(),
        })
    }

    /// The operations so far, the one with the most time first.
    pub fn operations(&self) -> Vec<OperationFigures> {
        self.profiler.operations()
    }

    /// The pressure monitor; `None` if pressure is not watched.
    pub fn pressure(&self) -> Option<&PressureMonitor> {
        self.pressure.as_ref()
    }

    /// The time since it began to record.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(clock::precise().saturating_sub(self.start))
    }

    /// The live recorded allocations of at least this age. An age may be too large by 2 us.
    pub fn leaks(&self, older_than: Duration) -> LeakReport {
        if !self.config.enable_leak_detection || self.shards.is_empty() {
            return LeakReport { older_than, ..LeakReport::default() };
        }
        let sampled = self.config.level == TrackingLevel::Standard;
        let mut records = Vec::new();
        for shard in &self.shards {
            records.extend(lock(&shard.0).live.iter().copied());
        }
        LeakReport::new(&records, older_than, clock::precise(), sampled)
    }

    pub(in crate::memory) fn records_all(&self) -> bool {
        self.config.level == TrackingLevel::Detailed && self.matches() && self.lost() == 0
    }

    /// Calls `visit` with address, size and purpose of each live recorded allocation.
    pub(in crate::memory) fn each_live(&self, mut visit: impl FnMut(usize, usize, Purpose)) {
        for shard in &self.shards {
            lock(&shard.0).live.iter().for_each(|r| visit(r.address, r.size, r.purpose));
        }
    }

    /// The peaks of live bytes for each of [`Purpose::ALL`], at level Detailed.
    pub(in crate::memory) fn peaks(&self) -> [u64; Purpose::ALL.len()] {
        self.peaks.get()
    }

    /// The last events.
    pub fn timeline(&self) -> Timeline {
        // All shards at once, so that no event is missing between two others.
        let parts: Vec<_> = self.shards.iter().map(|shard| lock(&shard.0)).collect();
        let sampled = self.config.level == TrackingLevel::Standard;
        Timeline::merge(parts.iter().map(|part| &part.ring), sampled)
    }

    /// The patterns in the last events.
    pub fn patterns(&self) -> PatternReport {
        PatternReport::of(&self.timeline())
    }

    /// The bytes of its tables.
    pub fn overhead(&self) -> usize {
        let parts = |shard: &Shard| {
            let part = lock(&shard.0);
            size_of::<Shard>() + part.live.bytes() + part.ring.bytes()
        };
        size_of::<Self>() + self.shards.iter().map(parts).sum::<usize>() + self.profiler.bytes()
    }

    fn shard(&self, address: usize) -> &Shard {
        &self.shards[(hash(address) >> 60) as usize % SHARDS]
    }

    /// Whether ends of allocations are matched with their records.
    fn matches(&self) -> bool {
        self.config.enable_leak_detection || self.config.level == TrackingLevel::Standard
    }

    fn record(&self, event: &AllocationEvent, bytes: u64) {
        let now = clock::stamp();
        let record = Record {
            address: event.address,
            size: event.size,
            bytes,
            site: event.site,
            stamp: now,
            thread: threads::number(),
            purpose: event.purpose,
        };
        self.insert(record, event.class_bytes, now);
    }

    fn insert(&self, record: Record, class_bytes: usize, now: u64) {
        let mut part = lock(&self.shard(record.address).0);
        if self.matches() {
            match part.live.insert(record) {
                Ok(None) => {}
                Ok(Some(before)) => {
                    // The end of the earlier one arrives late: it ends here, so that the timeline sums to live bytes.
                    part.ring.push(self.event(EventKind::Freed, &before, class_bytes, now));
                }
                Err(()) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        part.ring.push(self.event(EventKind::Allocated, &record, class_bytes, now));
    }

    /// Records the end of an allocation, if that was recorded.
    pub(in crate::memory) fn record_deallocation(&self, event: &DeallocationEvent) {
        if self.config.level == TrackingLevel::Detailed {
            self.peaks.subtract(event.purpose, event.size as u64);
        }
        let now = clock::stamp();
        let mut part = lock(&self.shard(event.address).0);
        if !self.matches() {
            part.ring.push(TimelineEvent {
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
                nanoseconds: now.saturating_sub(self.start),
                bytes: event.size as u64,
                class_bytes: event.class_bytes,
                site: None,
                thread: threads::number(),
                kind: EventKind::Freed,
                purpose: event.purpose,
            });
        } else if let Some(record) = part.live.remove(event.address) {
            part.ring.push(self.event(EventKind::Freed, &record, event.class_bytes, now));
        }
    }

    /// Returns an event of the allocation of `record`. The caller locks its shard, so sequence numbers grow within it.
    fn event(
        &self,
        kind: EventKind,
        record: &Record,
        class_bytes: usize,
        now: u64,
    ) -> TimelineEvent {
        TimelineEvent {
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            nanoseconds: now.saturating_sub(self.start),
            bytes: record.bytes,
            class_bytes,
            site: Some(record.site),
            thread: threads::number(),
            kind,
            purpose: record.purpose,
        }
    }
}

/// A run of an operation that is being timed.
#[derive(Debug)]
pub struct OperationWatch<'a> {
    tracker: &'a Tracker,
    name: &'static str,
    weight: u64,
    start: Instant,
}

impl OperationWatch<'_> {
    /// Counts the run, which moved `bytes` from or to memory.
    pub fn end(self, bytes: u64) {
        let nanoseconds = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.tracker.profiler.operation(self.name, bytes, nanoseconds, self.weight);
    }
}

#[cfg(test)]
mod tests;
