//! Dense operations, scalar: embedding, linear layer, norm, rotation, attention, gate, and reading plain floats.

use crate::Result;
use crate::backend::dense::{DenseRows, PlainType};
use crate::backend::{Activation, AttentionShape, RopeOrder, RopeTable};

/// Decodes row `tokens[i]` of `table` into row `i` of `out` (`[tokens, hidden]`).
///
/// # Errors
/// Those of [`DenseRows::decode_row`].
pub fn embed(table: &dyn DenseRows, tokens: &[u32], out: &mut [f32]) -> Result<()> {
    for (out, &token) in out.chunks_exact_mut(table.cols().max(1)).zip(tokens) {
        table.decode_row(token as usize, out)?;
    }
    Ok(())
}

/// `out[t, r] = Σ_c x[t, c] * weight[r, c]`, summed in f64.
///
/// # Errors
/// Those of [`DenseRows::decode_row`].
pub fn linear(x: &[f32], weight: &dyn DenseRows, out: &mut [f32]) -> Result<()> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut row = vec![0f32; cols];
    for r in 0..rows {
        weight.decode_row(r, &mut row)?;
        for (x, out) in x.chunks_exact(cols.max(1)).zip(out.chunks_exact_mut(rows)) {
            let sum: f64 = x.iter().zip(&row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            out[r] = sum as f32;
        }
    }
    Ok(())
}

/// `out = weight * (x / sqrt(mean(x²) + eps))` over each run of `weight.len()` components. NaN throughout where the
/// mean is not finite in f32: dividing by infinity would give zeros.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    assert!(n > 0 && x.len() == out.len() && x.len().is_multiple_of(n));
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mean = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / n as f64;
        let factor = rms_factor(mean as f32, eps);
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = w * (x * factor);
        }
    }
}

/// `1 / sqrt(mean + eps)`; NaN if the mean is not finite.
#[inline(always)]
pub fn rms_factor(mean: f32, eps: f32) -> f32 {
    if mean.is_finite() { 1.0 / (mean + eps).sqrt() } else { f32::NAN }
}

/// Rotates one head (`[head_dim]`) that stands at `position`, in place.
///
/// # Panics
/// If the position is not in the table or the head is shorter than the rotated part.
pub fn rope(head: &mut [f32], position: usize, table: &RopeTable, order: RopeOrder) {
    let half = table.dim / 2;
    let cos = &table.cos[position * half..(position + 1) * half];
    let sin = &table.sin[position * half..(position + 1) * half];
    for j in 0..half {
        let (a, b) = match order {
            RopeOrder::Halves => (j, j + half),
            RopeOrder::Interleaved => (2 * j, 2 * j + 1),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos[j] - y * sin[j];
        head[b] = y * cos[j] + x * sin[j];
    }
}

/// Causal attention: `q` and `out` are `[tokens, heads * head_dim]`, `k` and `v` are
/// `[positions, kv_heads * head_dim]`; token `i` stands at `first + i`.
///
/// # Panics
/// If the slices are too short for the shape.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    first: usize,
    shape: AttentionShape,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, head_dim, scale, .. } = shape;
    let width = heads * head_dim;
    let stride = kv_heads * head_dim;
    let mut scores = vec![0f32; first + q.len() / width];
    for (token, (q, out)) in q.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        let visible = shape.first_visible(first + token)..first + token + 1;
        for head in 0..heads {
            let kv = head / (heads / kv_heads) * head_dim;
            let range = head * head_dim..(head + 1) * head_dim;
            let (query, scores) = (&q[range.clone()], &mut scores[visible.clone()]);
            for (position, score) in visible.clone().zip(&mut *scores) {
                let key = &k[position * stride + kv..][..head_dim];
                let products = query.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b));
                *score = products.sum::<f64>() as f32 * scale;
            }
            softmax(scores);
            for (j, out) in out[range].iter_mut().enumerate() {
                let values = visible
                    .clone()
                    .zip(&*scores)
                    .map(|(position, &p)| f64::from(p) * f64::from(v[position * stride + kv + j]));
                *out = values.sum::<f64>() as f32;
            }
        }
    }
}

/// One value through an activation function.
pub fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu2 => {
            // Not `max`, which would make 0 of NaN.
            let positive = if x < 0.0 { 0.0 } else { x };
            positive * positive
        }
        Activation::GeluTanh => {
            let inner = 0.797_884_6_f32 * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Sigmoid if x.is_infinite() => f32::NAN,
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// `gate = activation(gate) * up`.
pub fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = activate(activation, *g) * u;
    }
}

/// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`; NaN stays NaN.
pub(super) fn clamped_gate(limit: f32, gate: &mut [f32], up: &[f32]) {
    for (g, &u) in gate.iter_mut().zip(up) {
        // Not `min`, which would make a number of NaN.
        let bounded = if *g > limit { limit } else { *g };
        *g = activate(Activation::Silu, bounded) * u.clamp(-limit, limit);
    }
}

/// `out[t] = Σ_j weights[t * n + j] * x[t * n + j]` over the `n` rows of each token, in their order.
///
/// # Panics
/// If the lengths do not fit.
pub(super) fn weighted_sum(x: &[f32], weights: &[f32], each: usize, out: &mut [f32]) {
    out.fill(0.0);
    if each == 0 || x.is_empty() {
        return;
    }
    let cols = x.len() / weights.len();
    for (token, out) in out.chunks_exact_mut(cols).enumerate() {
        for row in token * each..(token + 1) * each {
            for (out, x) in out.iter_mut().zip(&x[row * cols..][..cols]) {
                *out += weights[row] * x;
            }
        }
    }
}

/// Softmax of one row in place; an empty row stays empty.
fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0f64;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        sum += f64::from(*x);
    }
    let factor = (1.0 / sum) as f32;
    for x in row {
        *x *= factor;
    }
}

/// Little-endian elements of a plain float type as f32.
///
/// # Panics
/// If `bytes` is not `out.len()` elements long.
pub fn to_f32(plain: PlainType, bytes: &[u8], out: &mut [f32]) {
    match plain {
        PlainType::F32 => read_each(bytes, out, f32::from_le_bytes),
        PlainType::F16 => read_each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        PlainType::BF16 => read_each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
    }
}

fn read_each<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    assert_eq!(bytes.len(), out.len() * N);
    for (out, &element) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = number(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rope_orders_rotate_the_same_pairs_by_other_names() {
        let table = RopeTable::new(&[1.0, 0.1], 8);
        let mut halves = [1.0, 2.0, 3.0, 4.0];
        let mut interleaved = [1.0, 3.0, 2.0, 4.0];
        rope(&mut halves, 3, &table, RopeOrder::Halves);
        rope(&mut interleaved, 3, &table, RopeOrder::Interleaved);
        assert_eq!(halves, [interleaved[0], interleaved[2], interleaved[1], interleaved[3]]);
        let expected = 1.0 * 3f32.cos() - 3.0 * 3f32.sin();
        assert!((halves[0] - expected).abs() < 1e-6);
    }

    #[test]
    fn attention_sees_the_past_only_and_groups_heads() {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 1, scale: 1.0, window: None };
        let k = [0.0, 0.0, 100.0];
        let v = [1.0, 3.0, 1000.0];
        let mut out = [0.0; 4];
        attention(&[1.0, -1.0, 1.0, -1.0], &k, &v, 0, shape, &mut out);
        assert_eq!(out, [1.0, 1.0, 2.0, 2.0]);
        let window = AttentionShape { window: Some(1), ..shape };
        attention(&[1.0, -1.0, 1.0, -1.0], &k, &v, 0, window, &mut out);
        assert_eq!(out, [1.0, 1.0, 3.0, 3.0]);
    }

    #[test]
    fn norm_activation_and_softmax_follow_their_formulas() {
        let mut out = [0.0; 4];
        rms_norm(&[3.0, 4.0, 0.0, 0.0], &[2.0, 1.0], 0.0, &mut out[..]);
        let factor = 1.0 / 12.5f32.sqrt();
        assert_eq!(out[..2], [2.0 * (3.0 * factor), 4.0 * factor]);
        assert!(out[2].is_nan(), "0 / 0 without eps");
        assert_eq!(activate(Activation::Relu2, -3.0), 0.0);
        assert_eq!(activate(Activation::Relu2, 3.0), 9.0);
        for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
            assert!(activate(activation, f32::NAN).is_nan(), "{activation}");
        }
        for wrong in [f32::NAN, f32::INFINITY, 1e20] {
            rms_norm(&[3.0, wrong], &[1.0, 1.0], 1e-5, &mut out[..2]);
            assert!(out[0].is_nan() && out[1].is_nan(), "{wrong}: {out:?}");
        }
        assert!((activate(Activation::Silu, 1.0) - 0.731_058_6).abs() < 1e-6);
        assert!((activate(Activation::GeluTanh, 1.0) - 0.841_192).abs() < 1e-5);
        let mut row = [1000.0, 1000.0];
        softmax(&mut row);
        assert_eq!(row, [0.5, 0.5]);
    }

    #[test]
    fn plain_floats_decode() {
        let mut out = [0.0; 2];
        to_f32(PlainType::F16, &[0x00, 0x3c, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        to_f32(PlainType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }
}
