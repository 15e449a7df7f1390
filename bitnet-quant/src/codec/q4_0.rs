//! Q4_0 of ggml: four bits a weight and an f16 scale for every 32.
//!
//! ```text
//! block  32 weights -> 18 bytes: d (f16), then q[16]        value = d * (n - 8)
//!   bits      7..4   3..0
//!   byte j:   16+j   j
//! ```
//!
//! Source: ggml, `block_q4_0`. Read only.

use half::f16;

/// Weights in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 18;

/// Decodes whole blocks.
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = d * f32::from((byte & 15) as i8 - 8);
            *high = d * f32::from((byte >> 4) as i8 - 8);
        }
    }
}
