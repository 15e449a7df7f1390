//! ONNX Runtime's `MatMulNBits` with `bits=2`: codes in blocks along a row, with scales and zero points.
//!
//! ```text
//! B            u8 [rows, cols / block, block / 4]   element j of a byte in bits 2j, 2j + 1
//! scales       float [rows, cols / block]           value = scale * (code - zero point)
//! zero_points  u8 [rows, ceil(cols / block / 4)]    zero point j of a byte in bits 2j, 2j + 1; or
//!              u8 [rows, ceil(cols / block / 2)]    in bits 4j .. 4j + 3 (`GatherBlockQuantized` with `bits=4`); or
//!              float [rows, cols / block];          2 where they are absent
//! ```
//!
//! Source: ONNX Runtime, docs/ContribOperators.md. A block of a ternary matrix has three codes in a row. The fourth is a
//! weight of +2 or -2; -2 is +2 with the opposite scale, so both are read. Weights of ±3, which zero points of 0 and 3 can give, are not ternary.

use super::{plain, scales, shape};
use crate::{Error, Result};
use bitnet_core::dense::PlainType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "MatMulNBits 2-bit";

/// Sixteen times the code 1.
const ONES: u32 = 0x5555_5555;
/// The narrowest group of weights with a scale of its own in a matrix.
const GROUP: usize = 64;

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPoints {
    /// There are none: each is 2.
    Absent,
    /// 2 bits each; rows begin at whole bytes.
    Bits2,
    /// 4 bits each; rows begin at whole bytes.
    Bits4,
    /// A number each, which must be a whole one.
    Plain(PlainType),
}

/// The tensors of a matrix, as bytes in row-major order, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbitsTensors<B> {
    /// Codes, `[rows, cols / 4]` bytes.
    pub weight: B,
    /// `[rows, cols / block]` numbers of the scale type.
    pub scales: B,
    /// Zero points, as [`ZeroPoints`] says; not read where there are none.
    pub zero_points: Option<B>,
}

/// What a matrix is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NbitsForm {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Weights that share a scale and a zero point: a power of two of at least 16.
    pub block: usize,
    /// The type of the scales.
    pub scale_type: PlainType,
    /// The type of the zero points.
    pub zero_points: ZeroPoints,
}

impl NbitsForm {
    /// Returns the bytes of a row of codes, of scales and of zero points.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for a block that does not exist, [`Error::EmptyShape`], [`Error::NotAMultiple`] or
    /// [`Error::SizeOverflow`] for an unsupported shape.
    pub fn row_bytes(&self) -> Result<[usize; 3]> {
        let Self { rows, cols, block, scale_type, zero_points } = *self;
        if !block.is_power_of_two() || block < CODES_PER_WORD {
            return Err(Error::BadParameter {
                what: FORMAT,
                parameter: "block_size",
                value: block as f64,
                expected: "a power of two of at least 16",
            });
        }
        // At least as many bytes as any of the three takes, so that none of them overflows.
        shape::blocked_size(FORMAT, rows, cols, block.max(GROUP), block.max(GROUP))?;
        let blocks = cols / block;
        let of_zero_points = match zero_points {
            ZeroPoints::Absent => 0,
            ZeroPoints::Bits2 => blocks.div_ceil(4),
            ZeroPoints::Bits4 => blocks.div_ceil(2),
            ZeroPoints::Plain(plain) => blocks * plain::width(plain),
        };
        Ok([cols / 4, blocks * plain::width(scale_type), of_zero_points])
    }

    /// Decodes the zero points of a row, one for each block, into `out`.
    ///
    /// # Errors
    /// [`Error::BadZeroPoint`] for one that is no code.
    pub fn zero_points(&self, row: usize, stored: &[u8], out: &mut [f32]) -> Result<()> {
        let bits = match self.zero_points {
            ZeroPoints::Absent => {
                out.fill(2.0);
                return Ok(());
            }
            ZeroPoints::Plain(plain) => {
                plain::decode(plain, stored, out);
                let wrong = |point: &f32| ![0.0, 1.0, 2.0, 3.0].contains(point);
                return match out.iter().position(wrong) {
                    None => Ok(()),
                    Some(block) => {
                        Err(Error::BadZeroPoint { format: FORMAT, row, block, value: out[block] })
                    }
                };
            }
            ZeroPoints::Bits2 => 2,
            ZeroPoints::Bits4 => 4,
        };
        let per_byte = 8 / bits;
        for (block, point) in out.iter_mut().enumerate() {
            let byte = stored.get(block / per_byte).copied().unwrap_or(0);
            let value = byte >> (bits * (block % per_byte)) & ((1 << bits) - 1);
            if value > 3 {
                let value = f32::from(value);
                return Err(Error::BadZeroPoint { format: FORMAT, row, block, value });
            }
            *point = f32::from(value);
        }
        Ok(())
    }
}

