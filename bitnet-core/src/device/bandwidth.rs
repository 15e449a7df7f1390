//! Measurement of memory bandwidth.

use std::hint::black_box;
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::simd::sum_words;

/// Bytes that each thread reads repeatedly in [`read_bandwidth_rounds`].
const BYTES_PER_THREAD: usize = 128 << 20;

/// Bytes between two checks of the clock.
const STRIDE: usize = 1 << 20;

/// The duration of a round of [`read_bandwidth_rounds`].
const LONG_ROUND: Duration = Duration::from_millis(20);

/// The most bytes that [`MemoryBandwidth::of_this_machine`] allocates.
pub(super) const MOST_BYTES: usize = 128 << 20;

/// Less memory than this fits in caches.
const LEAST_BYTES: usize = 16 << 20;

/// Rounds of each kind of work, of which the best counts.
const ROUNDS: usize = 5;

/// The duration of one of them.
const SHORT_ROUND: Duration = Duration::from_millis(8);

/// The longest initial fill of the buffers; the rest of them is not used.
const FILL: Duration = Duration::from_millis(100);

/// Memory bandwidth with several threads, in bytes per second: the best of several rounds.
///
/// Bytes are counted as in STREAM: those that the program reads and writes, without reads for ownership.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MemoryBandwidth {
    /// Reading.
    pub read: f64,
    /// `a[i] = b[i]`: 16 bytes for each i.
    pub copy: f64,
    /// `a[i] = b[i] + s · c[i]`: 24 bytes for each i.
    pub triad: f64,
    /// The threads that took part.
    pub threads: usize,
    /// Bytes of all arrays together. If they fit in the last-level caches, the figures are those of the caches.
    pub working_set: usize,
}

impl MemoryBandwidth {
    /// Measures with up to `threads` threads and `bytes` bytes in all, for about a quarter of a second. `None` if
    /// memory or threads are refused, or if `bytes` is less than 16 MiB.
    pub fn measure(threads: usize, bytes: usize) -> Option<Self> {
        let threads = threads.clamp(1, (bytes / LEAST_BYTES).max(1) * 16);
        if bytes < LEAST_BYTES {
            return None;
        }
        let elements = bytes / threads / 3 / size_of::<f64>();
        let parts = together(threads, |barrier| part_of_one(elements, barrier));
        let parts: Vec<Part> = parts.into_iter().collect::<Option<_>>()?;
        let best = |kind: usize| {
            let of_round = |r: usize| parts.iter().map(|part| part.rates[r][kind]).sum::<f64>();
            (0..ROUNDS).map(of_round).max_by(f64::total_cmp).filter(|&rate| rate > 0.0)
        };
        Some(Self {
            read: best(0)?,
            copy: best(1)?,
            triad: best(2)?,
            threads: parts.len(),
            working_set: parts.iter().map(|part| part.bytes).sum(),
        })
    }
}

struct Part {
    bytes: usize,
    /// Bytes per second of reading, copying and the triad, for each round.
    rates: [[f64; 3]; ROUNDS],
}

/// One thread's part; `None` if it has no memory.
fn part_of_one(elements: usize, barrier: &Barrier) -> Option<Part> {
    // A thread without memory passes the same barriers, so that no other thread waits for it.
    let [mut a, b, c] = filled(elements).unwrap_or_default();
    let len = a.len();
    let mut walks = [Walk { len, at: 0 }; 3];
    let mut rates = [[0.0; 3]; ROUNDS];
    for of_round in &mut rates {
        for (kind, walk) in walks.iter_mut().enumerate() {
            barrier.wait();
            let elements_per_second = match kind {
                0 => walk.rate(SHORT_ROUND, |at| {
                    black_box(sum_words(bytemuck::cast_slice(&b[at.clone()])));
                    black_box(sum_words(bytemuck::cast_slice(&c[at])));
                }),
                1 => walk.rate(SHORT_ROUND, |at| {
                    black_box(&mut a[at.clone()]).copy_from_slice(&b[at]);
                }),
                _ => walk.rate(SHORT_ROUND, |at| {
                    let sources = b[at.clone()].iter().zip(&c[at.clone()]);
                    for (a, (b, c)) in black_box(&mut a[at]).iter_mut().zip(sources) {
                        *a = b + 3.0 * c;
                    }
                }),
            };
            let arrays = if kind == 2 { 3 } else { 2 };
            of_round[kind] = elements_per_second * (arrays * size_of::<f64>()) as f64;
        }
    }
    (len > 0).then_some(Part { bytes: 3 * len * size_of::<f64>(), rates })
}

/// Three arrays of one length that have been written once; shorter if that took too long, `None` if there is no memory.
fn filled(elements: usize) -> Option<[Vec<f64>; 3]> {
    let mut arrays: [Vec<f64>; 3] = Default::default();
    for array in &mut arrays {
        array.try_reserve_exact(elements).ok()?;
    }
    let start = Instant::now();
    while arrays[0].len() < elements && start.elapsed() < FILL {
        let len = (arrays[0].len() + STRIDE / size_of::<f64>()).min(elements);
        for (array, value) in arrays.iter_mut().zip([0.0, 1.0, 2.0]) {
            array.resize(len, value);
        }
    }
    Some(arrays)
}

