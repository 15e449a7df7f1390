//! Cases of `prepare`, `bit_linear` and `bit_linear_integers`.

use crate::{EPS, Numbers, assert_close, bits, dirty, pool, same_bits, tensor};
use bitnet_core::backend::Activation;
use bitnet_core::backend::ActivationPrecision::{Float, Int8, Int8Within};
use bitnet_core::backend::Backend;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

const SHAPES: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 1, 0),
    (3, 63, 1),
    (5, 64, 2),
    (5, 100, 2),
    (2, 127, 3),
    (33, 128, 9),
    (7, 129, 5),
    (4, 300, 4),
    (3, 192, 1),
    (6, 768, 6),
    (70, 2560, 1),
    (5, 2304, 8),
    (131, 192, 17),
    (45, 300, 55),
    // More weights than a back end may keep in a layout for small ones.
    (1024, 1030, 2),
];

fn granularities(cols: usize) -> impl Iterator<Item = ScaleGranularity> {
    let groups = [64, 128, 192, 256, 768].map(ScaleGranularity::Group);
    [ScaleGranularity::Tensor, ScaleGranularity::Row]
        .into_iter()
        .chain(groups)
        .filter(move |granularity| granularity.scale_count(1, cols).is_ok())
}

/// Groups of half a block, of one, of two, and of more than fit any run.
fn groups_of_all_sizes() -> impl Iterator<Item = ScaleGranularity> {
    [64, 128, 256, 4096].into_iter().map(ScaleGranularity::Group)
}

/// Activations that have gone wrong somewhere: each gives `[tokens * cols]` values.
fn activations(kind: usize, n: usize, numbers: &mut Numbers) -> Vec<f32> {
    let random = numbers.floats(n);
    let with = |value: f32| {
        let mut x = random.clone();
        if let Some(first) = x.first_mut() {
            *first = value;
        }
        x
    };
    match kind {
        0 => random,
        1 => vec![0.0; n],
        2 => random.iter().map(|x| x.signum() * 1e30).collect(),
        3 => random.iter().map(|x| x * 1e-40).collect(),
        4 => with(f32::NAN),
        5 => with(f32::INFINITY),
        6 => with(f32::MAX),
        // Halves: with the largest at 127 every other one is a tie.
        7 => with(127.0)
            .iter()
            .map(|x| if *x == 127.0 { *x } else { (x * 99.0).trunc() + 0.5 })
            .collect(),
        _ => with(-1e-5),
    }
}

const KINDS: usize = 9;

/// Half to even, by the definition.
fn round(x: f64) -> f64 {
    let floor = x.floor();
    match (x - floor).partial_cmp(&0.5) {
        Some(std::cmp::Ordering::Less) => floor,
        Some(std::cmp::Ordering::Equal) if floor % 2.0 == 0.0 => floor,
        _ => floor + 1.0,
    }
}

/// The largest magnitude of a token.
fn largest(x: &[f32]) -> f32 {
    let mut largest = 0f32;
    for x in x {
        if x.abs() > largest {
            largest = x.abs();
        }
    }
    largest
}

