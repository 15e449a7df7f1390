//! Cases of `embed`, `linear`, `rms_norm`, `rope` and `attention`.

use super::*;
use bitnet_core::backend::{AttentionShape, RopeOrder, RopeTable};

fn embed(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let values = Numbers::new(2).floats(7 * 33);
    for plain in [PlainType::F32, PlainType::F16, PlainType::BF16] {
        let table = Rows::new(7, 33, &values, plain, true);
        for tokens in [&[][..], &[6], &[0, 6, 0, 3]] {
            let mut out = dirty(tokens.len(), 33, pool);
            backend.embed(&table, tokens, &mut out).unwrap();
            let values = table.values();
            let rows = tokens.iter().flat_map(|&t| &values[t as usize * 33..][..33]);
            assert_eq!(out.f32().unwrap(), rows.copied().collect::<Vec<_>>());
        }
    }
}

/// Within `(cols / 16 + 8) · 2⁻²⁴ · (Σ |x·w| + |bias|)` of the exact result.
fn linear_case(
    backend: &dyn Backend,
    (rows, cols, tokens): (usize, usize, usize),
    weight: &Rows,
    bias: Option<&[f32]>,
) {
    let pool = pool();
    let x = Numbers::new(3).floats(tokens * cols);
    let mut out = dirty(tokens, rows, &pool);
    backend.linear(&tensor(tokens, cols, &x, &pool), weight, bias, &mut out).unwrap();
    let values = weight.values();
    let (mut expected, mut sizes) = (vec![], vec![]);
    for x in x.chunks_exact(cols) {
        for (row, w) in values.chunks_exact(cols).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[row]));
            let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            expected.push(products().sum::<f64>() + bias);
            sizes.push(products().map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    let case = format!("linear {weight:?}").chars().take(90).collect::<String>();
    let factor = (cols as f64 / 16.0 + 8.0) * EPS;
    assert_close(&case, out.f32().unwrap(), &expected, |i| factor * sizes[i]);
}

fn linear(backend: &dyn Backend) {
    let shapes =
        [(1, 1, 1), (3, 15, 2), (8, 16, 4), (9, 17, 5), (40, 100, 9), (5, 300, 0), (17, 513, 1)];
    for (rows, cols, tokens) in shapes {
        let values = Numbers::new(4).floats(rows * cols);
        let bias = Numbers::new(5).floats(rows);
        for plain in [PlainType::F32, PlainType::F16, PlainType::BF16] {
            for shown in [true, false] {
                let weight = Rows::new(rows, cols, &values, plain, shown);
                linear_case(backend, (rows, cols, tokens), &weight, None);
                linear_case(backend, (rows, cols, tokens), &weight, Some(&bias));
            }
        }
    }
}

/// Within four roundings of the exact result.
fn rms_norm(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let mut numbers = Numbers::new(6);
    for (tokens, heads, n) in
        [(1, 1, 1), (0, 1, 8), (3, 1, 100), (2, 4, 16), (5, 3, 17), (1, 1, 2560)]
    {
        let weight = numbers.floats(n);
        for (eps, factor) in [(1e-5f32, 1.0f32), (1e-6, 1e3), (1e-5, 1e-6), (1e-5, 0.0)] {
            let x: Vec<f32> =
                numbers.floats(tokens * heads * n).iter().map(|x| x * factor).collect();
            let mut out = dirty(tokens, heads * n, pool);
            backend.rms_norm(&tensor(tokens, heads * n, &x, pool), &weight, eps, &mut out).unwrap();
            let mut expected = vec![];
            for x in x.chunks_exact(n) {
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
                let root = (mean + f64::from(eps)).sqrt();
                expected.extend(
                    x.iter().zip(&weight).map(|(&x, &w)| f64::from(w) * f64::from(x) / root),
                );
            }
            let bound = |i: usize| 8.0 * EPS * expected[i].abs() + 1e-44;
            assert_close("rms_norm", out.f32().unwrap(), &expected, bound);
        }
    }
}

