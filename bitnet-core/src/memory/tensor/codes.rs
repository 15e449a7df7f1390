//! Elements of every type as f32 and back: rounding, ranges, packing.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::BitNetDType;
use crate::{Error, Result};

/// How a number is converted to an integer type. Float types accept every number with either rule: rounded to nearest,
/// ties to even; numbers too large for `F16` become infinite, and NaN is preserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CastRule {
    /// As NumPy's `astype` where that is defined: truncated. A number outside the range is an error.
    /// [`BitNetDType::I1`] accepts numbers that become -1 or 1.
    Checked,
    /// As `clip(rint(x), low, high)`: rounded to nearest, ties to even, and clamped to the range. For
    /// [`BitNetDType::I1`]: -1 for numbers below zero, else 1. NaN is an error.
    Saturating,
}

/// Numbers that are converted together: whole bytes of every type.
const PIECE: usize = 960;

impl CastRule {
    /// Whether an integer type accepts the number.
    #[inline(always)]
    fn accepts(self, x: f32, dtype: BitNetDType) -> bool {
        let (low, high) = dtype.range();
        match self {
            Self::Saturating => !x.is_nan(),
            // Numbers that truncate into the range are strictly between its neighbours.
            Self::Checked => {
                (x > low - 1.0) & (x < high + 1.0) & ((dtype != BitNetDType::I1) | (x.abs() >= 1.0))
            }
        }
    }

    /// The integers that numbers become.
    ///
    /// # Errors
    /// [`Error::NotRepresentable`] for the first number that the type does not accept.
    fn integers(self, values: &[f32], dtype: BitNetDType, codes: &mut [i8]) -> Result<()> {
        let all = values.iter().fold(true, |all, &x| all & self.accepts(x, dtype));
        if !all && let Some(&value) = values.iter().find(|&&x| !self.accepts(x, dtype)) {
            return Err(Error::NotRepresentable { value, dtype });
        }
        // Adding and subtracting it rounds a number of this size to a whole one, ties to even.
        const ROUND: f32 = (3 << 22) as f32;
        let (low, high) = dtype.range();
        for (code, &x) in codes.iter_mut().zip(values) {
            *code = match self {
                Self::Checked => x as i32 as i8,
                Self::Saturating if dtype == BitNetDType::I1 => 1 - 2 * i8::from(x < 0.0),
                Self::Saturating => (x.clamp(low, high) + ROUND - ROUND) as i32 as i8,
            };
        }
        Ok(())
    }
}

/// Writes `values` as the elements of `out`. The rest of the last byte becomes zero (1 for `I1`).
///
/// # Errors
/// [`Error::NotRepresentable`] by the rule, [`Error::BadStorage`] if `out` is not as long as the elements need.
pub(super) fn encode(
    dtype: BitNetDType,
    values: &[f32],
    rule: CastRule,
    out: &mut [u8],
) -> Result<()> {
    if out.len() != dtype.bytes_for(values.len())? {
        return Err(wrong_length(out.len(), values.len()));
    }
    match dtype {
        BitNetDType::F32 => out.copy_from_slice(bytemuck::cast_slice(values)),
        BitNetDType::F16 => match bytemuck::try_cast_slice_mut::<u8, u16>(out) {
            Ok(bits) => bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values),
            Err(_) => write_each(values, out, |x| f16::from_f32(x).to_ne_bytes()),
        },
        BitNetDType::BF16 => match bytemuck::try_cast_slice_mut::<u8, u16>(out) {
            Ok(bits) => bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values),
            Err(_) => write_each(values, out, |x| bf16::from_f32(x).to_ne_bytes()),
        },
        _ => {
            let (unit, _) = dtype.packing();
            let mut codes = [0i8; PIECE];
            for (values, bytes) in values.chunks(PIECE).zip(out.chunks_mut(PIECE / unit)) {
                let codes = &mut codes[..values.len()];
                rule.integers(values, dtype, codes)?;
                for (byte, codes) in bytes.iter_mut().zip(codes.chunks(unit)) {
                    *byte = pack(dtype, codes);
                }
            }
        }
    }
    Ok(())
}