/// Quantised activations of one token whose largest magnitude is taken to be this one, and their scale: zeros and NaN
/// where an activation is not finite.
fn quantized(x: &[f32], largest: f32) -> (Vec<i8>, f32) {
    if !largest.is_finite() || !x.iter().all(|x| x.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    let largest = if largest > 1e-5 { largest } else { 1e-5 };
    let scale = (1.0 / largest) * 127.0;
    let one = |x: &f32| {
        let scaled = x * scale;
        round(f64::from(scaled)).clamp(-128.0, 127.0) as i8
    };
    (x.iter().map(one).collect(), scale)
}

fn group_len(matrix: &TernaryMatrix) -> usize {
    match matrix.granularity() {
        ScaleGranularity::Group(n) => n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => matrix.cols(),
    }
}

/// One token through one row, in 8 bits: the dots of the groups and the result.
fn int8_row(matrix: &TernaryMatrix, row: usize, q: &[i8], scale: f32) -> (Vec<i32>, f32) {
    let n = group_len(matrix);
    let dots: Vec<i32> = (0..matrix.cols() / n)
        .map(|group| {
            let cols = group * n..(group + 1) * n;
            cols.map(|col| i32::from(matrix.trit(row, col)) * i32::from(q[col])).sum()
        })
        .collect();
    let out = if matches!(matrix.granularity(), ScaleGranularity::Group(_)) {
        let mut sum = 0.0;
        for (group, &dot) in dots.iter().enumerate() {
            sum += f64::from(dot) * f64::from(matrix.scale_at(row, group * n));
        }
        (sum / f64::from(scale)) as f32
    } else {
        dots[0] as f32 / scale * matrix.scale_at(row, 0)
    };
    (dots, out)
}

pub(crate) fn int8_case(
    backend: &dyn Backend,
    matrix: &TernaryMatrix,
    tokens: usize,
    values: &[f32],
) {
    let pool = pool();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let case = format!("{:?} of [{rows}, {cols}], {tokens} tokens", matrix.granularity());
    let weight = backend.prepare(matrix.clone()).unwrap();
    assert_eq!((weight.rows(), weight.cols()), (rows, cols));
    assert!(weight.bytes() >= rows * cols / 5, "{case}: trits take bytes");
    let x = tensor(tokens, cols, values, &pool);
    let mut out = dirty(tokens, rows, &pool);
    // What calibration found: all that there is, a part of it, next to nothing, more than there is.
    for within in [largest(values), 0.3, 1e-6, 1e4] {
        backend.bit_linear(&x, Int8Within(within), &[&*weight], &mut [&mut out]).unwrap();
        let expected = values.chunks_exact(cols).flat_map(|x| {
            let (token, scale) = quantized(x, within);
            (0..rows).map(move |row| int8_row(matrix, row, &token, scale).1)
        });
        let expected: Vec<_> = expected.map(same_bits).collect();
        let found: Vec<_> = out.f32().unwrap().iter().copied().map(same_bits).collect();
        assert_eq!(found, expected, "{case}, within {within}");
    }
    backend.bit_linear(&x, Int8, &[&*weight], &mut [&mut out]).unwrap();
    let integers = backend.bit_linear_integers(&x, &*weight).unwrap();
    let (mut q, mut scales, mut dots, mut expected) = (vec![], vec![], vec![], vec![]);
    for x in values.chunks_exact(cols) {
        let (token, scale) = quantized(x, largest(x));
        for row in 0..rows {
            let (row_dots, out) = int8_row(matrix, row, &token, scale);
            dots.extend(row_dots);
            expected.push(out);
        }
        q.extend(token);
        scales.push(scale.to_bits());
    }
    let found: Vec<_> = integers.activation_scales.iter().map(|scale| scale.to_bits()).collect();
    assert_eq!(found, scales, "{case}: scales");
    assert_eq!(integers.activations, q, "{case}: activations");
    assert_eq!(integers.dots, dots, "{case}: dots");
    let found: Vec<_> = out.f32().unwrap().iter().copied().map(same_bits).collect();
    let expected: Vec<_> = expected.into_iter().map(same_bits).collect();
    assert_eq!(found, expected, "{case}: out");
}

/// In f32: within `(cols / 16 + 16) · 2⁻²⁴ · Σ |w·x| + 1.01 · 2⁻²³ · max(|x|, 2⁻¹⁰⁴) · Σ |w|` of the exact result.
pub(crate) fn float_case(
    backend: &dyn Backend,
    matrix: &TernaryMatrix,
    tokens: usize,
    values: &[f32],
) {
    let pool = pool();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let weight = backend.prepare(matrix.clone()).unwrap();
    let x = tensor(tokens, cols, values, &pool);
    let mut out = dirty(tokens, rows, &pool);
    backend.bit_linear(&x, Float, &[&*weight], &mut [&mut out]).unwrap();
    let (mut expected, mut bounds) = (vec![], vec![]);
    let factor = (cols as f64 / 16.0 + 16.0) * EPS;
    for x in values.chunks_exact(cols) {
        let common = 1.01 * 2.0 * EPS * f64::from(largest(x)).max(0.5f64.powi(104));
        for row in 0..rows {
            let (mut sum, mut bound) = (0f64, f64::from(f32::from_bits(1)));
            for (col, &x) in x.iter().enumerate() {
                let weight =
                    f64::from(matrix.trit(row, col)) * f64::from(matrix.scale_at(row, col));
                let product = weight * f64::from(x);
                sum += product;
                bound += factor * product.abs() + common * weight.abs();
            }
            let finite = x.iter().all(|x| x.is_finite());
            expected.push(if finite { sum } else { f64::NAN });
            bounds.push(bound);
        }
    }
    let case = format!("f32, {:?} of [{rows}, {cols}], {tokens} tokens", matrix.granularity());
    assert_close(&case, out.f32().unwrap(), &expected, |i| bounds[i]);
}

/// A token that holds NaN or infinity, anywhere, gives NaN in every output;
/// the tokens beside it give what they give alone.
fn non_finite_tokens(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(14));
    let (tokens, rows) = (3, 9);
    for cols in [64, 129, 320] {
        for granularity in granularities(cols) {
            let matrix = numbers.matrix(rows, cols, granularity);
            let weights = [
                backend.prepare(matrix.clone()).unwrap(),
                backend.prepare_for_sparse_input(matrix).unwrap(),
            ];
            let values = numbers.floats(tokens * cols);
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 31, 63, cols / 2, cols - 1] {
                    let mut spoiled = values.clone();
                    spoiled[cols + at] = wrong;
                    for precision in [Int8, Int8Within(0.5), Int8Within(1e30), Float] {
                        for weight in &weights {
                            let run = |values: &[f32], tokens| {
                                let x = tensor(tokens, cols, values, &pool);
                                let mut out =
                                    tensor(tokens, rows, &vec![0.0; tokens * rows], &pool);
                                backend
                                    .bit_linear(&x, precision, &[&**weight], &mut [&mut out])
                                    .unwrap();
                                bits(&out)
                            };
                            let (clean, found) = (run(&values, tokens), run(&spoiled, tokens));
                            let case = format!("{wrong} at {at} of {cols}, {precision:?}");
                            let nan = f32::NAN.to_bits();
                            assert_eq!(found[..rows], clean[..rows], "{case}");
                            assert!(found[rows..2 * rows].iter().all(|&x| x == nan), "{case}");
                            assert_eq!(found[2 * rows..], clean[2 * rows..], "{case}");
                            let alone = run(&spoiled[cols..2 * cols], 1);
                            assert!(alone.iter().all(|&x| x == nan), "{case}, alone");
                        }
                    }
                }
            }
        }
    }
}