/// Within two roundings of each product.
fn rope(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (tokens, heads, head_dim, rotated) in
        [(1, 1, 2, 2), (3, 4, 64, 64), (2, 3, 20, 12), (0, 1, 4, 4)]
    {
        let frequencies: Vec<f32> = (0..rotated / 2).map(|j| 0.7f32.powi(j as i32)).collect();
        let table = RopeTable::new(&frequencies, 40);
        for order in [RopeOrder::Halves, RopeOrder::Interleaved] {
            let before = Numbers::new(7).floats(tokens * heads * head_dim);
            let mut x = tensor(tokens, heads * head_dim, &before, pool);
            backend.rope(&mut x, head_dim, 37, &table, order).unwrap();
            let mut expected: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
            for (index, head) in expected.chunks_exact_mut(head_dim).enumerate() {
                for (j, &frequency) in frequencies.iter().enumerate() {
                    let angle = f64::from((37 + index / heads) as f32 * frequency);
                    let (a, b) = match order {
                        RopeOrder::Halves => (j, j + rotated / 2),
                        RopeOrder::Interleaved => (2 * j, 2 * j + 1),
                    };
                    let (x, y) = (head[a], head[b]);
                    head[a] = x * angle.cos() - y * angle.sin();
                    head[b] = x * angle.sin() + y * angle.cos();
                }
            }
            assert_close("rope", x.f32().unwrap(), &expected, |_| 8.0 * EPS);
        }
    }
}

/// Queries, keys and values in -1..1: a score lies within `(d / 16 + 8) · 2⁻²⁴ · d · scale` of the exact one, a
/// weight within twice that of its own size, and the sum of the values adds `(visible / 32 + 40) · 2⁻²⁴`.
fn attention_case(
    backend: &dyn Backend,
    shape: AttentionShape,
    tokens: usize,
    first: usize,
    capacity: usize,
) {
    let pool = pool();
    let AttentionShape { heads, kv_heads, head_dim, scale } = shape;
    let mut numbers = Numbers::new(8);
    let q = numbers.floats(tokens * heads * head_dim);
    let stride = kv_heads * head_dim;
    let mut cache = || {
        let mut values = numbers.floats(capacity * stride);
        // What stands beyond the last token is nobody's business.
        values[(first + tokens) * stride..].fill(f32::NAN);
        values
    };
    let (k, v) = (cache(), cache());
    let mut out = dirty(tokens, heads * head_dim, &pool);
    let on = |values: &[f32]| tensor(capacity, stride, values, &pool);
    let query = tensor(tokens, heads * head_dim, &q, &pool);
    backend.attention(&query, &on(&k), &on(&v), first, shape, &mut out).unwrap();
    let mut expected = vec![];
    for (index, q) in q.chunks_exact(head_dim).enumerate() {
        let visible = first + index / heads + 1;
        let kv = index % heads / (heads / kv_heads) * head_dim;
        let row = |cache: &[f32], p: usize, j: usize| f64::from(cache[p * stride + kv + j]);
        let score = |p: usize| -> f64 {
            (0..head_dim).map(|j| f64::from(q[j]) * row(&k, p, j)).sum::<f64>() * f64::from(scale)
        };
        let scores: Vec<f64> = (0..visible).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for j in 0..head_dim {
            let sum: f64 = (0..visible).map(|p| weights[p] * row(&v, p, j)).sum();
            expected.push(sum / total);
        }
    }
    let d = head_dim as f64;
    let scores = (d / 16.0 + 8.0) * EPS * d * f64::from(scale);
    let values = ((first + tokens) as f64 / 32.0 + 40.0) * EPS;
    let case = format!("attention {shape:?}, {tokens} tokens at {first}");
    assert_close(&case, out.f32().unwrap(), &expected, |_| 4.0 * scores + values);
}

fn attention(backend: &dyn Backend) {
    for (heads, kv_heads, head_dim) in [(1, 1, 1), (4, 2, 16), (5, 1, 20), (6, 6, 64), (20, 5, 128)]
    {
        for (tokens, first, capacity) in
            [(1, 0, 1), (3, 0, 8), (0, 2, 4), (1, 100, 101), (7, 60, 70)]
        {
            for scale in [1.0 / (head_dim as f32).sqrt(), 20.0 / head_dim as f32] {
                let shape = AttentionShape { heads, kv_heads, head_dim, scale };
                attention_case(backend, shape, tokens, first, capacity);
            }
        }
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    embed(backend, &pool);
    linear(backend);
    rms_norm(backend, &pool);
    rope(backend, &pool);
    attention(backend);
}
