//! Digests of stored bytes and of decoded weights.

use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A 128-bit digest (XXH3), for detecting errors and damage, not forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(u128);

impl Digest {
    /// Returns the digest of bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// Returns the digest of a matrix, independent of its scale granularity: the trits, and the scale of each run of up
    /// to 64 weights of a row, 0 for a run of zeros.
    pub(crate) fn of_weights(matrix: &TernaryMatrix) -> Self {
        let mut state = Xxh3::new();
        let mut bytes = Vec::new();
        for row in 0..matrix.rows() {
            bytes.clear();
            let words = matrix.row_words(row);
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            // A run is four words; padding has code 1.
            let runs = words.chunks(RUN / 16).take(matrix.cols().div_ceil(RUN));
            for (run, words) in runs.enumerate() {
                let empty = words.iter().all(|&word| word == ZEROS);
                let scale = if empty { 0.0 } else { scale_of_run(matrix, row, run) };
                bytes.extend(scale.to_le_bytes());
            }
            state.update(&bytes);
        }
        Self(state.digest128())
    }
}

/// An incremental digest.
pub(crate) struct Digester(Xxh3);

impl Digester {
    pub(crate) fn new() -> Self {
        Self(Xxh3::new())
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> Digest {
        Digest(self.0.digest128())
    }
}

/// Weights of a row that share a scale in every granularity.
const RUN: usize = 64;
/// Sixteen zero trits.
const ZEROS: u32 = 0x5555_5555;

fn scale_of_run(matrix: &TernaryMatrix, row: usize, run: usize) -> f32 {
    match matrix.granularity() {
        ScaleGranularity::Tensor => matrix.scales()[0],
        ScaleGranularity::Row => matrix.scales()[row],
        ScaleGranularity::Group(_) => matrix.scale_at(row, run * RUN),
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(trits: &[i8], granularity: ScaleGranularity, scales: Vec<f32>) -> TernaryMatrix {
        TernaryMatrix::from_trits(2, trits.len() / 2, trits, granularity, scales).unwrap()
    }

    #[test]
    fn digests_are_independent_of_granularity() {
        let mut trits = vec![0i8; 256];
        (trits[3], trits[130]) = (1, -1);
        let tensor = matrix(&trits, ScaleGranularity::Tensor, vec![0.5]);
        let row = matrix(&trits, ScaleGranularity::Row, vec![0.5, 0.5]);
        let group = matrix(&trits, ScaleGranularity::Group(64), vec![0.5, 9.0, 0.5, 8.0]);
        assert_eq!(Digest::of_weights(&tensor), Digest::of_weights(&row));
        assert_eq!(Digest::of_weights(&tensor), Digest::of_weights(&group));
        let other = matrix(&trits, ScaleGranularity::Tensor, vec![0.25]);
        assert_ne!(Digest::of_weights(&tensor), Digest::of_weights(&other));
        trits[255] = 1;
        let other = matrix(&trits, ScaleGranularity::Tensor, vec![0.5]);
        assert_ne!(Digest::of_weights(&tensor), Digest::of_weights(&other));
    }

    #[test]
    fn a_digest_is_read_back_from_its_text() {
        let digest = Digest::of(b"ternary");
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"x\"").is_err());
    }
}
