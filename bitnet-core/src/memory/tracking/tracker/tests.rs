//! Tests of the tracker.

use std::panic::Location;
use std::sync::mpsc;

use super::*;
use crate::memory::Purpose;

fn tracker(level: TrackingLevel, leaks: bool) -> Tracker {
    let config = TrackingConfig { level, enable_leak_detection: leaks, ..Default::default() };
    Tracker::with_monitor(config, None)
}

#[track_caller]
fn allocate(tracker: &Tracker, address: usize, size: usize) {
    let (class_bytes, purpose) = (size.next_multiple_of(64), Purpose::Weights);
    let site = Location::caller();
    tracker.allocated(&AllocationEvent { address, size, class_bytes, purpose, site });
}

fn free(tracker: &Tracker, address: usize, size: usize) {
    let (class_bytes, purpose) = (size.next_multiple_of(64), Purpose::Weights);
    tracker.deallocated(&DeallocationEvent { address, size, class_bytes, purpose });
}

#[test]
fn below_standard_nothing_is_recorded() {
    for level in [TrackingLevel::None, TrackingLevel::Basic] {
        let tracker = tracker(level, true);
        allocate(&tracker, 64, 1 << 20);
        tracker.latency(LatencyKind::Allocate, 10);
        assert!(!tracker.leaks(Duration::ZERO).enabled);
        assert_eq!(tracker.timeline(), Timeline::default());
        assert_eq!(tracker.latencies(LatencyKind::Allocate), None);
        assert!(tracker.overhead() < 1024);
    }
}

#[test]
fn leaks_are_reported_with_their_lines() {
    let tracker = tracker(TrackingLevel::Detailed, true);
    for at in 1..1000 {
        allocate(&tracker, at * 64, 64);
    }
    let line = line!() + 1;
    allocate(&tracker, 1 << 20, 5000);
    for at in 1..1000 {
        free(&tracker, at * 64, 64);
    }
    let report = tracker.leaks(Duration::ZERO);
    assert_eq!((report.leaks.len(), report.sites.len(), report.bytes()), (1, 1, 5000));
    let leak = &report.leaks[0];
    assert_eq!((leak.address, leak.size, leak.purpose), (1 << 20, 5000, Purpose::Weights));
    assert_eq!((leak.site.file(), leak.site.line()), (file!(), line));
    assert!(report.to_string().contains(&format!("{}:{line}", file!())), "{report}");
    assert!(tracker.leaks(Duration::from_secs(3600)).leaks.is_empty());
    free(&tracker, 1 << 20, 5000);
    assert!(tracker.leaks(Duration::ZERO).leaks.is_empty());
    assert_eq!(tracker.timeline().replay().total, 0);
}

#[test]
fn blocks_freed_by_other_threads_are_not_leaks() {
    for level in [TrackingLevel::Standard, TrackingLevel::Detailed] {
        let tracker = &tracker(level, true);
        let sizes = [64usize, 700, 5000, 40_000, 100_000];
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (sender, receiver) = mpsc::channel();
                scope.spawn(move || {
                    for at in 0..3000 {
                        let address = (thread + 1) << 40 | (at % 500 + 1) << 20 | (at / 500) << 6;
                        let size = sizes[at % sizes.len()];
                        allocate(tracker, address, size);
                        sender.send((address, size)).unwrap();
                    }
                });
                scope.spawn(move || {
                    for (address, size) in receiver {
                        free(tracker, address, size);
                        let report = lock(&tracker.shard(address).0)
                            .live
                            .iter()
                            .any(|r| r.address == address);
                        assert!(!report, "freed, but still recorded");
                    }
                });
            }
        });
        assert!(tracker.leaks(Duration::ZERO).leaks.is_empty());
        let replay = tracker.timeline().replay();
        assert_eq!(replay.total, 0);
        assert!(replay.allocations + replay.deallocations > 0);
    }
}

