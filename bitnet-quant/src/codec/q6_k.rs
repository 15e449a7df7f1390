//! Q6_K of ggml: six bits a weight, an int8 scale for every 16 and an f16 scale for every 256.
//!
//! ```text
//! block  256 weights -> 210 bytes: ql[128], qh[64], scales[16] (i8), d (f16)
//!        two halves of 128 weights: ql[64], qh[32], scales[8]; weight e of a half, l = e % 32, takes
//!   e        low 4 bits         high 2 bits   scale
//!   0..32    ql[l]    3..0      qh[l] 1..0    0 + l/16
//!   32..64   ql[32+l] 3..0      qh[l] 3..2    2 + l/16
//!   64..96   ql[l]    7..4      qh[l] 5..4    4 + l/16
//!   96..128  ql[32+l] 7..4      qh[l] 7..6    6 + l/16
//! value = (d * scale) * (q - 32), in f32
//! ```
//!
//! Source: ggml, `block_q6_K`. Read only.

use half::f16;

/// Weights in a block.
pub(super) const BLOCK: usize = 256;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 210;

/// Decodes whole blocks.
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
        for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let ql = &block[64 * half..64 * half + 64];
            let qh = &block[128 + 32 * half..128 + 32 * half + 32];
            let scales = &block[192 + 8 * half..192 + 8 * half + 8];
            decode_half(d, ql, qh, scales, out);
        }
    }
}

/// Decodes 128 weights from `ql[64]`, `qh[32]` and `scales[8]`.
fn decode_half(d: f32, ql: &[u8], qh: &[u8], scales: &[u8], out: &mut [f32; 128]) {
    for (run, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (quarter, start) = (run / 2, 16 * (run % 2));
        let scale = d * f32::from(scales[run] as i8);
        let ql = &ql[32 * (quarter % 2) + start..][..16];
        let qh = &qh[start..start + 16];
        let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
        for ((out, &low), &high) in out.iter_mut().zip(ql).zip(qh) {
            let q = ((low >> low_shift) & 15) | (((high >> high_shift) & 3) << 4);
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}