fn write_each(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; 2]) {
    for (out, &x) in out.chunks_exact_mut(2).zip(values) {
        out.copy_from_slice(&bytes(x));
    }
}

/// One byte of elements that are in range.
fn pack(dtype: BitNetDType, codes: &[i8]) -> u8 {
    let mut byte = dtype.zero_byte();
    let mut power = 1u8;
    for (j, &code) in codes.iter().enumerate() {
        match dtype {
            BitNetDType::I4 => byte |= (code as u8 & 15) << (4 * j),
            BitNetDType::I2 => byte |= (code as u8 & 3) << (2 * j),
            BitNetDType::I1 => byte |= u8::from(code < 0) << j,
            BitNetDType::BitNet158 => {
                byte = byte.wrapping_add_signed(code.wrapping_mul(power as i8));
                power = power.wrapping_mul(3);
            }
            _ => byte = code as u8,
        }
    }
    byte
}

/// Reads the first `out.len()` elements of `bytes`.
///
/// # Errors
/// [`Error::BadStorage`] if the bytes are too few, [`Error::BadTrits`] for a byte that holds no five trits.
pub(super) fn decode(dtype: BitNetDType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let needed = dtype.bytes_for(out.len())?;
    let bytes = bytes.get(..needed).ok_or_else(|| wrong_length(bytes.len(), out.len()))?;
    match dtype {
        BitNetDType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
        BitNetDType::F16 => match bytemuck::try_cast_slice::<u8, u16>(bytes) {
            Ok(bits) => bits.reinterpret_cast::<f16>().convert_to_f32_slice(out),
            Err(_) => read_each(bytes, out, |b| f16::from_ne_bytes(b).to_f32()),
        },
        BitNetDType::BF16 => match bytemuck::try_cast_slice::<u8, u16>(bytes) {
            Ok(bits) => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(out),
            Err(_) => read_each(bytes, out, |b| bf16::from_ne_bytes(b).to_f32()),
        },
        BitNetDType::I8 => {
            for (out, &byte) in out.iter_mut().zip(bytes) {
                *out = f32::from(byte as i8);
            }
        }
        BitNetDType::BitNet158 => {
            if let Some(index) = bytes.iter().position(|&byte| byte > 242) {
                return Err(Error::BadTrits { index, byte: bytes[index] });
            }
            for (out, &byte) in out.chunks_mut(5).zip(bytes) {
                out.copy_from_slice(&TRITS[usize::from(byte)][..out.len()]);
            }
        }
        _ => {
            let (unit, _) = dtype.packing();
            for (out, &byte) in out.chunks_mut(unit).zip(bytes) {
                for (j, out) in out.iter_mut().enumerate() {
                    *out = f32::from(unpack(dtype, byte, j));
                }
            }
        }
    }
    Ok(())
}

fn read_each(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; 2]) -> f32) {
    for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = number(*pair);
    }
}

/// The five trits of every byte.
const TRITS: [[f32; 5]; 256] = {
    let mut table = [[0f32; 5]; 256];
    let mut byte = 0;
    while byte < 243 {
        let (mut rest, mut j) = (byte, 0);
        while j < 5 {
            table[byte][j] = (rest % 3) as f32 - 1.0;
            rest /= 3;
            j += 1;
        }
        byte += 1;
    }
    table
};

/// Element `j` of a byte.
fn unpack(dtype: BitNetDType, byte: u8, j: usize) -> i8 {
    match dtype {
        BitNetDType::I4 => ((byte >> (4 * j)) << 4) as i8 >> 4,
        BitNetDType::I2 => ((byte >> (2 * j)) << 6) as i8 >> 6,
        BitNetDType::I1 => 1 - 2 * (byte >> j & 1) as i8,
        BitNetDType::BitNet158 => (byte / 3u8.pow(j as u32) % 3) as i8 - 1,
        _ => byte as i8,
    }
}

