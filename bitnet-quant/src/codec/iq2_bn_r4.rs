//! IQ2_BN_R4 of ik_llama.cpp: IQ2_BN with four interleaved rows.
//!
//! ```text
//! four rows  d[4] (f32), then blocks        value = d[k] * (code - 1)
//! block      4 x 64 weights -> 64 bytes
//!   bits                 7 6      5 4     3 2     1 0      weight of row k
//!   byte 16l + 4k + i:   16l+12+i 16l+8+i 16l+4+i 16l+i    i, k, l = 0..4
//! ```
//!
//! Source: ikawrakow/ik_llama.cpp, `quantize_iq2_bn_r4`. Code 3, twice the scale, is not ternary.

use super::{planes, scales, shape};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "IQ2_BN_R4";
/// Weights of a row in a block.
pub const BLOCK: usize = 64;
/// Bytes of a block per row.
pub const BLOCK_BYTES: usize = 16;
/// Interleaved rows.
pub const ROWS: usize = 4;
/// Bytes before the blocks per row.
pub const META: usize = 4;

/// Returns the bytes of a stored `[rows, cols]` matrix; rows are a multiple of 4, columns of 64.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::NotAMultiple`] or [`crate::Error::SizeOverflow`] for an unsupported
/// shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::not_empty(FORMAT, rows, cols)?;
    shape::multiple(FORMAT, "rows", rows, ROWS)?;
    shape::row_scaled_size(FORMAT, rows, cols, META, BLOCK, BLOCK_BYTES)
}

/// Decodes a `[rows, cols]` matrix; equal row scales are merged to one per tensor.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::Length`] if `bytes` has another length, [`crate::Error::NotTernary`] for
/// code 3, [`crate::Error::BadScale`] for a scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = size(rows, cols)?;
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size)?;
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut scales = scales::BlockScales::new(FORMAT, cols, cols);
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    for stored in bytes.chunks_exact(size / rows * ROWS) {
        let (meta, packed) = stored.split_at(ROWS * META);
        for (k, scale) in meta.as_chunks::<META>().0.iter().enumerate() {
            // Sixteen bytes per sixteen columns, four per row.
            for (word, sixteen) in words.iter_mut().zip(packed.as_chunks::<16>().0) {
                let four = sixteen.as_chunks::<4>().0[k];
                *word = planes::transpose_four(u32::from_le_bytes(four));
            }
            scales.push_value(f32::from_le_bytes(*scale), &words)?;
            builder.push_words(&words).map_err(shape::not_ternary(FORMAT))?;
        }
    }
    scales.finish(builder)
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error. A row of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::ScaleGranularity`] if weights of one row have different scales.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let row_bytes = size(rows, cols)? / rows;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows / ROWS, ROWS * row_bytes, &[], |four, stored| {
        let (meta, packed) = stored.split_at_mut(ROWS * META);
        for (k, meta) in meta.as_chunks_mut::<META>().0.iter_mut().enumerate() {
            let row = ROWS * four + k;
            let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
            *meta = scales::run_scale(FORMAT, "row", matrix, row, words, 0)?.to_le_bytes();
            for (sixteen, word) in packed.as_chunks_mut::<16>().0.iter_mut().zip(words) {
                sixteen.as_chunks_mut::<4>().0[k] = planes::transpose_four(*word).to_le_bytes();
            }
        }
        Ok(())
    })
}
