//! Cases of `add_doubled`, alone and after `bit_linear`.

use crate::{EPS, Numbers, assert_close, bits, pool, tensor};
use bitnet_core::backend::{ActivationPrecision, Backend};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{DoubledWeights, ScaleGranularity, TernaryMatrix};

/// A matrix of trits and weights of +2, one of `every` weights, and its values.
fn matrix(rows: usize, cols: usize, every: usize) -> (TernaryMatrix, DoubledWeights, Vec<f32>) {
    let mut random = Numbers::new(60);
    let values: Vec<i8> = random
        .floats(rows * cols)
        .iter()
        .enumerate()
        .map(|(index, x)| if index % every == 3 { 2 } else { (x * 1.5).round() as i8 })
        .collect();
    let scales: Vec<f32> = random.floats(rows * cols / 64).iter().map(|x| x.abs() + 0.1).collect();
    let trits: Vec<i8> = values.iter().map(|&value| value.clamp(-1, 1)).collect();
    let granularity = ScaleGranularity::Group(64);
    let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
    let places = (0..rows * cols).filter(|&index| values[index] == 2);
    let places: Vec<_> = places.map(|index| (index / cols, index % cols)).collect();
    let doubled = DoubledWeights::new(&matrix, &places).unwrap();
    let dense = (0..rows * cols)
        .map(|index| matrix.scale_at(index / cols, index % cols) * f32::from(values[index]))
        .collect();
    (matrix, doubled, dense)
}

/// Bit for bit the reference alone, and within the bounds of both operations with trits.
fn sums(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (tokens, rows, cols, every) in
        [(1, 5, 64, 7), (3, 70, 192, 5), (9, 33, 128, 100), (1, 700, 256, 1000), (0, 3, 64, 7)]
    {
        let (matrix, doubled, dense) = matrix(rows, cols, every);
        let x = Numbers::new(61).floats(tokens * cols);
        let input = tensor(tokens, cols, &x, pool);
        let start = Numbers::new(62).floats(tokens * rows);
        let mut out = tensor(tokens, rows, &start, pool);
        backend.add_doubled(&input, &doubled, &mut out).unwrap();
        let mut same = start;
        for (x, same) in x.chunks_exact(cols).zip(same.chunks_exact_mut(rows)) {
            same.iter_mut().enumerate().for_each(|(row, out)| doubled.add_row(row, x, out));
        }
        let case = format!("{tokens} tokens, [{rows}, {cols}], one of {every}");
        assert_eq!(bits(&out), bits(&tensor(tokens, rows, &same, pool)), "{case}");

        let weight = backend.prepare(matrix).unwrap();
        let precision = ActivationPrecision::Float;
        backend.bit_linear(&input, precision, &[&*weight], &mut [&mut out]).unwrap();
        backend.add_doubled(&input, &doubled, &mut out).unwrap();
        let product = |index: usize, f: fn(f64, f64) -> f64| -> f64 {
            let (x, w) = (&x[index / rows * cols..][..cols], &dense[index % rows * cols..][..cols]);
            x.iter().zip(w).map(|(&x, &w)| f(f64::from(x), f64::from(w))).sum()
        };
        let expected: Vec<f64> =
            (0..tokens * rows).map(|index| product(index, |x, w| x * w)).collect();
        assert_close(&case, out.f32().unwrap(), &expected, |index| {
            let sizes = product(index, |x, w| (x * w).abs());
            let (largest, weights) =
                (x.iter().fold(0f32, |a, x| a.max(x.abs())), product(index, |_, w| w.abs()));
            EPS * ((cols as f64 / 16.0 + 20.0) * sizes + 2.1 * f64::from(largest) * weights)
        });
    }
}

/// Operands of other shapes are refused.
fn shapes(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let (_, doubled, _) = matrix(4, 64, 7);
    let zeros = |rows: usize, cols: usize| tensor(rows, cols, &vec![0.0; rows * cols], pool);
    for (x, mut out) in
        [(zeros(2, 63), zeros(2, 4)), (zeros(2, 64), zeros(2, 5)), (zeros(2, 64), zeros(1, 4))]
    {
        assert!(backend.add_doubled(&x, &doubled, &mut out).is_err());
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    sums(backend, &pool);
    shapes(backend, &pool);
}
