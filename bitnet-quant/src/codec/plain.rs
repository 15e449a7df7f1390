//! Plain floats, little-endian and unaligned: F32, F16 and BF16.
//!
//! ```text
//! F32   31 sign, 30..23 exponent, 22..0 fraction
//! F16   15 sign, 14..10 exponent,  9..0 fraction
//! BF16  15 sign, 14..7  exponent,  6..0 fraction: the upper half of an F32
//! ```

use half::{bf16, f16};

pub(super) fn decode_f32(stored: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn decode_f16(stored: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<2>().0) {
        *out = f16_to_f32(u16::from_le_bytes(*bytes));
    }
}

/// The value of a binary16, without branches, so that a loop over it becomes vector code on any processor.
fn f16_to_f32(bits: u16) -> f32 {
    /// 2^-14, the smallest normal number of binary16.
    const MIN_NORMAL: f32 = f32::from_bits(113 << 23);
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let exponent = magnitude & (0x1f << 23);
    let rebiased = magnitude + ((127 - 15) << 23);
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - MIN_NORMAL).to_bits();
    let special = magnitude | (0xff << 23);
    let value = if exponent == 0 { subnormal } else { rebiased };
    let value = if exponent == 0x1f << 23 { special } else { value };
    f32::from_bits(value | (u32::from(bits & 0x8000) << 16))
}

pub(super) fn decode_bf16(stored: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// Appends finite numbers as F16; the index of one that F16 can't hold is the error.
pub(super) fn encode_f16(values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    for (index, &value) in values.iter().enumerate() {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(index);
        }
        out.extend_from_slice(&half.to_le_bytes());
    }
    Ok(())
}

/// Appends finite numbers as BF16; the index of one that BF16 can't hold is the error.
pub(super) fn encode_bf16(values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    for (index, &value) in values.iter().enumerate() {
        let half = bf16::from_f32(value);
        if !half.is_finite() {
            return Err(index);
        }
        out.extend_from_slice(&half.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_decodes_to_its_value() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{bits:#x}: {ours} {expected}"
            );
        }
    }
}
