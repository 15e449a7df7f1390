//! A set of small numbers as bits, with a second level for the words that are not empty.

/// A set of numbers below a bound that is fixed when it is made.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    words: Box<[u64]>,
    /// Bit w of word w / 64: `words[w]` is not zero.
    summary: Box<[u64]>,
}

impl Bitmap {
    /// The empty set of numbers below `len`.
    pub(super) fn new(len: usize) -> Self {
        let words = len.div_ceil(64);
        Self { words: vec![0; words].into(), summary: vec![0; words.div_ceil(64)].into() }
    }

    pub(super) fn insert(&mut self, at: usize) {
        self.words[at / 64] |= 1 << (at % 64);
        self.summary[at / 4096] |= 1 << (at / 64 % 64);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.words[at / 64] &= !(1 << (at % 64));
        if self.words[at / 64] == 0 {
            self.summary[at / 4096] &= !(1 << (at / 64 % 64));
        }
    }

    /// Whether `at` is in the set; numbers beyond the bound are not.
    pub(super) fn contains(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// The smallest number in the set. A set of n numbers reads n / 4096 + 1 words.
    pub(super) fn first(&self) -> Option<usize> {
        let (at, summary) = self.summary.iter().enumerate().find(|(_, word)| **word != 0)?;
        let word = at * 64 + summary.trailing_zeros() as usize;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.summary.iter().all(|word| *word == 0)
    }

    /// The numbers in the set, smallest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(at * 64 + bit)
            })
        })
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        (self.words.len() + self.summary.len()) * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn bitmaps_behave_like_sets() {
        let mut bits = Bitmap::new(20_000);
        let mut set = BTreeSet::new();
        let mut state = 1u64;
        for _ in 0..50_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % 20_000;
            if state >> 63 == 0 {
                bits.insert(at);
                set.insert(at);
            } else {
                bits.remove(at);
                set.remove(&at);
            }
            assert_eq!(bits.first(), set.first().copied());
            assert_eq!(bits.contains(at), set.contains(&at));
        }
        assert!(bits.iter().eq(set.iter().copied()));
        assert!(!bits.contains(1 << 40));
        for at in set {
            bits.remove(at);
        }
        assert!(bits.is_empty() && bits.first().is_none());
    }
}
