//! Cases of `embed`, `linear`, `rms_norm` and `rope`.

use crate::{EPS, Numbers, Rows, assert_close, dirty, pool, tensor};
use bitnet_core::backend::Backend;
use bitnet_core::backend::dense::PlainType;
use bitnet_core::backend::{RopeOrder, RopeTable};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;

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

/// Within `(cols / 16 + 8) · 2⁻²⁴ · Σ |x·w|` of the exact result.
fn linear_case(backend: &dyn Backend, (rows, cols, tokens): (usize, usize, usize), weight: &Rows) {
    let pool = pool();
    let x = Numbers::new(3).floats(tokens * cols);
    let mut out = dirty(tokens, rows, &pool);
    backend.linear(&tensor(tokens, cols, &x, &pool), weight, &mut out).unwrap();
    let values = weight.values();
    let (mut expected, mut sizes) = (vec![], vec![]);
    for x in x.chunks_exact(cols) {
        for w in values.chunks_exact(cols) {
            let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            expected.push(products().sum::<f64>());
            sizes.push(products().map(f64::abs).sum::<f64>());
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
        for plain in [PlainType::F32, PlainType::F16, PlainType::BF16] {
            for shown in [true, false] {
                let weight = Rows::new(rows, cols, &values, plain, shown);
                linear_case(backend, (rows, cols, tokens), &weight);
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
        let gain = BitNetTensor::from_f32(&[n], &weight, pool).unwrap();
        for (eps, factor) in [(1e-5f32, 1.0f32), (1e-6, 1e3), (1e-5, 1e-6), (1e-5, 0.0)] {
            let x: Vec<f32> =
                numbers.floats(tokens * heads * n).iter().map(|x| x * factor).collect();
            let mut out = dirty(tokens, heads * n, pool);
            backend.rms_norm(&tensor(tokens, heads * n, &x, pool), &gain, eps, &mut out).unwrap();
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

/// A row whose mean square is no finite f32 gives NaN throughout, never zeros.
fn rms_norm_beyond_f32(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for n in [1, 17, 100] {
        let ones = BitNetTensor::ones(&[n], pool).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e21, f32::MAX] {
            let mut x = Numbers::new(16).floats(2 * n);
            x[n / 2] = wrong;
            let mut out = tensor(2, n, &vec![0.0; 2 * n], pool);
            backend.rms_norm(&tensor(2, n, &x, pool), &ones, 1e-5, &mut out).unwrap();
            let out = out.f32().unwrap();
            assert!(out[..n].iter().all(|x| x.is_nan()), "{wrong} of {n}: {out:?}");
            assert!(out[n..].iter().all(|x| x.is_finite()), "{wrong} of {n}: {out:?}");
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
            let positions: Vec<usize> = (0..tokens).map(|i| 37 + i).collect();
            backend.rope(&mut x, head_dim, &positions, &table, order).unwrap();
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

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    embed(backend, &pool);
    linear(backend);
    rms_norm(backend, &pool);
    rms_norm_beyond_f32(backend, &pool);
    rope(backend, &pool);
}
