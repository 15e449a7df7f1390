//! What every back end must do, operation by operation, against formulas written here.
//!
//! Nothing here knows which back end runs: a new one includes this folder as a module and calls [`suite`]. What a
//! back end promises bit for bit is compared bit for bit; the rest within the bound stated at each case.

mod cached;
mod dense;
mod elementwise;
mod operands;
mod ternary;

use bitnet_core::Result;
use bitnet_core::backend::Backend;
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

/// Half an ulp of 1 in f32.
pub(crate) const EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// All cases of all operations.
pub(crate) fn suite(backend: &dyn Backend) {
    ternary::cases(backend);
    dense::cases(backend);
    cached::cases(backend);
    elementwise::cases(backend);
    operands::cases(backend);
}

/// A fixed sequence of numbers that look random.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// In -1..1.
    pub(crate) fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    pub(crate) fn matrix(
        &mut self,
        rows: usize,
        cols: usize,
        granularity: ScaleGranularity,
    ) -> TernaryMatrix {
        let trits: Vec<i8> = (0..rows * cols).map(|_| (self.next() % 3) as i8 - 1).collect();
        let scales = self.floats(granularity.scale_count(rows, cols).unwrap());
        TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap()
    }
}

/// A dense matrix whose bytes begin at an odd address.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: usize,
    cols: usize,
    plain: PlainType,
    shown: bool,
    bytes: Vec<u8>,
    start: usize,
}

impl Rows {
    /// The values rounded to `plain`, which the matrix admits to be stored so if `shown`.
    pub(crate) fn new(
        rows: usize,
        cols: usize,
        values: &[f32],
        plain: PlainType,
        shown: bool,
    ) -> Self {
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

    pub(crate) fn plain_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        Self::new(rows, cols, values, PlainType::F32, true)
    }

    /// The values after rounding.
    pub(crate) fn values(&self) -> Vec<f32> {
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

pub(crate) fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

/// A tensor `[rows, cols]` of the given values.
pub(crate) fn tensor(
    rows: usize,
    cols: usize,
    values: &[f32],
    pool: &HybridMemoryPool,
) -> BitNetTensor {
    BitNetTensor::from_f32(&[rows, cols], values, pool).unwrap()
}

/// A tensor that holds nothing that an operation may leave as it is.
pub(crate) fn dirty(rows: usize, cols: usize, pool: &HybridMemoryPool) -> BitNetTensor {
    tensor(rows, cols, &vec![f32::NAN; rows * cols], pool)
}

/// The bits of every element; every NaN counts as the same.
pub(crate) fn bits(t: &BitNetTensor) -> Vec<u32> {
    t.f32().unwrap().iter().map(|&x| same_bits(x)).collect()
}

pub(crate) fn same_bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

/// That `got[i]` lies within `bound(i)` of `expected[i]`; a NaN must be a NaN, an infinity that infinity.
pub(crate) fn assert_close(
    case: &str,
    got: &[f32],
    expected: &[f64],
    bound: impl Fn(usize) -> f64,
) {
    assert_eq!(got.len(), expected.len(), "{case}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let got = f64::from(got);
        let same = got == expected || (got.is_nan() && expected.is_nan());
        let (error, bound) = ((got - expected).abs(), bound(i));
        assert!(same || error <= bound, "{case}: [{i}] is {got}, not {expected} ± {bound:e}");
    }
}
