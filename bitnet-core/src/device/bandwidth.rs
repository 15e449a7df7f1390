//! Measures how fast this machine reads memory.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::simd::sum_words;

/// Bytes that each thread reads again and again: beyond the last-level cache share of any processor in use.
const BYTES_PER_THREAD: usize = 128 << 20;

/// Bytes between two looks at the clock.
const STRIDE: usize = 1 << 20;

/// How long the threads of a round read together.
const ROUND: Duration = Duration::from_millis(20);

/// Measured sequential read bandwidth with `threads` threads, in bytes per second: the best of `rounds` rounds.
/// `None` if the buffers can't be allocated.
///
/// See [`read_bandwidth_rounds`].
pub fn measure_read_bandwidth(threads: usize, rounds: usize) -> Option<f64> {
    read_bandwidth_rounds(threads, rounds)?.last().copied()
}

/// Measured sequential read bandwidth with `threads` threads, in bytes per second, of each of `rounds` rounds,
/// the slowest first. `None` if the buffers of 128 MiB per thread can't be allocated.
///
/// Threads fill their own buffers (so that each lies near its thread), wait for one another, and read until a common
/// end of the round, 20 ms later: starting threads is never timed, and all of them read all the time.
pub fn read_bandwidth_rounds(threads: usize, rounds: usize) -> Option<Vec<f64>> {
    let (threads, rounds) = (threads.max(1), rounds.max(1));
    let barrier = Barrier::new(threads);
    let impossible = AtomicBool::new(false);
    let mut rates = vec![0.0; rounds];
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| read_rounds(rounds, &barrier, &impossible)))
            .collect();
        for reader in readers {
            let of_one = reader.join().unwrap_or_default();
            rates.iter_mut().zip(of_one).for_each(|(sum, rate)| *sum += rate);
        }
    });
    if impossible.load(Ordering::SeqCst) {
        return None;
    }
    rates.sort_by(f64::total_cmp);
    Some(rates)
}

/// One thread's rate in each round, in bytes per second; nothing if any thread has no memory.
fn read_rounds(rounds: usize, barrier: &Barrier, impossible: &AtomicBool) -> Vec<f64> {
    let mut buffer: Vec<u64> = Vec::new();
    let words = BYTES_PER_THREAD / 8;
    if buffer.try_reserve_exact(words).is_err() {
        impossible.store(true, Ordering::SeqCst);
    } else {
        buffer.resize(words, 0x0123_4567_89ab_cdef);
    }
    barrier.wait();
    // Every thread sees the same answer here, so that none is left waiting at a barrier.
    if impossible.load(Ordering::SeqCst) {
        return Vec::new();
    }
    let mut strides = buffer.chunks_exact(STRIDE / 8).cycle();
    (0..rounds)
        .map(|_| {
            barrier.wait();
            let start = Instant::now();
            let mut bytes = 0;
            loop {
                if let Some(stride) = strides.next() {
                    black_box(sum_words(stride));
                    bytes += STRIDE;
                }
                let elapsed = start.elapsed();
                if elapsed >= ROUND {
                    return bytes as f64 / elapsed.as_secs_f64();
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_a_plausible_rate() {
        let rates = read_bandwidth_rounds(2, 3).unwrap();
        assert_eq!(rates.len(), 3);
        assert!(rates.is_sorted() && rates[0] > 1e7, "{rates:?} bytes/s");
        assert!(measure_read_bandwidth(1, 1).unwrap() > 1e7);
    }
}
