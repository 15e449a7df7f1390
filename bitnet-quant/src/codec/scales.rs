//! Conversion between block scales and the scale granularity of a matrix.
//!
//! Blocks of zeros are ignored: any scale preserves their values.

use super::{plain, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// Sixteen zero trits.
const ZERO_WORD: u32 = 0x5555_5555;

/// Collects the scales of a block format row by row while a matrix is decoded.
#[derive(Debug)]
pub(super) struct BlockScales {
    format: &'static str,
    block: usize,
    per_row: usize,
    values: Vec<f32>,
    /// Whether the block has a non-zero trit.
    used: Vec<bool>,
}

impl BlockScales {
    /// Creates a collector for rows of `cols` weights in blocks of `block`, which must divide `cols`.
    pub(super) fn new(format: &'static str, cols: usize, block: usize) -> Self {
        Self { format, block, per_row: cols / block, values: Vec::new(), used: Vec::new() }
    }

    /// Adds the next block: its little-endian f16 scale and packed codes.
    pub(super) fn push(&mut self, scale: [u8; 2], words: &[u32]) -> Result<()> {
        self.push_value(plain::f16_to_f32(u16::from_le_bytes(scale)), words)
    }

    /// Adds the next block: its scale and packed codes.
    pub(super) fn push_value(&mut self, value: f32, words: &[u32]) -> Result<()> {
        if !value.is_finite() {
            let (row, block) = (self.values.len() / self.per_row, self.values.len() % self.per_row);
            return Err(Error::BadScale { format: self.format, row, block, value });
        }
        self.values.push(value);
        self.used.push(words.iter().any(|&word| word != ZERO_WORD));
        Ok(())
    }

    /// Completes a matrix with the scales in the coarsest granularity (tensor, row, group) that preserves every value;
    /// with weights of +2, in groups.
    pub(super) fn finish(self, builder: TernaryBuilder) -> Result<TernaryMatrix> {
        let (granularity, scales) = match builder.doubled() {
            0 => self.coarsest(),
            _ => (ScaleGranularity::Group(self.block), self.values),
        };
        Ok(builder.finish(granularity, scales)?)
    }

    fn coarsest(self) -> (ScaleGranularity, Vec<f32>) {
        if let Some(scale) = one_scale(&self.values, &self.used) {
            return (ScaleGranularity::Tensor, vec![scale]);
        }
        let rows: Option<Vec<f32>> = self
            .values
            .chunks(self.per_row)
            .zip(self.used.chunks(self.per_row))
            .map(|(values, used)| one_scale(values, used))
            .collect();
        match rows {
            Some(scales) => (ScaleGranularity::Row, scales),
            None => (ScaleGranularity::Group(self.block), self.values),
        }
    }
}

/// Decodes a `[rows, cols]` matrix row by row into `pool`, if any. `decode_row` unpacks one stored row into the given
/// words and collects its scales, one per `block` weights.
pub(super) fn decode_rows(
    format: &'static str,
    bytes: &[u8],
    (rows, cols, size): (usize, usize, usize),
    block: usize,
    pool: Option<&HybridMemoryPool>,
    decode_row: impl FnMut(&[u8], &mut [u32], &mut BlockScales) -> Result<()>,
) -> Result<TernaryMatrix> {
    let builder = |rows, cols| Ok(TernaryBuilder::in_pool(rows, cols, pool)?);
    build_rows(format, bytes, (rows, cols, size), block, builder, decode_row)
}

/// As [`decode_rows`], with what `builder` returns for a shape of `(rows, cols)`.
pub(super) fn build_rows(
    format: &'static str,
    bytes: &[u8],
    (rows, cols, size): (usize, usize, usize),
    block: usize,
    builder: impl FnOnce(usize, usize) -> Result<TernaryBuilder>,
    mut decode_row: impl FnMut(&[u8], &mut [u32], &mut BlockScales) -> Result<()>,
) -> Result<TernaryMatrix> {
    shape::exact_len(format, rows, cols, bytes.len(), size)?;
    let mut builder = builder(rows, cols)?;
    let mut scales = BlockScales::new(format, cols, block);
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    for stored in bytes.chunks_exact(size / rows) {
        decode_row(stored, &mut words, &mut scales)?;
        builder.push_words(&words).map_err(shape::not_ternary(format))?;
    }
    scales.finish(builder)
}

/// Returns the common scale of all non-zero blocks, or of the first block if all are zero; `None` if they differ.
fn one_scale(values: &[f32], used: &[bool]) -> Option<f32> {
    let mut shared = None;
    for (&value, _) in values.iter().zip(used).filter(|(_, used)| **used) {
        match shared {
            None => shared = Some(value),
            Some(scale) if scale == value => {}
            Some(_) => return None,
        }
    }
    shared.or_else(|| values.first().copied())
}

/// Returns the common scale of a run of a row, 0 if all its trits are zero. `words` is the run, the `index`th of its
/// length; a run that is not whole words is the whole row.
#[inline]
pub(super) fn run_scale(
    format: &'static str,
    room: &'static str,
    matrix: &TernaryMatrix,
    row: usize,
    words: &[u32],
    index: usize,
) -> Result<f32> {
    let start = index * words.len();
    let column = |word: usize| (word * CODES_PER_WORD).min(matrix.cols());
    // Groups are whole words.
    let group = match matrix.granularity() {
        ScaleGranularity::Group(n) => n / CODES_PER_WORD,
        ScaleGranularity::Tensor | ScaleGranularity::Row => start + words.len(),
    };
    let mut shared = None;
    let mut at = start;
    while at < start + words.len() {
        let end = (start + words.len()).min((at / group + 1) * group);
        let zero = words[at - start..end - start].iter().fold(0, |bits, w| bits | (w ^ ZERO_WORD));
        if zero != 0 {
            let scale = matrix.scale_at(row, column(at));
            if shared.is_some_and(|s| s != scale) {
                return Err(Error::ScaleGranularity {
                    format,
                    row,
                    start: column(start),
                    end: column(start + words.len()),
                    granularity: matrix.granularity(),
                    room,
                });
            }
            shared = Some(scale);
        }
        at = end;
    }
    Ok(shared.unwrap_or(0.0))
}

/// Returns the common scale of all weights of a matrix; the first scale if all trits are zero.
pub(super) fn tensor_scale(format: &'static str, matrix: &TernaryMatrix) -> Result<f32> {
    if matrix.granularity() == ScaleGranularity::Tensor {
        return Ok(matrix.scales().first().copied().unwrap_or(0.0));
    }
    let cols = matrix.cols();
    let mut shared = None;
    for row in 0..matrix.rows() {
        let words = &matrix.row_words(row)[..cols.div_ceil(CODES_PER_WORD)];
        if words.iter().all(|&word| word == ZERO_WORD) {
            continue;
        }
        let scale = run_scale(format, "tensor", matrix, row, words, 0)?;
        if shared.is_some_and(|s| s != scale) {
            return Err(Error::ScaleGranularity {
                format,
                row,
                start: 0,
                end: cols,
                granularity: matrix.granularity(),
                room: "tensor",
            });
        }
        shared = Some(scale);
    }
    Ok(shared.unwrap_or_else(|| matrix.scales().first().copied().unwrap_or(0.0)))
}

/// Rounds a block's scale to little-endian f16; overflow and underflow to zero are errors.
pub(super) fn f16_scale(
    format: &'static str,
    row: usize,
    block: usize,
    value: f32,
) -> Result<[u8; 2]> {
    let scale = plain::f32_to_f16(value);
    if !plain::f16_is_finite(scale) || (value != 0.0 && scale & 0x7fff == 0) {
        return Err(Error::ScaleRange { format, row, block, value });
    }
    Ok(scale.to_le_bytes())
}