/// A token that holds NaN or infinity passes neither gate as zeros.
fn gated_non_finite(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(15));
    for granularity in granularities(64) {
        let weights = [(); 2].map(|()| numbers.matrix(7, 64, granularity));
        let weights = weights.map(|matrix| backend.prepare(matrix).unwrap());
        let weights = [&*weights[0], &*weights[1]];
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut values = numbers.floats(64);
            values[40] = wrong;
            let x = tensor(1, 64, &values, &pool);
            for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
                let [mut out, mut scratch] = [(); 2].map(|()| tensor(1, 7, &[0.0; 7], &pool));
                backend.gate_up(&x, Int8, activation, weights, &mut out, &mut scratch).unwrap();
                let out = out.f32().unwrap();
                assert!(out.iter().all(|x| x.is_nan()), "{activation}, {wrong}: {out:?}");
            }
        }
    }
}

/// Several weights of different granularity on one input, as the projections of an attention layer are.
fn shared_input(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(11));
    let x = tensor(5, 256, &numbers.floats(5 * 256), &pool);
    let matrices = [
        numbers.matrix(300, 256, ScaleGranularity::Tensor),
        numbers.matrix(1, 256, ScaleGranularity::Row),
        numbers.matrix(40, 256, ScaleGranularity::Group(64)),
    ];
    let weights: Vec<_> = matrices.iter().map(|m| backend.prepare(m.clone()).unwrap()).collect();
    let weights: Vec<_> = weights.iter().map(|weight| &**weight).collect();
    for precision in [Int8, Int8Within(0.5), Float] {
        let mut together: Vec<_> = matrices.iter().map(|m| dirty(5, m.rows(), &pool)).collect();
        let mut outs: Vec<_> = together.iter_mut().collect();
        backend.bit_linear(&x, precision, &weights, &mut outs).unwrap();
        for ((matrix, weight), together) in matrices.iter().zip(&weights).zip(&together) {
            let mut alone = dirty(5, matrix.rows(), &pool);
            backend.bit_linear(&x, precision, &[*weight], &mut [&mut alone]).unwrap();
            assert_eq!(bits(together), bits(&alone), "{precision:?}");
        }
        backend.bit_linear(&x, precision, &[], &mut []).unwrap();
    }
}

