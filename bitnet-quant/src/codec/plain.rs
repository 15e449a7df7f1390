//! Plain floats, little-endian and unaligned: F32, F16 and BF16.
//!
//! ```text
//! F32   31 sign, 30..23 exponent, 22..0 fraction
//! F16   15 sign, 14..10 exponent,  9..0 fraction
//! BF16  15 sign, 14..7  exponent,  6..0 fraction: the upper half of an F32
//! ```

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Halves converted at a time.
const CHUNK: usize = 256;

pub(super) fn decode_f32(stored: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn decode_f16(stored: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (out, stored) in out.chunks_mut(CHUNK).zip(stored.chunks(2 * CHUNK)) {
        let halves = &mut halves[..out.len()];
        for (half, bytes) in halves.iter_mut().zip(stored.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(out);
    }
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
