//! MLX's 2-bit affine quantisation: three tensors. Ternary weights are a special case.
//!
//! ```text
//! weight          U32 [rows, cols / 16]       element j of a word in bits 2j, 2j + 1
//! scales, biases  float [rows, cols / group]  value = scale * code + bias
//! ternary         bias = -scale: value = scale * (code - 1); code 3 is +2
//! ```
//!
//! Source: ml-explore/mlx, `mlx.core.quantize` with `bits=2`. That function spreads four codes from the smallest to the
//! largest number and does not preserve ternary weights; programs
//! that publish ternary models choose scale and bias as above.

use super::{plain, scales, shape};
use crate::{Error, Result};
use bitnet_core::dense::PlainType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "MLX 2-bit";

/// The three tensors of a matrix, as bytes in row-major order, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlxTensors<B> {
    /// Codes, `[rows, cols / 16]` words.
    pub weight: B,
    /// `[rows, cols / group]` numbers of the scale type.
    pub scales: B,
    /// As many biases.
    pub biases: B,
}

/// Returns the bytes of the codes, and of the scales, which equal those of the biases.
///
/// # Errors
/// [`Error::UnknownBlock`] for a group that is not 64 or 128, [`Error::EmptyShape`], [`Error::NotAMultiple`] or
/// [`Error::SizeOverflow`] for an unsupported shape.
pub fn sizes(
    rows: usize,
    cols: usize,
    group: usize,
    scale_type: PlainType,
) -> Result<(usize, usize)> {
    if !matches!(group, 64 | 128) {
        return Err(Error::UnknownBlock { format: FORMAT, block: group });
    }
    let codes = shape::blocked_size(FORMAT, rows, cols, group, group / 4)?;
    Ok((codes, shape::blocked_size(FORMAT, rows, cols, group, plain::width(scale_type))?))
}

/// Decodes a `[rows, cols]` matrix whose scales and biases are of `scale_type`; scales that are equal collapse to one
/// per row or tensor, unless there is a code 3.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`sizes`], [`Error::Length`] if one of the tensors is not exactly that long, [`Error::BadScale`] for a
/// scale that is NaN or infinite, [`Error::NotSymmetric`] for a bias that is not the negative scale.
pub fn decode<B: AsRef<[u8]>>(
    tensors: &MlxTensors<B>,
    scale_type: PlainType,
    rows: usize,
    cols: usize,
    group: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let (code_bytes, scale_bytes) = sizes(rows, cols, group, scale_type)?;
    let [weight, factors, biases] =
        [tensors.weight.as_ref(), tensors.scales.as_ref(), tensors.biases.as_ref()];
    for (bytes, expected) in [(weight, code_bytes), (factors, scale_bytes), (biases, scale_bytes)] {
        shape::exact_len(FORMAT, rows, cols, bytes.len(), expected)?;
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?.accept_doubled();
    let mut collected = scales::BlockScales::new(FORMAT, cols, group);
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    let (mut scale, mut bias) = (vec![0f32; cols / group], vec![0f32; cols / group]);
    let per_row = scale_bytes / rows;
    let numbers = factors.chunks_exact(per_row).zip(biases.chunks_exact(per_row));
    for (row, (codes, (factors, biases))) in
        weight.chunks_exact(code_bytes / rows).zip(numbers).enumerate()
    {
        for (word, four) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*four);
        }
        plain::decode(scale_type, factors, &mut scale);
        plain::decode(scale_type, biases, &mut bias);
        let runs = words.chunks_exact(group / CODES_PER_WORD);
        for (block, ((&scale, &bias), words)) in scale.iter().zip(&bias).zip(runs).enumerate() {
            collected.push_value(scale, words)?;
            if bias != -scale {
                return Err(Error::NotSymmetric { format: FORMAT, row, block, scale, bias });
            }
        }
        builder.push_words(&words)?;
    }
    collected.finish(builder)
}

/// Encodes a matrix. Scales are rounded to the nearest number of `scale_type`; a group of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`sizes`], [`Error::ScaleGranularity`] if weights of one group have different scales,
/// [`Error::ScaleRange`] for a scale that the type can't hold.
pub fn encode(
    matrix: &TernaryMatrix,
    scale_type: PlainType,
    group: usize,
) -> Result<MlxTensors<Vec<u8>>> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let (code_bytes, scale_bytes) = sizes(rows, cols, group, scale_type)?;
    let mut weight = shape::buffer(code_bytes)?;
    let mut factors = shape::buffer(scale_bytes)?;
    let mut biases = shape::buffer(scale_bytes)?;
    let room = if group == 64 { "64 weights" } else { "128 weights" };
    let width = plain::width(scale_type);
    for row in 0..rows {
        let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
        weight.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        for (block, words) in words.chunks_exact(group / CODES_PER_WORD).enumerate() {
            let value = scales::run_scale(FORMAT, room, matrix, row, words, block)?;
            let (mut stored, mut back) = ([0; 4], [0f32]);
            let held = plain::encode(scale_type, &[value], &mut stored[..width]);
            plain::decode(scale_type, &stored[..width], &mut back);
            if !held || (value != 0.0 && back[0] == 0.0) {
                return Err(Error::ScaleRange { format: FORMAT, row, block, value });
            }
            factors.extend_from_slice(&stored[..width]);
            // Little-endian: the sign is the top bit of the last byte.
            stored[width - 1] ^= 0x80;
            biases.extend_from_slice(&stored[..width]);
        }
    }
    Ok(MlxTensors { weight, scales: factors, biases })
}
