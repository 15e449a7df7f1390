//! The sorted magnitudes of many weights.

use crate::stored::Stored;
use crate::ternarize::Tally;

/// The number of magnitudes stored individually before those of 16-bit types are counted instead.
const KEPT: usize = 1 << 16;

/// Magnitudes of weights, stored individually or, for types with few values, as counts.
#[derive(Debug, Default)]
pub(crate) struct Magnitudes {
    /// Bits of f32 without the sign, ordered like the values.
    bits: Vec<u32>,
    /// The count of the bits `index << shift`; empty if nothing was counted.
    counts: Vec<u64>,
    shift: u32,
}

impl Magnitudes {
    /// Adds weights; returns false if one is not finite.
    #[inline(always)]
    pub(crate) fn add<S: Stored>(&mut self, weights: &[S::Raw]) -> bool {
        let magnitude = |&raw: &S::Raw| S::value(raw).abs().to_bits();
        let largest = weights.iter().map(magnitude).fold(0, u32::max);
        self.bits.extend(weights.iter().map(magnitude));
        if S::SHIFT > 0 && self.bits.len() >= KEPT {
            self.shift = S::SHIFT;
            self.count();
        }
        largest < f32::INFINITY.to_bits()
    }

    /// Converts stored magnitudes to counts. Every magnitude ends in `shift` zeros.
    fn count(&mut self) {
        self.counts.resize((f32::INFINITY.to_bits() >> self.shift) as usize + 1, 0);
        for bits in self.bits.drain(..) {
            // Non-finite numbers are rejected later and may be counted in the last entry.
            let index = ((bits >> self.shift) as usize).min(self.counts.len() - 1);
            self.counts[index] += 1;
        }
    }

    /// Returns the magnitude with the rank `rank` in ascending order; 0 if empty.
    pub(crate) fn ranked(mut self, rank: usize) -> f32 {
        if self.counts.is_empty() {
            if rank >= self.bits.len() {
                return 0.0;
            }
            let (_, bits, _) = self.bits.select_nth_unstable(rank);
            return f32::from_bits(*bits);
        }
        self.count();
        let mut before = 0;
        for (index, count) in self.counts.iter().enumerate() {
            before += count;
            if before > rank as u64 {
                return f32::from_bits((index as u32) << self.shift);
            }
        }
        0.0
    }

    /// Iterates over every magnitude and its count in descending order. A magnitude may occur several times in a row.
    pub(crate) fn descending(mut self, mut visit: impl FnMut(f32, u64)) {
        if self.counts.is_empty() {
            self.bits.sort_unstable();
            self.bits.iter().rev().for_each(|&bits| visit(f32::from_bits(bits), 1));
            return;
        }
        self.count();
        for (index, &count) in self.counts.iter().enumerate().rev() {
            if count > 0 {
                visit(f32::from_bits((index as u32) << self.shift), count);
            }
        }
    }
}

impl Tally for Magnitudes {
    /// Merges magnitudes of weights of the same type.
    fn join(&mut self, mut next: Self) {
        if !next.counts.is_empty() && self.counts.is_empty() {
            std::mem::swap(self, &mut next);
        }
        self.bits.append(&mut next.bits);
        for (count, more) in self.counts.iter_mut().zip(next.counts) {
            *count += more;
        }
        if !self.counts.is_empty() {
            self.count();
        }
    }

    /// Merges magnitudes into the last of `all`; their order is irrelevant.
    fn collect(all: &mut Vec<Self>, next: Self) {
        match all.last_mut() {
            Some(last) => last.join(next),
            None => all.push(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::{LeBf16, LeF16, Native};
    use bitnet_core::rng::SplitMix64;
    use half::{bf16, f16};

    fn listed(magnitudes: Magnitudes) -> Vec<f32> {
        let mut all = Vec::new();
        magnitudes
            .descending(|value, count| all.extend(std::iter::repeat_n(value, count as usize)));
        all
    }

    fn check<S: Stored>(raws: &[S::Raw]) {
        let mut expected: Vec<f32> = raws.iter().map(|&raw| S::value(raw).abs()).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let tally = |parts: usize| {
            let mut all = Magnitudes::default();
            for part in raws.chunks(raws.len().div_ceil(parts)) {
                let mut next = Magnitudes::default();
                assert!(next.add::<S>(part));
                all.join(next);
            }
            all
        };
        for parts in [1, 2, 9] {
            assert_eq!(listed(tally(parts)), expected);
            for rank in [0, raws.len() / 3, raws.len() - 1] {
                assert_eq!(tally(parts).ranked(rank), expected[raws.len() - 1 - rank]);
            }
        }
    }

    #[test]
    fn counted_and_stored_magnitudes_have_equal_order() {
        let mut random = SplitMix64::new(3);
        let values: Vec<f32> = (0..3 * KEPT).map(|_| random.normal_pair()[0] as f32).collect();
        check::<Native>(&values);
        check::<Native>(&values[..7]);
        let halves: Vec<_> = values.iter().map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        check::<LeF16>(&halves);
        check::<LeF16>(&halves[..KEPT + 1]);
        let bfloats: Vec<_> = values.iter().map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        check::<LeBf16>(&bfloats);
        check::<LeBf16>(&bfloats[..9]);
    }

    #[test]
    fn non_finite_weights_are_errors() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!Magnitudes::default().add::<Native>(&[1.0, bad]));
            let many = vec![bf16::from_f32(bad).to_le_bytes(); KEPT];
            assert!(!Magnitudes::default().add::<LeBf16>(&many));
        }
        assert_eq!(Magnitudes::default().ranked(0), 0.0);
    }
}
