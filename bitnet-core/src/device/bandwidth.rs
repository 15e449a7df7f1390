//! Measurement of memory bandwidth.

use std::hint::black_box;
use std::ops::Range;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::memory::{HybridMemoryPool, MemoryPoolConfig, PoolBuffer};
use crate::simd::sum_words;

/// Elements between two checks of the clock: 1 MiB.
const STRIDE: usize = (1 << 20) / size_of::<f64>();

/// The part of each thread is a multiple of this many elements: a huge page.
const PART: usize = (2 << 20) / size_of::<f64>();

/// How many times the caches the arrays are: of a cyclic traversal of so much, no cache holds a noticeable part.
const TIMES_CACHES: usize = 4;

/// The least working set where caches are small or unknown.
const LEAST_BYTES: usize = 256 << 20;

/// Rounds of reading, and of each other kind of work. The sustained figure is their median.
const READ_ROUNDS: usize = 25;
const WRITE_ROUNDS: usize = 5;

/// The duration of a round.
const ROUND: Duration = Duration::from_millis(20);

/// The longest initial fill of the arrays; the rest of them is not used. A virtual machine may get its memory from the
/// host only when it touches it first, which can take several times as long.
const FILL: Duration = Duration::from_millis(1500);

/// Memory bandwidth with several threads, in bytes per second: the median of rounds of 20 ms, unless stated otherwise.
///
/// Bytes are counted as in STREAM: those that the program reads and writes, without reads for ownership.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MemoryBandwidth {
    /// Reading.
    pub read: f64,
    /// Reading, in the best round.
    pub best_read: f64,
    /// `a[i] = b[i]`: 16 bytes for each i.
    pub copy: f64,
    /// `a[i] = b[i] + s · c[i]`: 24 bytes for each i.
    pub triad: f64,
    /// The threads that took part.
    pub threads: usize,
    /// Bytes of the arrays of all threads together. With less than about twice
    /// [`super::DeviceCapabilities::outer_cache_bytes`], the figures may be those of the caches.
    pub working_set: usize,
}

impl MemoryBandwidth {
    /// Measures with up to `threads` threads and `bytes` bytes in all, of which each thread takes whole huge pages, and
    /// leaves those out that it could not write to in a second and a half. `None` if memory or threads are refused, or
    /// if `bytes` is less than 2 MiB for each thread.
    pub(super) fn measure(threads: usize, bytes: usize) -> Option<Self> {
        let threads = threads.max(1);
        let part = bytes / size_of::<f64>() / threads / PART * PART;
        if part == 0 {
            return None;
        }
        // A pool backs large blocks with huge pages.
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).ok()?;
        let mut array = PoolBuffer::<f64>::scratch(part * threads, &pool).ok()?;
        let parts = together(array.chunks_exact_mut(part), part_of_one);
        let [read, copy, triad] = [0, 1, 2].map(|kind| sums(&parts, kind));
        Some(Self {
            read: median(&read)?,
            best_read: *read.last()?,
            copy: median(&copy)?,
            triad: median(&triad)?,
            threads: parts.len(),
            working_set: parts.iter().map(|part| part.bytes).sum(),
        })
    }
}

/// How many bytes to measure with, given those of the caches and of the available memory.
pub(super) fn bytes_beyond(caches: usize, available: Option<u64>) -> usize {
    let wanted = LEAST_BYTES.max(TIMES_CACHES.saturating_mul(caches));
    let spare = available.map_or(u64::MAX, |bytes| bytes / 4);
    usize::try_from(spare).map_or(wanted, |spare| spare.min(wanted))
}

struct Part {
    bytes: usize,
    /// Bytes per second of each round: of reading, copying and the triad.
    rates: [Vec<f64>; 3],
}

/// The bytes per second of all threads in each round of a kind of work, the slowest first.
fn sums(parts: &[Part], kind: usize) -> Vec<f64> {
    let rounds = parts.iter().map(|part| part.rates[kind].len()).min().unwrap_or(0);
    let of_round = |round: usize| parts.iter().map(|part| part.rates[kind][round]).sum::<f64>();
    let mut sums: Vec<f64> = (0..rounds).map(of_round).collect();
    sums.sort_by(f64::total_cmp);
    sums
}

fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// One thread's part, which it fills, so that the pages are on its node.
fn part_of_one(array: &mut [f64], barrier: &Barrier) -> Part {
    let start = Instant::now();
    let mut len = 0;
    while len < array.len() && start.elapsed() < FILL {
        array[len..len + STRIDE].fill(1.0);
        len += STRIDE;
    }
    let array = &mut array[..len];
    let read = rates(READ_ROUNDS, barrier, len, 1, |at| {
        black_box(sum_words(bytemuck::cast_slice(&array[at])));
    });
    let (a, b) = array.split_at_mut(len / 2);
    let copy = rates(WRITE_ROUNDS, barrier, a.len(), 2, |at| {
        black_box(&mut a[at.clone()]).copy_from_slice(&b[at]);
    });
    let (a, rest) = array.split_at_mut(len / 3);
    let (b, c) = rest.split_at(len / 3);
    let triad = rates(WRITE_ROUNDS, barrier, a.len(), 3, |at| {
        let sources = b[at.clone()].iter().zip(&c[at.clone()]);
        for (a, (b, c)) in black_box(&mut a[at]).iter_mut().zip(sources) {
            *a = b + 3.0 * c;
        }
    });
    Part { bytes: size_of_val(array), rates: [read, copy, triad] }
}

/// The bytes per second of each round of `work` on ranges of `len` elements, in `arrays` arrays, one after another.
/// Each round continues where the last one stopped, so that short rounds do not measure a cache. All threads begin a
/// round together: starting them is not timed.
fn rates(
    rounds: usize,
    barrier: &Barrier,
    len: usize,
    arrays: usize,
    mut work: impl FnMut(Range<usize>),
) -> Vec<f64> {
    let mut at = 0;
    let mut round = || {
        barrier.wait();
        let mut elements = 0;
        let start = Instant::now();
        loop {
            let end = (at + STRIDE).min(len);
            work(at..end);
            elements += end - at;
            at = if end == len { 0 } else { end };
            let elapsed = start.elapsed();
            if elapsed >= ROUND {
                return (elements * arrays * size_of::<f64>()) as f64 / elapsed.as_secs_f64();
            }
        }
    };
    (0..rounds).map(|_| round()).collect()
}

/// The results of `work` on each part, in a thread for each; of fewer parts if the system refuses to start more. All of
/// the threads share the barrier.
fn together<P: Send, R: Send>(
    parts: impl Iterator<Item = P>,
    work: impl Fn(P, &Barrier) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = parts
            .map_while(|part| {
                let (start, started) = mpsc::channel::<Arc<Barrier>>();
                let body = move || started.recv().ok().map(|barrier| work(part, &barrier));
                Some((start, Builder::new().spawn_scoped(scope, body).ok()?))
            })
            .collect();
        let barrier = Arc::new(Barrier::new(started.len()));
        for (start, _) in &started {
            // Every started thread waits for this message.
            let _ = start.send(Arc::clone(&barrier));
        }
        let joined = started.into_iter().map(|(_, thread)| thread.join());
        joined.filter_map(|result| result.ok().flatten()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, DeviceCapabilities};

    #[test]
    fn bandwidth_is_measured_within_its_memory() {
        let measured = MemoryBandwidth::measure(2, 25 << 20).unwrap();
        assert!(measured.working_set <= 24 << 20 && measured.threads == 2, "{measured:?}");
        assert!(measured.best_read >= measured.read, "{measured:?}");
        for rate in [measured.read, measured.copy, measured.triad] {
            assert!(rate.is_finite() && rate > 1e7, "{measured:?}");
        }
        assert_eq!(MemoryBandwidth::measure(2, 3 << 20), None, "less than a huge page for each");
        assert_eq!(MemoryBandwidth::measure(1, isize::MAX as usize), None);
    }

    #[test]
    fn arrays_exceed_the_caches_within_available_memory() {
        assert_eq!(bytes_beyond(0, None), 256 << 20);
        assert_eq!(bytes_beyond(480 << 20, Some(64 << 30)), 1920 << 20);
        assert_eq!(bytes_beyond(480 << 20, Some(4 << 30)), 1 << 30);
    }

    #[test]
    fn sustained_figures_are_medians_of_all_threads_together() {
        let part = |read: [f64; 3]| Part { bytes: 8, rates: [read.to_vec(), vec![], vec![1.0]] };
        let parts = [part([1.0, 9.0, 2.0]), part([10.0, 20.0, 70.0])];
        assert_eq!(sums(&parts, 0), [11.0, 29.0, 72.0]);
        assert_eq!(median(&sums(&parts, 0)), Some(29.0));
        assert_eq!((median(&sums(&parts, 1)), median(&sums(&parts, 2))), (None, Some(2.0)));
    }

    #[test]
    fn device_bandwidth_is_measured_once() {
        let first = DeviceCapabilities::for_device(&Device::Cpu);
        let second = DeviceCapabilities::for_device(&Device::Cpu);
        assert_eq!(first.memory_bandwidth, second.memory_bandwidth);
        let measured = first.memory_bandwidth.unwrap();
        assert_eq!(first.memory_bandwidth_gbps, measured.read / 1e9);
        let unmeasured = DeviceCapabilities::without_bandwidth(&Device::Cpu);
        assert_eq!((unmeasured.memory_bandwidth, unmeasured.memory_bandwidth_gbps), (None, 0.0));
    }
}
