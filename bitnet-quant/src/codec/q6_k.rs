//! Q6_K of ggml: six bits per weight, an int8 scale per 16 and an f16 scale per 256 weights.
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
//! Source: ggml, `block_q6_K` and `quantize_row_q6_K_ref`.

use super::plain;

/// Weights in a block.
pub(super) const BLOCK: usize = 256;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 210;

/// Decodes whole blocks.
#[inline(always)]
pub(super) fn decode(stored: &[u8], out: &mut [f32]) {
    for (block, out) in
        stored.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0)
    {
        let d = plain::f16_to_f32(u16::from_le_bytes([block[208], block[209]]));
        for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let ql = &block[64 * half..64 * half + 64];
            let qh = &block[128 + 32 * half..128 + 32 * half + 32];
            let scales = &block[192 + 8 * half..192 + 8 * half + 8];
            decode_half(d, ql, qh, scales, out);
        }
    }
}

/// Decodes 128 weights from `ql[64]`, `qh[32]` and `scales[8]`.
#[inline(always)]
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

/// Weights that share an int8 scale, and runs of them in a block.
const RUN: usize = 16;
/// Magnitudes below this count as zero.
const NOTHING: f32 = 1e-15;
/// One number per run of a block.
type Lanes = [f32; BLOCK / RUN];

/// Encodes whole blocks of finite numbers, bit for bit like ggml's reference quantiser.
///
/// Each run of 16 gets the scale `s` that makes `sum(x^2 (x - s q)^2)` smallest over 19 trials, of which trial `t` is
/// `q = clamp(round_half_even(x * -(32 + t / 10) / m), -32, 31)` with `m` the first number of the largest magnitude.
/// The scales are stored as `round_half_even(s * -128 / S)`, at most 127, `S` the first of the largest magnitude; the
/// weights are rounded again with the stored scales. If a stored scale is 0, the weights of the best trial remain.
///
/// The error is the index of a number whose block scale is out of f16's range.
#[inline(always)]
pub(super) fn encode(values: &[f32], out: &mut [u8]) -> Result<(), usize> {
    let blocks = out.as_chunks_mut::<BLOCK_BYTES>().0;
    for (index, (values, out)) in values.as_chunks::<BLOCK>().0.iter().zip(blocks).enumerate() {
        encode_block(values, out).map_err(|at| index * BLOCK + at)?;
    }
    Ok(())
}

#[inline(always)]
fn encode_block(values: &[f32; BLOCK], out: &mut [u8; BLOCK_BYTES]) -> Result<(), usize> {
    // Runs are transposed: each sum keeps the order of its run while sixteen sums advance together.
    let mut turned = [[0f32; BLOCK / RUN]; RUN];
    for (run, values) in values.as_chunks::<RUN>().0.iter().enumerate() {
        for (lanes, &value) in turned.iter_mut().zip(values) {
            lanes[run] = value;
        }
    }
    let (scales, inverses) = best_scales(&turned);
    let too_large = |run: usize| {
        let values = &values[run * RUN..][..RUN];
        run * RUN
            + (0..RUN)
                .rev()
                .max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()))
                .unwrap_or(0)
    };
    if let Some(run) = scales.iter().position(|s| !s.is_finite()) {
        return Err(too_large(run));
    }
    let mut top = 0;
    for run in 1..scales.len() {
        if scales[run].abs() > scales[top].abs() {
            top = run;
        }
    }
    if scales[top].abs() < NOTHING {
        out.fill(0);
        return Ok(());
    }
    let inverse = -128.0 / scales[top];
    let stored = plain::f32_to_f16(1.0 / inverse);
    if !plain::f16_is_finite(stored) {
        return Err(too_large(top));
    }
    let d = plain::f16_to_f32(stored);
    let mut codes = [0u8; BLOCK];
    for (run, codes) in codes.as_chunks_mut::<RUN>().0.iter_mut().enumerate() {
        let small = nearest(inverse * scales[run]).min(127.0);
        out[192 + run] = small as i8 as u8;
        let step = d * small;
        for (code, lanes) in codes.iter_mut().zip(&turned) {
            let x = lanes[run];
            let q = if step == 0.0 { nearest(x * inverses[run]) } else { nearest(x / step) };
            *code = (q.clamp(-32.0, 31.0) + 32.0) as u8;
        }
        if inverses[run] == 0.0 && step == 0.0 {
            codes.fill(0);
        }
    }
    pack(&codes, out);
    out[208..].copy_from_slice(&stored.to_le_bytes());
    Ok(())
}

/// Returns the scale of each run and the rounding factor of its best trial; both 0 for a run of zeros.
#[inline(always)]
fn best_scales(turned: &[Lanes; RUN]) -> (Lanes, Lanes) {
    let mut largest = [0f32; BLOCK / RUN];
    for lanes in turned {
        for (largest, &x) in largest.iter_mut().zip(lanes) {
            *largest = if x.abs() > largest.abs() { x } else { *largest };
        }
    }
    let (mut scales, mut inverses, mut best) = ([0f32; 16], [0f32; 16], [0f32; 16]);
    for trial in 0..19u8 {
        // The first trial is the middle one; the others follow from the lowest.
        let t = if trial == 0 { 0.0 } else { f32::from(trial as i8 - 10 + i8::from(trial > 9)) };
        let numerator = -(32.0 + 0.1 * t);
        let factors = largest.map(|m| numerator / m);
        let (products, squares) = sums(turned, &factors);
        for run in 0..16 {
            let (product, square) = (products[run], squares[run]);
            let better = product * product > best[run] * square;
            if trial == 0 || (square > 0.0 && better) {
                let scale = if square == 0.0 { 0.0 } else { product / square };
                scales[run] = scale;
                best[run] = scale * product;
                inverses[run] = factors[run];
            }
        }
    }
    for run in 0..16 {
        if largest[run].abs() < NOTHING {
            (scales[run], inverses[run]) = (0.0, 0.0);
        }
    }
    (scales, inverses)
}

/// `sum(x^3 q)` and `sum(x^2 q^2)` of each run, with the numbers rounded by the run's factor.
#[inline(always)]
fn sums(turned: &[Lanes; RUN], factors: &Lanes) -> (Lanes, Lanes) {
    let (mut products, mut squares) = ([0f32; BLOCK / RUN], [0f32; BLOCK / RUN]);
    for lanes in turned {
        for run in 0..BLOCK / RUN {
            let x = lanes[run];
            let q = nearest(factors[run] * x).clamp(-32.0, 31.0);
            let weight = x * x;
            products[run] += weight * x * q;
            squares[run] += weight * q * q;
        }
    }
    (products, squares)
}

/// Returns a number below 2^22 in magnitude, rounded half to even.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    /// 1.5 * 2^23: floats of this size have no fraction.
    const LARGE: f32 = 12_582_912.0;
    (x + LARGE) - LARGE
}

/// Packs six-bit codes into a block.
#[inline(always)]
fn pack(codes: &[u8; BLOCK], out: &mut [u8; BLOCK_BYTES]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let q = [codes[l], codes[32 + l], codes[64 + l], codes[96 + l]];
            out[64 * half + l] = (q[0] & 15) | (q[2] << 4);
            out[64 * half + 32 + l] = (q[1] & 15) | (q[3] << 4);
            out[128 + 32 * half + l] =
                (q[0] >> 4) | (q[1] >> 4 << 2) | (q[2] >> 4 << 4) | (q[3] >> 4 << 6);
        }
    }
}
