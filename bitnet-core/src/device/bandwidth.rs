//! Measures how fast this machine reads memory.

use std::hint::black_box;
use std::time::Instant;

/// Bytes that each thread reads: beyond the last-level cache share of any processor in use.
const BYTES_PER_THREAD: usize = 128 << 20;

/// Measured sequential read bandwidth with `threads` threads, in bytes per second: the best of `rounds` rounds
/// over a buffer of 128 MiB per thread. `None` if the buffers can't be allocated.
///
/// One round takes a few tens of milliseconds per thread.
pub fn measure_read_bandwidth(threads: usize, rounds: usize) -> Option<f64> {
    let threads = threads.max(1);
    let words = BYTES_PER_THREAD / 8;
    let mut buffers = Vec::new();
    for _ in 0..threads {
        let mut buffer: Vec<u64> = Vec::new();
        buffer.try_reserve_exact(words).ok()?;
        buffer.resize(words, 0x0123_4567_89ab_cdef);
        buffers.push(buffer);
    }
    let mut best = 0f64;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(move || black_box(sum(buffer)));
            }
        });
        best = best.max((threads * BYTES_PER_THREAD) as f64 / start.elapsed().as_secs_f64());
    }
    Some(best)
}

/// Eight independent sums, so that the additions never wait for one another.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 8];
    for chunk in words.chunks_exact(8) {
        for (lane, &word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(word);
        }
    }
    lanes.iter().fold(0, |a, &b| a.wrapping_add(b))
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_read_at_a_plausible_rate() {
        let rate = super::measure_read_bandwidth(1, 1).unwrap();
        assert!(rate > 1e7, "{rate} bytes/s");
    }
}
