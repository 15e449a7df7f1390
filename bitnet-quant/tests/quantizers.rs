//! Quantisers compared with NumPy and PyTorch (`scripts/golden/quantizers.py`): trits are equal, scales within one unit
//! in the last place. Common properties of all quantisers.

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::rng::SplitMix64;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Error;
use bitnet_quant::codec::dense::{DenseMatrix, DenseType, encode_row};
use bitnet_quant::loss::loss_of_trits;
use bitnet_quant::quantizer::{
    Absmean, Absmedian, HalfScale, KeepLargest, LeastSquares, Quantizer, Settings, Sign,
    Stochastic, StochasticScale,
};
use serde_json::Value;
use std::path::Path;

const GRANULARITIES: [(&str, ScaleGranularity); 3] = [
    ("tensor", ScaleGranularity::Tensor),
    ("row", ScaleGranularity::Row),
    ("group 64", ScaleGranularity::Group(64)),
];

fn quantizers() -> Vec<(&'static str, Box<dyn Quantizer>)> {
    let stochastic = |scale| Box::new(Stochastic { seed: 11, scale });
    vec![
        ("absmean", Box::new(Absmean)),
        ("absmedian", Box::new(Absmedian)),
        ("sign", Box::new(Sign)),
        ("half scale", Box::new(HalfScale::default())),
        ("least squares", Box::new(LeastSquares)),
        ("3 of 4", Box::new(KeepLargest::new(3, 4).expect("three of four"))),
        ("absmax by chance", stochastic(StochasticScale::Absmax)),
        ("absmean by chance", stochastic(StochasticScale::Absmean)),
    ]
}

fn matrix(dtype: DenseType, cols: usize, values: &[f32]) -> DenseMatrix<Vec<u8>> {
    let mut bytes = Vec::new();
    for (row, values) in values.chunks(cols).enumerate() {
        encode_row(dtype, row, values, &mut bytes).expect("finite values");
    }
    DenseMatrix::new(dtype, values.len() / cols, cols, bytes).expect("values of the shape")
}

#[test]
fn trits_and_scales_equal_numpy_and_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/quantizers.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cols = golden["cols"].as_u64().unwrap() as usize;
    let mut compared = 0;
    for (name, case) in golden["cases"].as_object().unwrap() {
        let bits = case["weights"].as_str().unwrap();
        let weights: Vec<f32> = (0..bits.len() / 8)
            .map(|i| f32::from_bits(u32::from_str_radix(&bits[8 * i..8 * i + 8], 16).unwrap()))
            .collect();
        let weights = matrix(DenseType::F32, cols, &weights);
        for (rule, quantizer) in quantizers() {
            let Some(expected) = case["rules"].get(rule) else { continue };
            for (key, granularity) in GRANULARITIES {
                let settings = Settings { granularity, ..Settings::default() };
                let matrix = quantizer.quantize(&weights, &settings).unwrap();
                let trits: String =
                    matrix.to_trits().iter().map(|t| ["-", "0", "+"][(t + 1) as usize]).collect();
                let what = format!("{name}, {rule}, {key}");
                assert_eq!(trits, expected[key]["trits"].as_str().unwrap(), "{what}");
                let scales = expected[key]["scales"].as_array().unwrap();
                assert_eq!(matrix.scales().len(), scales.len(), "{what}");
                for (ours, theirs) in matrix.scales().iter().zip(scales) {
                    let theirs = theirs.as_f64().unwrap() as f32;
                    assert!(
                        ours.to_bits().abs_diff(theirs.to_bits()) <= 1,
                        "{what}: {ours} {theirs}"
                    );
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 7 * 6 * 3);
}

fn normal(rows: usize, cols: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(77);
    (0..rows * cols).map(|_| random.normal_pair()[0] as f32 * 0.02).collect()
}

/// A matrix without a known storage type.
#[derive(Debug)]
struct Unsaid<'a>(&'a dyn DenseRows);

impl DenseRows for Unsaid<'_> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn type_name(&self) -> &'static str {
        self.0.type_name()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
        self.0.decode_row(row, out)
    }
}