/// Decodes a matrix; scales that are equal collapse to one per row or tensor, unless there is a weight of +2.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`NbitsForm::row_bytes`], [`Error::Length`] if one of the tensors is not exactly that long,
/// [`Error::BadScale`] for a scale that is NaN or infinite, [`Error::BadZeroPoint`] for a zero point that is no code, or
/// with which a weight of the block is not ternary, and [`Error::BlockScales`] where blocks of fewer than 64 weights have scales of their own.
pub fn decode<B: AsRef<[u8]>>(
    tensors: &NbitsTensors<B>,
    form: NbitsForm,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let NbitsForm { rows, cols, block, scale_type, .. } = form;
    let [code_bytes, scale_bytes, point_bytes] = form.row_bytes()?;
    let points = tensors.zero_points.as_ref().map_or(&[][..], |points| points.as_ref());
    let points = if point_bytes == 0 { &[][..] } else { points };
    let (weight, factors) = (tensors.weight.as_ref(), tensors.scales.as_ref());
    let lengths = [(weight, code_bytes), (factors, scale_bytes), (points, point_bytes)];
    for (bytes, per_row) in lengths {
        shape::exact_len(FORMAT, rows, cols, bytes.len(), rows * per_row)?;
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?.accept_doubled();
    let mut collected = scales::BlockScales::new(FORMAT, cols, block.max(GROUP));
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    let (mut scale, mut point) = (vec![0f32; cols / block], vec![0f32; cols / block]);
    for row in 0..rows {
        let stored = &weight[row * code_bytes..(row + 1) * code_bytes];
        for (word, four) in words.iter_mut().zip(stored.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*four);
        }
        plain::decode(scale_type, &factors[row * scale_bytes..(row + 1) * scale_bytes], &mut scale);
        form.zero_points(row, &points[row * point_bytes..(row + 1) * point_bytes], &mut point)?;
        let runs = words.chunks_exact_mut(block / CODES_PER_WORD);
        for (index, (words, (scale, point))) in runs.zip(scale.iter_mut().zip(&point)).enumerate() {
            let flips = trits(words, *point as u8).ok_or(Error::BadZeroPoint {
                format: FORMAT,
                row,
                block: index,
                value: *point,
            })?;
            *scale = if flips { -*scale } else { *scale };
        }
        push_scales(&mut collected, &words, &scale, row, block)?;
        builder.push_words(&words)?;
    }
    collected.finish(builder)
}

/// Turns the codes of a block into trits plus 1, 3 for +2; returns whether the scale changes its sign. `None` if the block
/// has a weight that is none of these with either sign.
fn trits(words: &mut [u32], point: u8) -> Option<bool> {
    let any = |test: fn(u32) -> u32| words.iter().fold(0, |all, &word| all | test(word)) != 0;
    let (has_zero, has_three) =
        (any(|word| !(word | word >> 1) & ONES), any(|word| word & (word >> 1) & ONES));
    // No field of two bits carries into the next: each sum and difference below is 0 to 3.
    let turn: (fn(u32) -> u32, bool) = match point {
        0 if !has_three => (|word| word + ONES, false),
        1 => (|word| word, false),
        2 if !has_zero => (|word| word - ONES, false),
        2 => (|word| !word, true),
        3 if !has_zero => (|word| !word + ONES, true),
        _ => return None,
    };
    words.iter_mut().for_each(|word| *word = turn.0(*word));
    Some(turn.1)
}

