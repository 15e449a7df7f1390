//! Tests of counts and totals under concurrency.

use std::sync::atomic::AtomicBool;

use super::*;

#[test]
fn a_reader_waits_for_a_flush_to_finish() {
    let stats = LocalStats::new(Key::new(1, Purpose::General), 0, Sampler::none());
    let live = LiveBytes::default();
    for _ in 0..3 {
        stats.count_allocation(64, Purpose::General, &live);
    }
    std::thread::scope(|scope| {
        // Half a flush: the counters are empty, and their values not yet added.
        let flush = lock(&stats.flushing);
        let allocated = stats.allocated.swap(0, Ordering::Relaxed);
        let reader = scope.spawn(|| {
            let mut sum = Totals::default();
            stats.add_to(&mut sum);
            (sum.allocations, sum.live[Purpose::General.index()])
        });
        // The reader waits until the flush is complete.
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        assert!(!reader.is_finished());
        stats.allocated.store(allocated, Ordering::Relaxed);
        drop(flush);
        assert_eq!(reader.join().unwrap(), (3, 192));
    });
}

#[test]
fn large_frees_by_another_thread_are_counted_beyond_4_gib() {
    let stats = LocalStats::new(Key::new(1, Purpose::General), 0, Sampler::none());
    let live = LiveBytes::default();
    for count in 1..=200u64 {
        let (bytes, _) = stats.count_large_freed(COUNTED, &live);
        stats.end_large(bytes, Purpose::General);
        let mut sum = Totals::default();
        stats.add_to(&mut sum);
        assert_eq!(sum.deallocations, count);
        assert_eq!(sum.live[Purpose::General.index()], -((count * COUNTED as u64) as i64));
    }
}

#[test]
fn concurrent_totals_are_consistent() {
    const BLOCKS: u64 = 20_000;
    let stats = LocalStats::new(Key::new(1, Purpose::General), 0, Sampler::none());
    let live = LiveBytes::default();
    let purpose = |at: u64| Purpose::ALL[at as usize / 3 % Purpose::ALL.len()];
    for at in 0..BLOCKS {
        stats.count_allocation(64, purpose(at), &live);
    }
    let (over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                let mut sum = Totals::default();
                stats.add_to(&mut sum);
                // A pool ends when these two are equal.
                assert_eq!(sum.allocations, BLOCKS);
                assert!(sum.deallocations >= last && sum.deallocations < BLOCKS);
                last = sum.deallocations;
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        for at in 0..BLOCKS - 1 {
            // The reader keeps reading all the time.
            let seen = reads.load(Ordering::Relaxed);
            while at % 64 == 0 && reads.load(Ordering::Relaxed) == seen && !reader.is_finished() {
                std::thread::yield_now();
            }
            // Two frees of three are counted by the counter, the third after a flush.
            if at % 3 == 0 {
                stats.count_bytes_freed(64, purpose(at), &live);
                stats.count_deallocation();
            } else {
                let (bytes, _) = stats.count_large_freed(64, &live);
                stats.end_large(bytes, purpose(at));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let mut sum = Totals::default();
    stats.add_to(&mut sum);
    assert_eq!((sum.allocations, sum.deallocations), (BLOCKS, BLOCKS - 1));
    assert_eq!(sum.live.iter().sum::<i64>(), 64);
    assert!(sum.live[purpose(BLOCKS - 1).index()] == 64);
}
