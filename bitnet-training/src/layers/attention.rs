//! Causal attention with grouped key/value heads over independent segments (one story each).
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice, linalg::general_mat_mul};

/// Heads and their width.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Width of the fused projection: queries, then keys, then values.
    #[must_use]
    pub fn fused(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Returns the columns of query head `head` and of its key and value heads.
    fn columns(&self, head: usize) -> [usize; 3] {
        let kv = head / (self.heads / self.kv_heads);
        [head, self.heads + kv, self.heads + self.kv_heads + kv].map(|h| h * self.head_dim)
    }
}

/// Computes attention within one segment of `tokens` rows.
///
/// `qkv[tokens, fused]` is already rotated; `output[tokens, heads·head_dim]` is overwritten;
/// `probabilities[heads, tokens, tokens]` stores the softmax for the backward pass.
///
/// # Panics
/// If the length of a slice differs from its shape.
pub fn attention_forward(
    output: &mut [f32],
    probabilities: &mut [f32],
    qkv: &[f32],
    tokens: usize,
    shape: AttentionShape,
) {
    let d = shape.head_dim;
    let scale = 1.0 / (d as f32).sqrt();
    let qkv = ArrayView2::from_shape((tokens, shape.fused()), qkv).expect("qkv is [tokens, fused]");
    let mut output = ArrayViewMut2::from_shape((tokens, shape.heads * d), output)
        .expect("output is [tokens, hidden]");
    for (head, p) in probabilities.chunks_exact_mut(tokens * tokens).enumerate() {
        let [q, k, v] = shape.columns(head).map(|c| qkv.slice_axis(Axis(1), Slice::from(c..c + d)));
        let mut scores =
            ArrayViewMut2::from_shape((tokens, tokens), &mut *p).expect("scores are square");
        general_mat_mul(scale, &q, &k.t(), 0.0, &mut scores);
        for (i, row) in p.chunks_exact_mut(tokens).enumerate() {
            let (seen, future) = row.split_at_mut(i + 1);
            softmax(seen);
            future.fill(0.0);
        }
        let p = ArrayView2::from_shape((tokens, tokens), &*p).expect("scores are square");
        general_mat_mul(
            1.0,
            &p,
            &v,
            0.0,
            &mut output.slice_axis_mut(Axis(1), Slice::from(head * d..(head + 1) * d)),
        );
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= inverse);
}

/// Overwrites `d_qkv[tokens, fused]` with the gradient of [`attention_forward`] for one segment.
///
/// # Panics
/// If the length of a slice differs from its shape.
pub fn attention_backward(
    d_qkv: &mut [f32],
    d_output: &[f32],
    probabilities: &[f32],
    qkv: &[f32],
    tokens: usize,
    shape: AttentionShape,
) {
    let d = shape.head_dim;
    let scale = 1.0 / (d as f32).sqrt();
    let qkv = ArrayView2::from_shape((tokens, shape.fused()), qkv).expect("qkv is [tokens, fused]");
    let d_output = ArrayView2::from_shape((tokens, shape.heads * d), d_output)
        .expect("output is [tokens, hidden]");
    d_qkv.fill(0.0);
    let mut d_qkv =
        ArrayViewMut2::from_shape((tokens, shape.fused()), d_qkv).expect("qkv is [tokens, fused]");
    let mut d_scores = Array2::<f32>::zeros((tokens, tokens));
    for (head, p) in probabilities.chunks_exact(tokens * tokens).enumerate() {
        let [cq, ck, cv] = shape.columns(head);
        let [q, k, v] = [cq, ck, cv].map(|c| qkv.slice_axis(Axis(1), Slice::from(c..c + d)));
        let p = ArrayView2::from_shape((tokens, tokens), p).expect("scores are square");
        let dy = d_output.slice_axis(Axis(1), Slice::from(head * d..(head + 1) * d));
        general_mat_mul(
            1.0,
            &p.t(),
            &dy,
            1.0,
            &mut d_qkv.slice_axis_mut(Axis(1), Slice::from(cv..cv + d)),
        );
        general_mat_mul(1.0, &dy, &v.t(), 0.0, &mut d_scores);
        for (mut ds, p) in d_scores.rows_mut().into_iter().zip(p.rows()) {
            let mean: f32 = ds.iter().zip(p).map(|(ds, p)| ds * p).sum();
            ds.zip_mut_with(&p, |ds, p| *ds = scale * p * (*ds - mean));
        }
        general_mat_mul(
            1.0,
            &d_scores,
            &k,
            1.0,
            &mut d_qkv.slice_axis_mut(Axis(1), Slice::from(cq..cq + d)),
        );
        general_mat_mul(
            1.0,
            &d_scores.t(),
            &q,
            1.0,
            &mut d_qkv.slice_axis_mut(Axis(1), Slice::from(ck..ck + d)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn backward_agrees_with_finite_differences() {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 6 };
        let tokens = 5;
        let (x, dy) = (random(tokens * shape.fused(), 1), random(tokens * 24, 2));
        let run = |x: &[f32]| {
            let (mut y, mut p) = (vec![0.0; tokens * 24], vec![0.0; 4 * tokens * tokens]);
            attention_forward(&mut y, &mut p, x, tokens, shape);
            (y, p)
        };
        let mut dx = vec![0.0; x.len()];
        attention_backward(&mut dx, &dy, &run(&x).1, &x, tokens, shape);
        assert_gradient(&x, &dx, &dy, |x| run(x).0);
    }
}