/// Collects the scales of a row's blocks; several narrow ones that share a scale are one.
fn push_scales(
    collected: &mut scales::BlockScales,
    words: &[u32],
    scales: &[f32],
    row: usize,
    block: usize,
) -> Result<()> {
    let together = (GROUP / block).max(1);
    let wide = words.chunks_exact(block.max(GROUP) / CODES_PER_WORD);
    for (index, (words, scales)) in wide.zip(scales.chunks_exact(together)).enumerate() {
        let parts = words.chunks_exact(words.len() / together).zip(scales);
        let mut used = parts.filter(|(words, _)| words.iter().any(|&word| word != ONES));
        let scale = used.next().map_or(scales[0], |(_, &scale)| scale);
        if used.any(|(_, other)| *other != scale) {
            let (start, end) = (index * GROUP, (index + 1) * GROUP);
            return Err(Error::BlockScales { format: FORMAT, row, start, end });
        }
        // A scale that is not finite is an error even where it scales zeros.
        let bad = scales.iter().find(|scale| !scale.is_finite());
        collected.push_value(bad.copied().unwrap_or(scale), words)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::ternary::ScaleGranularity;
    use proptest::prelude::*;

    /// The weights of a matrix by the formula of ONNX Runtime, element by element.
    fn weights(codes: &[u8], points: &[u8], scales: &[f32], block: usize) -> Vec<f32> {
        let value = |(index, &code): (usize, &u8)| {
            scales[index / block] * (f32::from(code) - f32::from(points[index / block]))
        };
        codes.iter().enumerate().map(value).collect()
    }

    fn packed(codes: &[u8], bits: usize) -> Vec<u8> {
        let byte = |codes: &[u8]| {
            codes.iter().enumerate().fold(0, |byte, (index, code)| byte | code << (bits * index))
        };
        codes.chunks(8 / bits).map(byte).collect()
    }

    fn by_rows(codes: &[u8], cols: usize, bits: usize) -> Vec<u8> {
        codes.chunks(cols).flat_map(|row| packed(row, bits)).collect()
    }

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn decoded(matrix: &TernaryMatrix) -> Vec<f32> {
        let places = (0..matrix.rows()).flat_map(|r| (0..matrix.cols()).map(move |c| (r, c)));
        places.map(|(r, c)| f32::from(matrix.trit(r, c)) * matrix.scale_at(r, c)).collect()
    }

    fn form(rows: usize, cols: usize, block: usize, zero_points: ZeroPoints) -> NbitsForm {
        NbitsForm { rows, cols, block, scale_type: PlainType::F32, zero_points }
    }

    fn stored(
        (codes, points, scales): (&[u8], &[u8], &[f32]),
        form: NbitsForm,
    ) -> NbitsTensors<Vec<u8>> {
        let blocks = form.cols / form.block;
        let zero_points = match form.zero_points {
            ZeroPoints::Absent => None,
            ZeroPoints::Bits2 => Some(by_rows(points, blocks, 2)),
            ZeroPoints::Bits4 => Some(by_rows(points, blocks, 4)),
            ZeroPoints::Plain(_) => {
                Some(bytes(&points.iter().map(|&point| f32::from(point)).collect::<Vec<_>>()))
            }
        };
        NbitsTensors { weight: by_rows(codes, form.cols, 2), scales: bytes(scales), zero_points }
    }

    proptest! {
        /// Whatever codes, scales and zero points are: the weights of the formula, or an error.
        #[test]
        fn weights_are_those_of_the_formula(
            rows in 1_usize..4,
            blocks in 1_usize..6,
            block in prop::sample::select(vec![64_usize, 128, 256]),
            kind in 0_usize..4,
            seed in any::<u64>(),
            spread in 0_u8..3,
        ) {
            let mut state = seed | 1;
            let mut random = move |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let cols = blocks * block;
            let zero_points = [
                ZeroPoints::Absent, ZeroPoints::Bits2, ZeroPoints::Bits4, ZeroPoints::Plain(PlainType::F32),
            ][kind];
            let points: Vec<u8> = (0..rows * blocks)
                .map(|_| if kind == 0 { 2 } else { match spread { 0 => 1, 1 => 1 + random(2) as u8, _ => random(4) as u8 } })
                .collect();
            let scales: Vec<f32> = (0..rows * blocks).map(|_| random(1000) as f32 / 64.0).collect();
            // Some blocks have all four codes, the others three beside their zero point.
            let codes: Vec<u8> = (0..rows * cols)
                .map(|index| {
                    let point = points[index / block];
                    if index / block % 3 == 2 { random(4) as u8 } else { (point + random(3) as u8).saturating_sub(1).min(3) }
                })
                .collect();
            let form = form(rows, cols, block, zero_points);
            let parts = (&codes[..], &points[..], &scales[..]);
            match decode(&stored(parts, form), form, None) {
                Ok(matrix) => prop_assert_eq!(decoded(&matrix), weights(&codes, &points, &scales, block)),
                Err(error) => prop_assert!(
                    matches!(error, Error::BadZeroPoint { .. }) && points.iter().any(|&p| p == 0 || p == 3),
                    "{}", error
                ),
            }
        }

        /// Trits come back as they were, however they are stored.
        #[test]
        fn trits_round_trip(
            trits in prop::collection::vec(-1_i8..=1, 2 * 256),
            scales in prop::collection::vec(0.01_f32..2.0, 4),
            point in 1_u8..3,
        ) {
            let granularity = ScaleGranularity::Group(128);
            let meant = TernaryMatrix::from_trits(2, 256, &trits, granularity, scales.clone()).unwrap();
            let codes: Vec<u8> = trits.iter().map(|trit| (trit + point as i8) as u8).collect();
            let form = form(2, 256, 128, ZeroPoints::Bits2);
            let read = decode(&stored((&codes, &[point; 4], &scales), form), form, None).unwrap();
            prop_assert_eq!(read.to_trits(), meant.to_trits());
            prop_assert_eq!(decoded(&read), decoded(&meant));
            prop_assert_eq!(read.doubled(), 0);
        }
    }

    #[test]
    fn narrow_blocks_are_read_where_64_weights_share_a_scale() {
        let codes: Vec<u8> = (0..128).map(|index| index % 3).collect();
        let form = form(1, 128, 32, ZeroPoints::Bits2);
        let read = |scales: &[f32]| decode(&stored((&codes, &[1; 4], scales), form), form, None);
        let scales = [2.0, 2.0, 3.0, 3.0];
        assert_eq!(decoded(&read(&scales).unwrap()), weights(&codes, &[1; 4], &scales, 32));
        let error = read(&[2.0, 2.0, 3.0, 4.0]).unwrap_err();
        assert_eq!(error, Error::BlockScales { format: FORMAT, row: 0, start: 64, end: 128 });
    }

    #[test]
    fn what_is_not_ternary_is_refused_by_its_place() {
        let codes = [3_u8; 64];
        let bits = form(1, 64, 64, ZeroPoints::Bits2);
        let error = decode(&stored((&codes, &[0], &[1.0]), bits), bits, None).unwrap_err();
        assert_eq!(error, Error::BadZeroPoint { format: FORMAT, row: 0, block: 0, value: 0.0 });
        let plain = form(1, 64, 64, ZeroPoints::Plain(PlainType::F32));
        let mut tensors = stored((&codes, &[1], &[1.0]), plain);
        tensors.zero_points = Some(bytes(&[1.5]));
        let error = decode(&tensors, plain, None).unwrap_err();
        assert_eq!(error, Error::BadZeroPoint { format: FORMAT, row: 0, block: 0, value: 1.5 });
        let wide = form(1, 64, 64, ZeroPoints::Bits4);
        let tensors = stored((&codes, &[9], &[1.0]), wide);
        assert!(matches!(decode(&tensors, wide, None), Err(Error::BadZeroPoint { .. })));
        let mut tensors = stored((&codes, &[1], &[f32::NAN]), bits);
        assert!(matches!(decode(&tensors, bits, None), Err(Error::BadScale { .. })));
        tensors.weight.pop();
        assert!(matches!(decode(&tensors, bits, None), Err(Error::Length { .. })));
        for (cols, block) in [(64, 8), (64, 48), (96, 64), (32, 32), (0, 64), (usize::MAX - 63, 64)]
        {
            let form = form(1, cols, block, ZeroPoints::Absent);
            assert!(decode(&tensors, form, None).is_err(), "{cols} {block}");
        }
    }
}
