//! Fixed input: pseudo-random numbers, ternary matrices and dense matrices.

use bitnet_core::backend::dense::{DenseRows, PlainType};
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Result, reference};

/// A fixed sequence of pseudo-random numbers.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Returns 31 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Returns a number in -1..1.
    pub fn float(&mut self) -> f32 {
        self.bits() as f32 / (1u32 << 30) as f32 - 1.0
    }

    /// Returns `n` numbers in -1..1.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Returns a matrix of random trits and scales.
    ///
    /// # Panics
    /// If the granularity does not fit the columns.
    pub fn matrix(
        &mut self,
        rows: usize,
        cols: usize,
        granularity: ScaleGranularity,
    ) -> TernaryMatrix {
        let trits: Vec<i8> = (0..rows * cols).map(|_| (self.bits() % 3) as i8 - 1).collect();
        let scales = self.floats(granularity.scale_count(rows, cols).unwrap());
        TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap()
    }
}

/// A dense matrix whose bytes begin at an odd address.
#[derive(Debug)]
pub struct Rows {
    rows: usize,
    cols: usize,
    plain: PlainType,
    shown: bool,
    bytes: Vec<u8>,
    start: usize,
}

impl Rows {
    /// Rounds the values to `plain`; [`DenseRows::plain`] returns them if `shown`.
    pub fn new(rows: usize, cols: usize, values: &[f32], plain: PlainType, shown: bool) -> Self {
        let mut bytes = Vec::with_capacity(1 + rows * cols * 4);
        // An allocation begins at an even address.
        bytes.push(0);
        for &value in values {
            match plain {
                PlainType::F32 => bytes.extend(value.to_le_bytes()),
                PlainType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                PlainType::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            }
        }
        Self { rows, cols, plain, shown, bytes, start: 1 }
    }

    /// The values as they are.
    pub fn plain_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        Self::new(rows, cols, values, PlainType::F32, true)
    }

    /// Returns the values after rounding.
    pub fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        reference::to_f32(self.plain, &self.bytes[self.start..], &mut out);
        out
    }
}

impl DenseRows for Rows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn type_name(&self) -> &'static str {
        "test"
    }

    fn bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values()[row * self.cols..(row + 1) * self.cols]);
        Ok(())
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        self.shown.then(|| (self.plain, &self.bytes[self.start..]))
    }
}
