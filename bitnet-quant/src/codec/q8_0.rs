//! Q8_0 of ggml: int8 weights and an f16 scale per 32 weights.
//!
//! ```text
//! block  32 weights -> 34 bytes: d (f16), then q[32] (i8)        value = d * q
//! ```
//!
//! Source: ggml, `block_q8_0` and `quantize_row_q8_0_ref`.

use super::plain;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 34;

/// Decodes whole blocks.
#[inline(always)]
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = plain::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = d * f32::from(q as i8);
        }
    }
}

/// Encodes whole blocks of finite numbers: `d = max|x| / 127`, `q = round_half_away(x * (1 / d))`, `d` stored as f16.
/// The error is the index of a number whose block scale is out of f16's range.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> Result<(), usize> {
    let blocks = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for (index, (values, out)) in values.as_chunks::<BLOCK>().0.iter().zip(blocks).enumerate() {
        let largest = plain::largest(values);
        let d = largest / 127.0;
        let stored = plain::f32_to_f16(d);
        if !plain::f16_is_finite(stored) {
            let at = values.iter().position(|v| v.abs() == largest).unwrap_or(0);
            return Err(index * BLOCK + at);
        }
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out[..2].copy_from_slice(&stored.to_le_bytes());
        for (q, &x) in out[2..].iter_mut().zip(values) {
            *q = round_half_away(x * inverse) as u8;
        }
    }
    Ok(())
}

/// Returns a number below 2^22 in magnitude, rounded; halves go away from zero.
#[inline(always)]
fn round_half_away(x: f32) -> i32 {
    /// The largest number below 1/2; 1/2 itself would round numbers just below a half up.
    const BELOW_HALF: f32 = f32::from_bits(0x3eff_ffff);
    (x + BELOW_HALF.copysign(x)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_equals_the_standard_library() {
        for half in -300i16..=300 {
            let middle = f32::from(half) / 2.0;
            for x in [middle, middle.next_up(), middle.next_down(), middle + 0.3, middle - 0.1] {
                assert_eq!(round_half_away(x), x.round() as i32, "{x:?}");
            }
        }
    }
}
