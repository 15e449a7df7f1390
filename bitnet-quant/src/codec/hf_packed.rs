//! Packed weights of Hugging Face `quant_method: bitnet` checkpoints:
//! four rows per byte, planar, with a separate scale.
//!
//! ```text
//! U8 tensor [R, cols], R = ceil(rows / 4)
//!   bits        7 6      5 4      3 2      1 0
//!   byte [r][k] [3R+r]   [2R+r]   [R+r]    [r]     row of the weight; code = trit + 1
//! ```
//!
//! Bits past the last row are written as 0 and ignored. Source: huggingface/transformers,
//! `integrations/bitnet.py`, `pack_weights`.

use super::{planes, scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "packed U8";

/// Returns the bytes of a stored `[rows, cols]` matrix: `ceil(rows / 4) * cols`.
///
/// # Errors
/// [`Error::EmptyShape`] or [`Error::SizeOverflow`].
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::not_empty(FORMAT, rows, cols)?;
    shape::blocked_size(FORMAT, rows.div_ceil(4), cols, 1, 1)
}

/// Decodes a `[rows, cols]` matrix whose weights are `scale * trit`.
///
/// `scale` multiplies: a checkpoint of class `bitlinear` stores its inverse.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::NotTernary`] for code 3,
/// [`Error::BadScale`] for a scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    scale: f32,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size(rows, cols)?)?;
    if !scale.is_finite() {
        return Err(Error::BadScale { format: FORMAT, row: 0, block: 0, value: scale });
    }
    let packed_rows = rows.div_ceil(4);
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut words = vec![0u32; cols.div_ceil(CODES_PER_WORD)];
    for row in 0..rows {
        let packed = &bytes[row % packed_rows * cols..][..cols];
        planes::gather_plane(packed, row / packed_rows, &mut words);
        builder.push_words(&words).map_err(shape::not_ternary(FORMAT))?;
    }
    Ok(builder.finish(ScaleGranularity::Tensor, vec![scale])?)
}

/// Encodes the codes of a matrix and returns them with its one scale, which multiplies.
///
/// # Errors
/// Errors of [`size`], [`Error::ScaleGranularity`] if the weights have different scales.
pub fn encode(matrix: &TernaryMatrix) -> Result<(Vec<u8>, f32)> {
    shape::encoded(size(matrix.rows(), matrix.cols())?, |out| encode_into(matrix, out))
}

/// Like [`encode`], appended to `out`, which is unchanged on error; the scale is returned.
///
/// # Errors
/// Same as [`encode`].
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<f32> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    size(rows, cols)?;
    shape::only_trits(FORMAT, matrix)?;
    let scale = scales::tensor_scale(FORMAT, matrix)?;
    let packed_rows = rows.div_ceil(4);
    // Code 0 pads missing rows.
    let absent = vec![0; cols.div_ceil(CODES_PER_WORD)];
    let row = |row: usize| if row < rows { matrix.row_words(row) } else { &absent };
    shape::append_rows(out, packed_rows, cols, &[], |r, packed| {
        planes::scatter_rows([0, 1, 2, 3].map(|plane| row(plane * packed_rows + r)), packed);
        Ok(())
    })?;
    Ok(scale)
}