/// A cyclic traversal of arrays of `len` eight-byte elements; each round continues where the last one stopped, so that
/// short rounds do not measure a cache.
#[derive(Clone, Copy)]
struct Walk {
    len: usize,
    at: usize,
}

impl Walk {
    /// Elements per second that `work` processes in a round.
    fn rate(&mut self, round: Duration, mut work: impl FnMut(std::ops::Range<usize>)) -> f64 {
        let mut elements = 0;
        let start = Instant::now();
        loop {
            let end = (self.at + STRIDE / size_of::<f64>()).min(self.len);
            work(self.at..end);
            elements += end - self.at;
            self.at = if end == self.len { 0 } else { end };
            let elapsed = start.elapsed();
            if elapsed >= round {
                return elements as f64 / elapsed.as_secs_f64();
            }
        }
    }
}

/// Measured sequential read bandwidth with `threads` threads, in bytes per second: the best of `rounds` rounds.
/// `None` if the buffers can't be allocated.
///
/// See [`read_bandwidth_rounds`].
pub fn measure_read_bandwidth(threads: usize, rounds: usize) -> Option<f64> {
    read_bandwidth_rounds(threads, rounds)?.last().copied()
}

/// Measured sequential read bandwidth with up to `threads` threads, in bytes per second, of each of `rounds` rounds,
/// the slowest first. `None` if the buffers of 128 MiB per thread can't be allocated, or no thread can be started.
///
/// Threads fill their own buffers (so that each is on its thread's node), wait for one another, and read until a common
/// end of the round, 20 ms later: starting threads is not timed.
pub fn read_bandwidth_rounds(threads: usize, rounds: usize) -> Option<Vec<f64>> {
    let rounds = rounds.max(1);
    let parts = together(threads.max(1), |barrier| read_rounds(rounds, barrier));
    let parts: Vec<Vec<f64>> = parts.into_iter().collect::<Option<_>>()?;
    if parts.is_empty() {
        return None;
    }
    let mut rates: Vec<f64> =
        (0..rounds).map(|round| parts.iter().map(|part| part[round]).sum()).collect();
    rates.sort_by(f64::total_cmp);
    Some(rates)
}

/// One thread's rate in each round, in bytes per second; `None` if it has no memory.
fn read_rounds(rounds: usize, barrier: &Barrier) -> Option<Vec<f64>> {
    let mut buffer: Vec<u64> = Vec::new();
    let len = BYTES_PER_THREAD / size_of::<u64>();
    let has_memory = buffer.try_reserve_exact(len).is_ok();
    if has_memory {
        buffer.resize(len, 0x0123_4567_89ab_cdef);
    }
    let mut walk = Walk { len: buffer.len(), at: 0 };
    let of_round = |_| {
        barrier.wait();
        let elements_per_second = walk.rate(LONG_ROUND, |at| {
            black_box(sum_words(&buffer[at]));
        });
        elements_per_second * size_of::<u64>() as f64
    };
    let rates = (0..rounds).map(of_round).collect();
    has_memory.then_some(rates)
}

/// The results of `work` in up to `threads` concurrent threads, fewer if the system refuses to start more. All of them
/// share the barrier.
fn together<R: Send>(threads: usize, work: impl Fn(&Barrier) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..threads)
            .map_while(|_| {
                let (start, started) = mpsc::channel::<Arc<Barrier>>();
                let body = move || started.recv().ok().map(|barrier| work(&barrier));
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
    fn read_bandwidth_is_plausible() {
        let rates = read_bandwidth_rounds(2, 3).unwrap();
        assert_eq!(rates.len(), 3);
        assert!(rates.is_sorted() && rates[0] > 1e7, "{rates:?} bytes/s");
        assert!(measure_read_bandwidth(1, 1).unwrap() > 1e7);
    }

    #[test]
    fn device_bandwidth_is_measured_within_its_memory() {
        let measured = MemoryBandwidth::measure(2, 24 << 20).unwrap();
        assert!(measured.working_set <= 24 << 20 && measured.threads == 2, "{measured:?}");
        for rate in [measured.read, measured.copy, measured.triad] {
            assert!(rate.is_finite() && rate > 1e7, "{measured:?}");
        }
        assert_eq!(MemoryBandwidth::measure(1, 1 << 20), None, "caches are not memory");
    }

    #[test]
    fn device_bandwidth_is_measured_once() {
        let first = DeviceCapabilities::for_device(&Device::Cpu);
        let second = DeviceCapabilities::for_device(&Device::Cpu);
        assert_eq!(first.memory_bandwidth, second.memory_bandwidth);
        assert_eq!(first.memory_bandwidth_gbps, first.memory_bandwidth.unwrap().read / 1e9);
        let unmeasured = DeviceCapabilities::without_bandwidth(&Device::Cpu);
        assert_eq!((unmeasured.memory_bandwidth, unmeasured.memory_bandwidth_gbps), (None, 0.0));
    }
}
