//! Checked sizes of stored matrices, and output buffers of codecs.

use crate::{Error, Result};
use bitnet_core::ternary::TernaryMatrix;

/// Returns the bytes of a `[rows, cols]` matrix stored as `block_bytes` for every `block` weights along a row.
pub(super) fn blocked_size(
    format: &'static str,
    rows: usize,
    cols: usize,
    block: usize,
    block_bytes: usize,
) -> Result<usize> {
    not_empty(format, rows, cols)?;
    multiple(format, "columns", cols, block)?;
    (cols / block)
        .checked_mul(block_bytes)
        .and_then(|row| row.checked_mul(rows))
        .filter(|&size| isize::try_from(size).is_ok())
        .ok_or(Error::SizeOverflow { format, rows, cols })
}

/// Like [`blocked_size`], with `meta` bytes before the blocks of each row.
pub(super) fn row_scaled_size(
    format: &'static str,
    rows: usize,
    cols: usize,
    meta: usize,
    block: usize,
    block_bytes: usize,
) -> Result<usize> {
    blocked_size(format, rows, cols, block, block_bytes)?
        .checked_add(rows.saturating_mul(meta))
        .filter(|&size| isize::try_from(size).is_ok())
        .ok_or(Error::SizeOverflow { format, rows, cols })
}

/// Rejects a matrix without weights.
pub(super) fn not_empty(format: &'static str, rows: usize, cols: usize) -> Result<()> {
    if rows == 0 || cols == 0 { Err(Error::EmptyShape { format, rows, cols }) } else { Ok(()) }
}

/// Rejects a dimension that is not a multiple of `multiple`.
pub(super) fn multiple(
    format: &'static str,
    dimension: &'static str,
    got: usize,
    multiple: usize,
) -> Result<()> {
    if got.is_multiple_of(multiple) {
        Ok(())
    } else {
        Err(Error::NotAMultiple { format, dimension, got, multiple })
    }
}

/// Rejects bytes whose number differs from `expected`.
pub(super) fn exact_len(
    format: &'static str,
    rows: usize,
    cols: usize,
    got: usize,
    expected: usize,
) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { format, rows, cols, got, expected }) }
}

/// Returns an empty buffer with capacity for `bytes`.
pub(super) fn buffer(bytes: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.try_reserve_exact(bytes).map_err(|_| bitnet_core::Error::refused_by_system(bytes))?;
    Ok(out)
}

/// Appends `bytes` zeroed bytes and fills them with `fill`; appends nothing if it fails.
pub(super) fn append<T>(
    out: &mut Vec<u8>,
    bytes: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<T>,
) -> Result<T> {
    let start = out.len();
    reserve(out, bytes)?;
    out.resize(start + bytes, 0);
    let filled = fill(&mut out[start..]);
    if filled.is_err() {
        out.truncate(start);
    }
    filled
}

/// Appends `rows` rows of `row_bytes` zeroed bytes, filled by `fill`, and `tail`; appends nothing if it fails.
/// The caller checked the product with a `size` function.
pub(super) fn append_rows(
    out: &mut Vec<u8>,
    rows: usize,
    row_bytes: usize,
    tail: &[u8],
    mut fill: impl FnMut(usize, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let start = out.len();
    reserve(out, rows * row_bytes + tail.len())?;
    for row in 0..rows {
        // Rows are zeroed one at a time, so that each is still in the cache when it is filled.
        let filled = append(out, row_bytes, |stored| fill(row, stored));
        if filled.is_err() {
            out.truncate(start);
            return filled;
        }
    }
    out.extend_from_slice(tail);
    Ok(())
}

/// Reserves capacity for more bytes.
fn reserve(out: &mut Vec<u8>, bytes: usize) -> Result<()> {
    out.try_reserve(bytes).map_err(|_| bitnet_core::Error::refused_by_system(bytes).into())
}

/// Runs `encode_into` on an empty buffer of the exact capacity.
pub(super) fn encoded<T>(
    size: usize,
    encode_into: impl FnOnce(&mut Vec<u8>) -> Result<T>,
) -> Result<(Vec<u8>, T)> {
    let mut out = buffer(size)?;
    let result = encode_into(&mut out)?;
    Ok((out, result))
}

/// Rejects a matrix with weights of +2, which the format cannot hold.
pub(super) fn only_trits(format: &'static str, matrix: &TernaryMatrix) -> Result<()> {
    match matrix.doubled() {
        0 => Ok(()),
        _ => {
            let (row, col) = matrix.first_doubled().unwrap_or_default();
            Err(Error::NotTernary { format, row, col })
        }
    }
}

/// Maps the error of code 3 to [`Error::NotTernary`]; other errors are unchanged.
pub(super) fn not_ternary(format: &'static str) -> impl Fn(bitnet_core::Error) -> Error {
    move |error| match error {
        bitnet_core::Error::BadCode { row, col, .. } => Error::NotTernary { format, row, col },
        other => other.into(),
    }
}
