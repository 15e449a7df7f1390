//! The sum of many integers at memory bandwidth.

/// The sum of `words` modulo 2⁶⁴, read with the widest loads that this processor has: a probe of memory bandwidth.
pub fn sum_words(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_avx2(words) };
    }
    sum(words)
}

/// With loads of 256 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u64]) -> u64 {
    sum(words)
}

/// Sixteen independent sums, so that the loads never wait for an addition.
#[inline(always)]
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    let chunks = words.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(word);
        }
    }
    lanes.iter().chain(rest).fold(0, |a, &b| a.wrapping_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_added() {
        for n in [0u64, 1, 15, 16, 17, 1000] {
            let words: Vec<u64> = (0..n).collect();
            assert_eq!(sum_words(&words), n * n.saturating_sub(1) / 2);
            assert_eq!(sum(&words), sum_words(&words));
        }
        assert_eq!(sum_words(&[u64::MAX, 2]), 1);
    }
}
