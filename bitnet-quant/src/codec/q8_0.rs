//! Q8_0 of ggml: int8 weights and an f16 scale for every 32.
//!
//! ```text
//! block  32 weights -> 34 bytes: d (f16), then q[32] (i8)        value = d * q
//! ```
//!
//! Source: ggml, `block_q8_0` and `quantize_row_q8_0_ref`.

use half::f16;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 34;

/// Decodes whole blocks.
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = d * f32::from(q as i8);
        }
    }
}

/// Appends whole blocks of finite numbers: `d = max|x| / 127`, `q = round_half_away(x * (1 / d))`, `d` stored as f16.
/// The index of a number whose block's scale f16 can't hold is the error.
pub(super) fn encode(values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    for (index, block) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
        let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
        let d = largest / 127.0;
        let stored = f16::from_f32(d);
        if !stored.is_finite() {
            let at = block.iter().position(|v| v.abs() == largest).unwrap_or(0);
            return Err(index * BLOCK + at);
        }
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out.extend_from_slice(&stored.to_le_bytes());
        out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
    Ok(())
}