/// Element `index` of a storage.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_at(dtype: BitNetDType, bytes: &[u8], index: usize) -> Result<f32> {
    let (elements, unit) = dtype.packing();
    let at = index / elements * unit;
    let bytes = bytes.get(at..at + unit).ok_or_else(|| wrong_length(bytes.len(), index))?;
    if dtype.is_float() {
        let mut out = [0.0];
        decode(dtype, bytes, &mut out)?;
        return Ok(out[0]);
    }
    if dtype == BitNetDType::BitNet158 && bytes[0] > 242 {
        return Err(Error::BadTrits { index: at, byte: bytes[0] });
    }
    Ok(f32::from(unpack(dtype, bytes[0], index % elements)))
}

fn wrong_length(got: usize, elements: usize) -> Error {
    Error::BadStorage { what: "elements", got, expected: format!("{elements} elements") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGERS: [BitNetDType; 5] = [
        BitNetDType::I8,
        BitNetDType::I4,
        BitNetDType::I2,
        BitNetDType::I1,
        BitNetDType::BitNet158,
    ];

    #[test]
    fn integer_codes_round_trip() {
        for dtype in INTEGERS {
            let (unit, _) = dtype.packing();
            for byte in 0..=u8::MAX {
                let mut values = vec![0.0; unit];
                if dtype == BitNetDType::BitNet158 && byte > 242 {
                    let refused = decode(dtype, &[byte], &mut values);
                    assert_eq!(refused, Err(Error::BadTrits { index: 0, byte }));
                    assert!(decode_at(dtype, &[byte], 0).is_err());
                    continue;
                }
                decode(dtype, &[byte], &mut values).unwrap();
                for rule in [CastRule::Checked, CastRule::Saturating] {
                    let mut back = [0u8];
                    encode(dtype, &values, rule, &mut back).unwrap();
                    assert_eq!(back, [byte], "{dtype} {values:?}");
                }
                for (j, &value) in values.iter().enumerate() {
                    assert_eq!(decode_at(dtype, &[byte], j), Ok(value));
                }
            }
        }
    }

    #[test]
    fn cast_rules_decide_about_numbers_out_of_range() {
        for dtype in INTEGERS {
            let (low, high) = dtype.range();
            for x in [low - 1.0, high + 1.0, f32::INFINITY, f32::NAN] {
                let refused = encode(dtype, &[x], CastRule::Checked, &mut [0]);
                assert!(matches!(refused, Err(Error::NotRepresentable { .. })), "{dtype} {x}");
            }
            assert!(encode(dtype, &[f32::NAN], CastRule::Saturating, &mut [0]).is_err());
            let mut bytes = [0u8; 2];
            let ends = &mut bytes[..dtype.bytes_for(2).unwrap()];
            encode(dtype, &[-1e30, f32::INFINITY], CastRule::Saturating, ends).unwrap();
            let mut back = [0.0; 2];
            decode(dtype, ends, &mut back).unwrap();
            assert_eq!(back, [low, high], "{dtype}");
        }
        assert!(encode(BitNetDType::I1, &[0.5], CastRule::Checked, &mut [0]).is_err());
    }

    #[test]
    fn odd_addresses_serve_half_precision() {
        let values = [1.5f32, -2.0, f32::INFINITY];
        for dtype in [BitNetDType::F16, BitNetDType::BF16] {
            let mut bytes = [0u8; 8];
            for shift in 0..2 {
                let at = &mut bytes[shift..shift + 6];
                encode(dtype, &values, CastRule::Checked, at).unwrap();
                let mut back = [0.0; 3];
                decode(dtype, at, &mut back).unwrap();
                assert_eq!(back, values);
            }
        }
    }
}
