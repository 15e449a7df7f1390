//! Plain floats, little-endian and unaligned: F32, F16 and BF16.
//!
//! ```text
//! F32   31 sign, 30..23 exponent, 22..0 fraction
//! F16   15 sign, 14..10 exponent,  9..0 fraction
//! BF16  15 sign, 14..7  exponent,  6..0 fraction: the upper half of an F32
//! ```
//!
//! Numbers are rounded half to even. Every conversion is one branchless loop, so that it vectorises.

use bitnet_core::dense::PlainType;

/// Returns the bytes of a number.
pub(super) fn width(plain: PlainType) -> usize {
    match plain {
        PlainType::F32 => 4,
        PlainType::F16 | PlainType::BF16 => 2,
    }
}

/// Decodes numbers, up to the shorter of both slices.
#[inline(always)]
pub(super) fn decode(plain: PlainType, stored: &[u8], out: &mut [f32]) {
    match plain {
        PlainType::F32 => each::<4>(stored, out, |bytes| f32::from_le_bytes(*bytes)),
        PlainType::F16 => each::<2>(stored, out, |b| f16_to_f32(u16::from_le_bytes(*b))),
        PlainType::BF16 => each::<2>(stored, out, |b| bf16_to_f32(u16::from_le_bytes(*b))),
    }
}

#[inline(always)]
fn each<const N: usize>(stored: &[u8], out: &mut [f32], value: impl Fn(&[u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(stored.as_chunks::<N>().0) {
        *out = value(bytes);
    }
}

/// Encodes numbers; returns false if one is not finite or out of range.
#[inline(always)]
pub(super) fn encode(plain: PlainType, values: &[f32], out: &mut [u8]) -> bool {
    let values = values.iter().copied();
    match plain {
        PlainType::F32 => store::<4>(values, out, to_f32),
        PlainType::F16 => store::<2>(values, out, to_f16),
        PlainType::BF16 => store::<2>(values, out, to_bf16),
    }
}

/// Combines [`decode`] and [`encode`] without an intermediate buffer.
#[inline(always)]
pub(super) fn convert(from: PlainType, to: PlainType, stored: &[u8], out: &mut [u8]) -> bool {
    let halves = stored.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match from {
        PlainType::F32 => {
            let values = stored.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            store_as(to, values, out)
        }
        PlainType::F16 => store_as(to, halves.map(f16_to_f32), out),
        PlainType::BF16 => store_as(to, halves.map(bf16_to_f32), out),
    }
}

#[inline(always)]
fn store_as(to: PlainType, values: impl Iterator<Item = f32>, out: &mut [u8]) -> bool {
    match to {
        PlainType::F32 => store::<4>(values, out, to_f32),
        PlainType::F16 => store::<2>(values, out, to_f16),
        PlainType::BF16 => store::<2>(values, out, to_bf16),
    }
}

#[inline(always)]
fn store<const N: usize>(
    values: impl Iterator<Item = f32>,
    out: &mut [u8],
    stored: impl Fn(f32) -> ([u8; N], bool),
) -> bool {
    let mut sound = true;
    for (out, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        let (bytes, finite) = stored(value);
        *out = bytes;
        sound &= finite;
    }
    sound
}

#[inline(always)]
fn to_f32(value: f32) -> ([u8; 4], bool) {
    (value.to_le_bytes(), value.is_finite())
}

#[inline(always)]
fn to_f16(value: f32) -> ([u8; 2], bool) {
    let bits = f32_to_f16(value);
    (bits.to_le_bytes(), f16_is_finite(bits))
}

#[inline(always)]
fn to_bf16(value: f32) -> ([u8; 2], bool) {
    let bits = f32_to_bf16(value);
    (bits.to_le_bytes(), value.is_finite() & (bits & 0x7f80 != 0x7f80))
}

/// Returns the largest magnitude among finite numbers.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    // Magnitudes order like their bits, and a maximum of integers is associative.
    f32::from_bits(values.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)))
}

/// Returns whether all numbers are finite.
#[inline(always)]
pub(super) fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |finite, v| finite & v.is_finite())
}

/// Returns the value of a binary16, without branches, so that loops vectorise on any processor.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
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

/// Returns the nearest binary16, ties to even, infinite from 65520, without branches. NaN becomes infinite.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    /// The bits of 2^-14 and of 65536.
    const MIN_NORMAL: u32 = 113 << 23;
    const TOO_LARGE: u32 = 143 << 23;
    /// Adding it to a number below 2^-14 leaves the fraction bits of a subnormal binary16.
    const ALIGN: f32 = f32::from_bits(126 << 23);
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let small = (f32::from_bits(magnitude) + ALIGN).to_bits().wrapping_sub(ALIGN.to_bits());
    // Half of the last place, minus one if the last place is even; a carry propagates into the exponent.
    let half = 0xfff + ((magnitude >> 13) & 1);
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(half) >> 13;
    let half = if magnitude < MIN_NORMAL { small } else { normal };
    let half = if magnitude >= TOO_LARGE { 0x7c00 } else { half };
    (half | ((bits >> 16) & 0x8000)) as u16
}

/// Returns whether the bits of a binary16 are finite.
#[inline(always)]
pub(super) fn f16_is_finite(bits: u16) -> bool {
    bits & 0x7c00 != 0x7c00
}

#[inline(always)]
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns the nearest bfloat16 of a number that is not NaN, ties to even.
#[inline(always)]
fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_half_decodes_to_its_value() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{bits:#x}: {ours} {expected}"
            );
            let expected = bf16::from_bits(bits).to_f32();
            assert!(bf16_to_f32(bits).to_bits() == expected.to_bits() || expected.is_nan());
        }
    }

    /// Every binary16, the midpoint to the next, and the neighbours of both.
    #[test]
    fn numbers_round_as_in_the_half_crate() {
        for bits in 0..=u16::MAX {
            let ours = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            let coarse = bf16::from_bits(bits).to_f32();
            let ends =
                [ours, (ours + next) / 2.0, coarse, f32::from_bits(coarse.to_bits() | 0x8000)];
            for x in ends.into_iter().flat_map(|x| [x, x.next_up(), x.next_down()]) {
                if x.is_nan() {
                    continue;
                }
                assert_eq!(f32_to_f16(x), f16::from_f32(x).to_bits(), "{x:?} as F16");
                assert_eq!(f32_to_bf16(x), bf16::from_f32(x).to_bits(), "{x:?} as BF16");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_told() {
        let full = f32::from_bits(0x7fff_ffff);
        for bad in [f32::NAN, full, -full, f32::INFINITY, f32::NEG_INFINITY] {
            for plain in [PlainType::F32, PlainType::F16, PlainType::BF16] {
                let mut out = [0; 8];
                assert!(
                    !encode(plain, &[1.0, bad], &mut out[..2 * width(plain)]),
                    "{bad} {plain:?}"
                );
                assert!(encode(plain, &[1.0, -2.5], &mut out[..2 * width(plain)]));
            }
        }
        assert!(!encode(PlainType::F16, &[65520.0], &mut [0; 2]));
        assert!(encode(PlainType::F16, &[65519.99], &mut [0; 2]));
        assert!(!encode(PlainType::BF16, &[f32::MAX], &mut [0; 2]));
    }
}
