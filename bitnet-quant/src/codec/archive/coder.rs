//! An adaptive binary range coder of 32 bits.
//!
//! Encoder and decoder use the same integer arithmetic, so they agree on every machine.

/// Bits of a probability's state.
const FINE: u32 = 22;
/// Bits of a probability in the coder.
const BITS: u32 = 16;
/// The minimum probability.
const LEAST: u32 = 32;
/// The number of decisions after which the adaptation rate is constant.
const SLOWEST: u16 = 1022;
/// Below this limit the range is renormalised by one byte.
const SHORT: u32 = 1 << 24;

/// The adaptive probability that a decision is `false`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Learned {
    probability: u32,
    seen: u16,
}

impl Learned {
    pub(super) const NEW: Self = Self { probability: 1 << (FINE - 1), seen: 0 };

    /// Returns the part of a range that represents `false`.
    #[inline]
    fn bound(self, range: u32) -> u32 {
        let probability = (self.probability >> (FINE - BITS)).clamp(LEAST, (1 << BITS) - LEAST);
        (range >> BITS) * probability
    }

    #[inline]
    fn learn(&mut self, decision: bool) {
        let pace = u32::from(self.seen) + 2;
        if decision {
            self.probability -= self.probability / pace;
        } else {
            self.probability += ((1 << FINE) - self.probability) / pace;
        }
        self.seen = (self.seen + 1).min(SLOWEST);
    }
}

/// Encodes decisions to bytes.
#[derive(Debug)]
pub(super) struct Encoder {
    out: Vec<u8>,
    low: u64,
    range: u32,
    /// The pending last byte, which a carry may still change, and the number of 255s after it.
    held: u8,
    full: usize,
    first: bool,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { out: Vec::new(), low: 0, range: u32::MAX, held: 0, full: 0, first: true }
    }

    #[inline]
    pub(super) fn put(&mut self, learned: &mut Learned, decision: bool) {
        let bound = learned.bound(self.range);
        if decision {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learned.learn(decision);
        while self.range < SHORT {
            self.range <<= 8;
            self.shift();
        }
    }

    /// Shifts the top byte of `low` out.
    fn shift(&mut self) {
        let carry = (self.low >> 32) as u8;
        if self.low < 0xff00_0000 || carry == 1 {
            if !self.first {
                self.out.push(self.held.wrapping_add(carry));
            }
            self.first = false;
            let full = std::mem::take(&mut self.full);
            self.out.extend(std::iter::repeat_n(0xffu8.wrapping_add(carry), full));
            self.held = (self.low >> 24) as u8;
        } else {
            self.full += 1;
        }
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    /// Finishes and returns all bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.out
    }
}

/// Decodes bytes to decisions. Reads zeros after the last byte.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    bytes: std::slice::Iter<'a, u8>,
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { bytes: bytes.iter(), code: 0, range: u32::MAX };
        for _ in 0..4 {
            decoder.next_byte();
        }
        decoder
    }

    fn next_byte(&mut self) {
        self.code = (self.code << 8) | u32::from(self.bytes.next().copied().unwrap_or(0));
    }

    #[inline]
    pub(super) fn take(&mut self, learned: &mut Learned) -> bool {
        let bound = learned.bound(self.range);
        let decision = self.code >= bound;
        if decision {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        learned.learn(decision);
        while self.range < SHORT {
            self.range <<= 8;
            self.next_byte();
        }
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any decisions in any contexts round-trip.
        #[test]
        fn decisions_come_back(
            decisions in proptest::collection::vec((0usize..3, any::<bool>()), 0..3000),
            run in 0usize..5000,
        ) {
            let mut all = decisions.clone();
            all.extend(std::iter::repeat_n((1, true), run));
            all.extend(decisions);
            let mut encoder = Encoder::new();
            let mut learned = [Learned::NEW; 3];
            for &(which, decision) in &all {
                encoder.put(&mut learned[which], decision);
            }
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            let mut learned = [Learned::NEW; 3];
            for &(which, decision) in &all {
                prop_assert_eq!(decoder.take(&mut learned[which]), decision);
            }
        }

        /// Any bytes decode without overflow.
        #[test]
        fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = Decoder::new(&bytes);
            let mut learned = Learned::NEW;
            for _ in 0..5000 {
                decoder.take(&mut learned);
            }
        }
    }

    #[test]
    fn the_length_is_the_entropy() {
        let mut state = 1u64;
        let mut encoder = Encoder::new();
        let mut learned = Learned::NEW;
        let count = 200_000;
        for _ in 0..count {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            encoder.put(&mut learned, (state >> 33).is_multiple_of(10));
        }
        let bits = encoder.finish().len() as f64 * 8.0 / f64::from(count);
        let entropy = -(0.1f64 * 0.1f64.log2() + 0.9 * 0.9f64.log2());
        assert!((entropy - 0.01..entropy * 1.01).contains(&bits), "{bits} bits, entropy {entropy}");
    }
}
