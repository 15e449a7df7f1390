//! Q4_0 of ggml: four bits per weight and an f16 scale per 32 weights.
//!
//! ```text
//! block  32 weights -> 18 bytes: d (f16), then q[16]        value = d * (n - 8)
//!   bits      7..4   3..0
//!   byte j:   16+j   j
//! ```
//!
//! Source: ggml, `block_q4_0` and `quantize_row_q4_0_ref`.

use super::plain;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 18;

/// Decodes whole blocks.
#[inline(always)]
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = plain::f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = d * f32::from((byte & 15) as i8 - 8);
            *high = d * f32::from((byte >> 4) as i8 - 8);
        }
    }
}

/// Encodes whole blocks of finite numbers: `m` = the first number of the largest magnitude, `d = m / -8`,
/// `n = min(15, trunc(x * (1 / d) + 8.5))`, product and sum each rounded to f32, `d` stored as f16.
/// The error is the index of a number whose block scale is out of f16's range.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> Result<(), usize> {
    let blocks = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for (index, (values, out)) in values.as_chunks::<BLOCK>().0.iter().zip(blocks).enumerate() {
        let at = first_largest(values);
        let m = values[at];
        // A block of zeros of either sign has the scale -0.
        let d = if m == 0.0 { -0.0 } else { m / -8.0 };
        let stored = plain::f32_to_f16(d);
        if !plain::f16_is_finite(stored) {
            return Err(index * BLOCK + at);
        }
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out[..2].copy_from_slice(&stored.to_le_bytes());
        // The sum is 0.5 to 16.5: the cast truncates.
        let code = |x: f32| ((x * inverse + 8.5) as i32).min(15) as u8;
        let (low, high) = values.split_at(BLOCK / 2);
        for ((byte, &low), &high) in out[2..].iter_mut().zip(low).zip(high) {
            *byte = code(low) | (code(high) << 4);
        }
    }
    Ok(())
}

/// Returns the index of the first number with the largest magnitude.
#[inline(always)]
fn first_largest(values: &[f32; BLOCK]) -> usize {
    let largest = plain::largest(values).to_bits();
    let equal = |i: usize| values[i].to_bits() & 0x7fff_ffff == largest;
    // The lowest bit of a mask instead of an early exit, so that the loop vectorises.
    let mask = (0..BLOCK).fold(0u32, |mask, i| mask | (u32::from(equal(i)) << i));
    mask.trailing_zeros() as usize % BLOCK
}