#[test]
fn results_are_independent_of_storage_threads_and_pool() {
    let pool = HybridMemoryPool::new().unwrap();
    let (rows, cols) = (150, 192);
    for dtype in [DenseType::F32, DenseType::F16, DenseType::BF16, DenseType::Q8_0] {
        let plain = matrix(dtype, cols, &normal(rows, cols));
        for (rule, quantizer) in quantizers() {
            for (_, granularity) in GRANULARITIES {
                let settings = Settings { granularity, ..Settings::default() };
                let result = quantizer.quantize_measured(&plain, &settings).unwrap();
                assert_eq!(quantizer.quantize(&plain, &settings).unwrap(), result.0);
                for threads in [2, 5] {
                    let settings = Settings { threads, pool: Some(&pool), ..settings };
                    let again = quantizer.quantize_measured(&Unsaid(&plain), &settings).unwrap();
                    assert_eq!(again, result, "{rule} {dtype:?} {granularity:?} {threads}");
                }
            }
        }
    }
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn losses_are_exact_and_least_squares_is_minimal() {
    let weights = matrix(DenseType::BF16, 192, &normal(70, 192));
    for (_, granularity) in GRANULARITIES {
        let settings = Settings { granularity, ..Settings::default() };
        let (_, least) = LeastSquares.quantize_measured(&weights, &settings).unwrap();
        for (rule, quantizer) in quantizers() {
            let (matrix, loss) = quantizer.quantize_measured(&weights, &settings).unwrap();
            let apart = loss_of_trits(&weights, &matrix).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
            assert_eq!((loss.count, loss.sparsity), (apart.count, apart.sparsity), "{rule}");
            assert!(close(loss.mse, apart.mse) && close(loss.cosine, apart.cosine), "{rule}");
            assert!(close(loss.max_error, apart.max_error), "{rule}: {loss:?} {apart:?}");
            assert!(loss.mse >= least.mse * (1.0 - 1e-9), "{rule}: {loss:?} {least:?}");
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    for dtype in [DenseType::F32, DenseType::F16, DenseType::BF16] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (rows, cols) = (70usize, 128usize);
            let mut bytes = Vec::new();
            for i in 0..rows * cols {
                let value = if i == 66 * cols + 101 { bad } else { 0.01 * (i % 7) as f32 };
                match dtype {
                    DenseType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                    DenseType::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                    _ => bytes.extend(value.to_le_bytes()),
                }
            }
            let weights = DenseMatrix::new(dtype, rows, cols, bytes).unwrap();
            for (rule, quantizer) in quantizers() {
                for (_, granularity) in GRANULARITIES {
                    let settings = Settings { granularity, threads: 3, ..Settings::default() };
                    let error = quantizer.quantize(&weights, &settings).unwrap_err();
                    assert!(
                        matches!(error, Error::BadNumber { row: 66, col: 101, .. }),
                        "{rule} {dtype:?} {granularity:?}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn strict_comparison_sends_ties_to_zero() {
    let scale = 0.75f32;
    let weights = [scale / 2.0, -scale / 2.0, (scale / 2.0).next_up(), (-scale / 2.0).next_down()];
    let rule = HalfScale { scale: Some(scale) };
    let trits = rule.quantize(&matrix(DenseType::F32, 4, &weights), &Settings::default()).unwrap();
    assert_eq!((trits.to_trits(), trits.scales()), (vec![0, 0, 1, -1], &[scale][..]));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let rule = HalfScale { scale: Some(scale) };
        let error = rule.quantize(&matrix(DenseType::F32, 4, &weights), &Settings::default());
        assert!(matches!(error, Err(Error::BadParameter { .. })));
    }
}

#[test]
fn one_of_each_four_is_zero() {
    let weights = matrix(DenseType::F32, 128, &normal(20, 128));
    let zeros = |matrix: &TernaryMatrix, of: usize, expected: usize| {
        let trits = matrix.to_trits();
        assert!(
            trits.chunks(of).all(|group| group.iter().filter(|t| **t == 0).count() == expected)
        );
    };
    for (keep, of) in [(3, 4), (2, 4), (1, 2), (5, 8), (15, 16)] {
        let rule = KeepLargest::new(keep, of).unwrap();
        zeros(&rule.quantize(&weights, &Settings::default()).unwrap(), of, of - keep);
    }
    let rule = KeepLargest::new(3, 4).unwrap();
    zeros(
        &rule.quantize(&matrix(DenseType::F32, 8, &[0.0; 16]), &Settings::default()).unwrap(),
        4,
        1,
    );
    let odd = matrix(DenseType::F32, 6, &[1.0; 12]);
    let error = rule.quantize(&odd, &Settings::default()).unwrap_err();
    assert!(matches!(error, Error::NotAMultiple { got: 6, multiple: 4, .. }), "{error}");
    for (keep, of) in [(0, 4), (4, 4), (5, 4), (1, 3), (1, 0), (1, 32)] {
        assert!(matches!(KeepLargest::new(keep, of), Err(Error::BadParameter { .. })));
    }
}