/// Inputs that are zero, or so small that they round to zero, in `percent` of a hundred places.
fn thinned(values: &[f32], percent: u32, numbers: &mut Numbers) -> Vec<f32> {
    let small = |x: f32, numbers: &mut Numbers| {
        if numbers.bits().is_multiple_of(2) { 0.0 } else { x * 1e-4 }
    };
    values
        .iter()
        .map(|&x| if numbers.bits() % 100 < percent { small(x, numbers) } else { x })
        .collect()
}

/// Weights prepared for sparse inputs give what the others give, however many zeros there are.
fn sparse_inputs(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(12));
    let shapes = [(1, 1), (5, 64), (130, 300), (128, 256), (200, 129), (640, 1728)];
    for (rows, cols) in shapes {
        for granularity in granularities(cols) {
            let matrix = numbers.matrix(rows, cols, granularity);
            let plain = backend.prepare(matrix.clone()).unwrap();
            let sparse = backend.prepare_for_sparse_input(matrix).unwrap();
            for percent in [0, 20, 40, 75, 99, 100] {
                for tokens in [1, 3] {
                    let values = numbers.floats(tokens * cols);
                    let values = thinned(&values, percent, &mut numbers);
                    let x = tensor(tokens, cols, &values, &pool);
                    let [mut a, mut b] = [dirty(tokens, rows, &pool), dirty(tokens, rows, &pool)];
                    for precision in [Int8, Int8Within(0.5)] {
                        backend.bit_linear(&x, precision, &[&*plain], &mut [&mut a]).unwrap();
                        backend.bit_linear(&x, precision, &[&*sparse], &mut [&mut b]).unwrap();
                        assert_eq!(
                            bits(&a),
                            bits(&b),
                            "[{rows}, {cols}], {granularity:?}, {percent} %, {precision:?}"
                        );
                    }
                    let integers = backend.bit_linear_integers(&x, &*sparse).unwrap();
                    assert_eq!(integers, backend.bit_linear_integers(&x, &*plain).unwrap());
                }
            }
        }
    }
    // The largest sums of columns that there are.
    for value in [-1.0, 1.0] {
        let trits = vec![1; 130 * 4096];
        let matrix =
            TernaryMatrix::from_trits(130, 4096, &trits, ScaleGranularity::Row, vec![1.0; 130]);
        let weight = backend.prepare_for_sparse_input(matrix.unwrap()).unwrap();
        let mut values = vec![value; 4096];
        values[..2048].fill(0.0);
        let mut out = dirty(1, 130, &pool);
        let x = tensor(1, 4096, &values, &pool);
        backend.bit_linear(&x, Int8, &[&*weight], &mut [&mut out]).unwrap();
        assert!(out.f32().unwrap().iter().all(|out| *out == 2048.0 * value), "{value}");
    }
}