#[test]
fn samples_hold_every_large_block_and_estimate_the_rest() {
    let tracker = tracker(TrackingLevel::Standard, true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 1..=20_000 {
                allocate(&tracker, at << 16, 256);
            }
            for at in 1..=10 {
                allocate(&tracker, at << 40, 64 << 10);
            }
        });
    });
    let report = tracker.leaks(Duration::ZERO);
    assert!(report.sampled);
    assert_eq!(report.leaks.iter().filter(|leak| leak.size == 64 << 10).count(), 10);
    let all = (20_000 * 256 + (10 << 16)) as f64;
    // About 1212 small ones are recorded: three standard deviations are 8 %.
    assert!((report.bytes() as f64 / all - 1.0).abs() < 0.12, "{} of {all}", report.bytes());
    assert_eq!(tracker.timeline().replay().total, report.bytes() as i64);
    for at in 1..=20_000 {
        free(&tracker, at << 16, 256);
    }
    assert_eq!(tracker.leaks(Duration::ZERO).bytes(), 10 << 16);
    assert_eq!(tracker.timeline().replay().total, 10 << 16);
}

#[test]
fn without_leak_detection_the_timeline_still_balances() {
    let tracker = tracker(TrackingLevel::Detailed, false);
    for at in 1..100 {
        allocate(&tracker, at * 64, at);
        free(&tracker, at * 64, at);
    }
    let replay = tracker.timeline().replay();
    assert_eq!((replay.total, replay.peak), (0, 99));
    assert!(!tracker.leaks(Duration::ZERO).enabled);
}

#[test]
fn late_ends_invent_no_event() {
    let tracker = tracker(TrackingLevel::Detailed, true);
    allocate(&tracker, 64, 100);
    allocate(&tracker, 64, 200);
    free(&tracker, 64, 100);
    assert!(tracker.leaks(Duration::ZERO).leaks.is_empty());
    free(&tracker, 64, 200);
    assert_eq!(tracker.timeline().replay().total, 0);
    assert_eq!(tracker.timeline().events.len(), 4);
}

#[test]
fn moved_blocks_keep_their_line_and_age() {
    for level in [TrackingLevel::Standard, TrackingLevel::Detailed] {
        let tracker = tracker(level, true);
        let line = line!() + 1;
        allocate(&tracker, 1 << 20, 64 << 10);
        let stamp = tracker.leaks(Duration::ZERO).leaks[0].age;
        allocate(&tracker, 1 << 30, 64 << 10);
        tracker.moved(1 << 20, 1 << 30, 64 << 10);
        free(&tracker, 1 << 20, 64 << 10);
        let report = tracker.leaks(Duration::ZERO);
        assert_eq!((report.leaks.len(), report.leaks[0].site.line()), (1, line));
        assert!(report.leaks[0].age >= stamp);
        // To an address that was not recorded, as a sample may have it.
        tracker.moved(1 << 30, 1 << 31, 64 << 10);
        free(&tracker, 1 << 30, 64 << 10);
        let report = tracker.leaks(Duration::ZERO);
        assert_eq!((report.leaks[0].address, report.leaks[0].site.line()), (1 << 31, line));
        free(&tracker, 1 << 31, 64 << 10);
        assert!(tracker.leaks(Duration::ZERO).leaks.is_empty());
        assert_eq!(tracker.timeline().replay().total, 0);
    }
}

#[test]
fn overhead_is_bounded_by_live_allocations() {
    let tracker = tracker(TrackingLevel::Detailed, true);
    for at in 0..200_000usize {
        allocate(&tracker, (at % 1000 + 1) * 64, 64);
        free(&tracker, (at % 1000 + 1) * 64, 64);
    }
    let events = SHARDS * DETAILED_EVENTS * size_of::<TimelineEvent>();
    assert!(tracker.overhead() < events * 2 + (256 << 10), "{}", tracker.overhead());
    let timeline = tracker.timeline();
    assert_eq!(timeline.dropped + timeline.events.len() as u64, 400_000);
}
