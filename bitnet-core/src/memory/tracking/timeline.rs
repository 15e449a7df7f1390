//! The last allocations and frees of a pool in order, and the live bytes before them.

use std::collections::VecDeque;
use std::panic::Location;
use std::time::Duration;

use crate::memory::Purpose;

/// Whether bytes were allocated or freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An allocation.
    Allocated,
    /// The end of an allocation.
    Freed,
}

/// One event of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineEvent {
    /// Its place in the order of all events of this pool, from 0.
    pub sequence: u64,
    /// When, in nanoseconds since the pool was made.
    pub nanoseconds: u64,
    /// The bytes allocated or freed: those requested or, if only a sample is recorded, those that the event represents.
    /// An allocation and its end have the same.
    pub bytes: u64,
    /// Bytes that the block occupies.
    pub class_bytes: usize,
    /// The line that made the block; `None` if it is not recorded.
    pub site: Option<&'static Location<'static>>,
    /// The number of the thread.
    pub thread: u32,
    /// Whether bytes were allocated or freed.
    pub kind: EventKind,
    /// What the block is used for.
    pub purpose: Purpose,
}

impl TimelineEvent {
    /// The bytes allocated, negative if they were freed.
    pub fn change(&self) -> i64 {
        let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        if self.kind == EventKind::Allocated { bytes } else { -bytes }
    }
}

/// A ring of the last events of one shard. When it is full the oldest are dropped, but for their sum and number.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<TimelineEvent>,
    capacity: usize,
    dropped: u64,
    dropped_change: i64,
    /// The sequence number after that of the last event dropped.
    begins: u64,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { events: VecDeque::new(), capacity, dropped: 0, dropped_change: 0, begins: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.events.capacity() * size_of::<TimelineEvent>()
    }

    /// Adds an event. Without memory for it, the oldest is dropped early.
    pub(super) fn push(&mut self, event: TimelineEvent) {
        if self.events.len() >= self.capacity
            || (self.events.len() == self.events.capacity() && self.events.try_reserve(1).is_err())
        {
            match self.events.pop_front() {
                Some(oldest) => self.drop_event(oldest),
                None => return self.drop_event(event),
            }
        }
        self.events.push_back(event);
    }

    fn drop_event(&mut self, event: TimelineEvent) {
        self.dropped += 1;
        self.dropped_change = self.dropped_change.saturating_add(event.change());
        self.begins = event.sequence + 1;
    }
}

/// The last events of a pool in order, complete from its first event on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// Bytes alive before the first event.
    pub before: i64,
    /// Earlier events that were dropped.
    pub dropped: u64,
    /// Whether the events are a sample, and their bytes estimates of all.
    pub sampled: bool,
    /// The events, by sequence number without a gap.
    pub events: Vec<TimelineEvent>,
}

/// The outcome of a replay of a [`Timeline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Bytes alive after the last event.
    pub total: i64,
    /// The most bytes that were alive at a time, from before the first event on.
    pub peak: i64,
    /// Allocations among the events.
    pub allocations: u64,
    /// Ends of allocations among the events.
    pub deallocations: u64,
    /// Bytes that were allocated in all.
    pub allocated: u64,
}