/// `gate_up` is `bit_linear` and `gate`, whatever is left unread.
fn gated(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(13));
    for (rows, cols) in [(1, 1), (7, 64), (300, 256), (33, 1000)] {
        for granularity in granularities(cols) {
            let weights = [(); 2].map(|()| numbers.matrix(rows, cols, granularity));
            let weights = weights.map(|matrix| backend.prepare(matrix).unwrap());
            let weights = [&*weights[0], &*weights[1]];
            for tokens in [1, 2, 9] {
                for kind in 0..KINDS {
                    let x = tensor(
                        tokens,
                        cols,
                        &activations(kind, tokens * cols, &mut numbers),
                        &pool,
                    );
                    for activation in [Activation::Relu2, Activation::Silu] {
                        for precision in [Int8, Int8Within(0.5), Float] {
                            let [mut a, mut b] = [(); 2].map(|()| dirty(tokens, rows, &pool));
                            let [mut up, mut scratch] =
                                [(); 2].map(|()| dirty(tokens, rows, &pool));
                            backend
                                .bit_linear(&x, precision, &weights, &mut [&mut a, &mut up])
                                .unwrap();
                            backend.gate(activation, &mut a, &up).unwrap();
                            backend
                                .gate_up(&x, precision, activation, weights, &mut b, &mut scratch)
                                .unwrap();
                            let pairs = a.f32().unwrap().iter().zip(b.f32().unwrap());
                            for (&a, &b) in pairs {
                                // An unread row gives zero even where the other factor is no number.
                                let skipped = b == 0.0 && a.is_nan();
                                let same = same_bits(a + 0.0) == same_bits(b + 0.0);
                                assert!(same || skipped, "{activation}, kind {kind}: {a} and {b}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every number of tokens that eights leave over, and some behind eight, with rows in one piece and in several.
fn few_tokens(backend: &dyn Backend) {
    let mut numbers = Numbers::new(16);
    for (rows, cols) in [(131, 64), (6, 2304), (5, 7680)] {
        for granularity in granularities(cols) {
            let matrix = numbers.matrix(rows, cols, granularity);
            for tokens in (2..8).chain([9, 13, 15]) {
                let values = activations(0, tokens * cols, &mut numbers);
                int8_case(backend, &matrix, tokens, &values);
            }
        }
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    few_tokens(backend);
    let mut numbers = Numbers::new(1);
    for (rows, cols, tokens) in SHAPES {
        for granularity in granularities(cols) {
            let matrix = numbers.matrix(rows, cols, granularity);
            for kind in 0..KINDS {
                let values = activations(kind, tokens * cols, &mut numbers);
                int8_case(backend, &matrix, tokens, &values);
                // Sums of the largest numbers may overflow f32 on the way.
                if kind != 6 {
                    float_case(backend, &matrix, tokens, &values);
                }
            }
        }
    }
    // The largest sums that there are: every product at its extreme.
    for trit in [-1, 1] {
        let trits = vec![trit; 2 * 8192];
        for granularity in [ScaleGranularity::Tensor].into_iter().chain(groups_of_all_sizes()) {
            let scales = vec![1.0; granularity.scale_count(2, 8192).unwrap()];
            let matrix = TernaryMatrix::from_trits(2, 8192, &trits, granularity, scales).unwrap();
            for value in [-1.0, 1.0] {
                for tokens in [2, 3, 4, 5, 6, 7, 13] {
                    int8_case(backend, &matrix, tokens, &vec![value; tokens * 8192]);
                }
            }
        }
    }
    // Groups without weights, whose scales are negative: each adds -0 to 0.
    for granularity in groups_of_all_sizes() {
        let scales = vec![-1.0; granularity.scale_count(5, 8192).unwrap()];
        let zeros = vec![0; 5 * 8192];
        let matrix = TernaryMatrix::from_trits(5, 8192, &zeros, granularity, scales).unwrap();
        for tokens in [1, 9] {
            int8_case(backend, &matrix, tokens, &vec![1.0; tokens * 8192]);
        }
    }
    shared_input(backend);
    sparse_inputs(backend);
    non_finite_tokens(backend);
}

pub(crate) fn gated_cases(backend: &dyn Backend) {
    gated(backend);
    gated_non_finite(backend);
}