impl Timeline {
    /// Merges rings into one timeline. It begins after the last event that any of them dropped: from there on it is
    /// complete; earlier events are summed.
    pub(super) fn merge<'a>(rings: impl Iterator<Item = &'a Ring> + Clone, sampled: bool) -> Self {
        let begins = rings.clone().map(|ring| ring.begins).max().unwrap_or(0);
        let mut merged = Self { sampled, ..Self::default() };
        for ring in rings {
            merged.before = merged.before.saturating_add(ring.dropped_change);
            merged.dropped += ring.dropped;
            for event in &ring.events {
                if event.sequence < begins {
                    merged.before = merged.before.saturating_add(event.change());
                    merged.dropped += 1;
                } else {
                    merged.events.push(*event);
                }
            }
        }
        merged.events.sort_unstable_by_key(|event| event.sequence);
        merged
    }

    /// The bytes alive after each event.
    pub fn levels(&self) -> impl Iterator<Item = i64> + '_ {
        self.events.iter().scan(self.before, |level, event| {
            *level = level.saturating_add(event.change());
            Some(*level)
        })
    }

    /// Replays the events.
    pub fn replay(&self) -> Replay {
        let of = |kind| self.events.iter().filter(move |event| event.kind == kind);
        Replay {
            total: self.levels().last().unwrap_or(self.before),
            peak: self.levels().max().unwrap_or(self.before).max(self.before),
            allocations: of(EventKind::Allocated).count() as u64,
            deallocations: of(EventKind::Freed).count() as u64,
            allocated: of(EventKind::Allocated).map(|event| event.bytes).sum(),
        }
    }

    /// The time from the first event to the last.
    pub fn span(&self) -> Duration {
        let time = |event: Option<&TimelineEvent>| event.map_or(0, |event| event.nanoseconds);
        let (first, last) = (time(self.events.first()), time(self.events.last()));
        Duration::from_nanos(last.saturating_sub(first))
    }

    /// The bytes alive over time in `width` characters, each as high as the level was at most in its part of the time;
    /// full height is the peak. Empty if there is no event.
    pub fn sparkline(&self, width: usize) -> String {
        const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let Some(first) = self.events.first() else { return String::new() };
        let span = self.span().as_nanos();
        // The highest and the last level of each column with an event.
        let mut columns: Vec<Option<(i64, i64)>> = vec![None; width];
        let mut level = self.before;
        for (event, after) in self.events.iter().zip(self.levels()) {
            let since = u128::from(event.nanoseconds.saturating_sub(first.nanoseconds)).min(span);
            if let Some(column) = columns.get_mut((since * width as u128 / (span + 1)) as usize) {
                let (high, _) = column.unwrap_or((level, level));
                *column = Some((high.max(after), after));
            }
            level = after;
        }
        let peak = self.replay().peak.max(1) as f64;
        let mut level = self.before;
        let bar = |column: Option<(i64, i64)>| {
            let (high, last) = column.unwrap_or((level, level));
            level = last;
            BARS[(high.max(0) as f64 / peak * 8.0).ceil().min(8.0) as usize]
        };
        columns.into_iter().map(bar).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn event(sequence: u64, nanoseconds: u64, change: i64) -> TimelineEvent {
        TimelineEvent {
            sequence,
            nanoseconds,
            bytes: change.unsigned_abs(),
            class_bytes: change.unsigned_abs() as usize,
            site: None,
            thread: 1,
            kind: if change < 0 { EventKind::Freed } else { EventKind::Allocated },
            purpose: Purpose::General,
        }
    }

    proptest! {
        #[test]
        fn a_replay_has_the_totals_and_the_peak_of_a_model(
            changes in prop::collection::vec((-1000i64..1000, 0usize..4), 0..300),
            capacity in 1usize..40,
        ) {
            let mut rings: Vec<Ring> = (0..4).map(|_| Ring::new(capacity)).collect();
            let mut levels = vec![0i64];
            for (at, &(change, ring)) in changes.iter().enumerate() {
                rings[ring].push(event(at as u64, at as u64, change));
                levels.push(levels[at] + change);
            }
            let timeline = Timeline::merge(rings.iter(), false);
            let retained = timeline.events.len();
            let begins = changes.len() - retained;
            prop_assert_eq!(timeline.dropped, begins as u64);
            prop_assert_eq!(timeline.before, levels[begins]);
            let numbers: Vec<u64> = timeline.events.iter().map(|event| event.sequence).collect();
            prop_assert_eq!(numbers, (begins as u64..changes.len() as u64).collect::<Vec<_>>());
            let replay = timeline.replay();
            prop_assert_eq!(replay.total, levels[changes.len()]);
            prop_assert_eq!(Some(&replay.peak), levels[begins..].iter().max());
            prop_assert_eq!(replay.allocations + replay.deallocations, retained as u64);
            // Events of one ring are lost only if that ring, or one that dropped later events, was full.
            prop_assert!(changes.len() > capacity || retained == changes.len());
        }
    }

    #[test]
    fn a_sparkline_shows_rise_peak_and_rest() {
        let mut ring = Ring::new(100);
        for at in 0..8 {
            ring.push(event(at, at * 10, 10));
        }
        ring.push(event(8, 159, -60));
        let timeline = Timeline::merge([&ring].into_iter(), false);
        assert_eq!(timeline.sparkline(16), "▁▂▃▄▅▆▇█████████");
        assert_eq!(timeline.sparkline(2), "██");
        assert_eq!(timeline.sparkline(0), "");
        assert_eq!(Timeline::default().sparkline(10), "");
        assert_eq!(timeline.span(), Duration::from_nanos(159));
    }
}
