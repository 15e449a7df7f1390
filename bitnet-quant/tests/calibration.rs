//! Calibration on distributions with known optimal ranges, and validation of stored calibrations.

use bitnet_core::rng::SplitMix64;
use bitnet_core::ternary::ScaleGranularity;
use bitnet_quant::Error;
use bitnet_quant::activations::{ActivationBits, ActivationQuantizer};
use bitnet_quant::calibration::{
    Calibration, CalibrationMethod, Observer, StorageWidth, sensitivity,
};
use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
use bitnet_quant::loss::LossMeter;
use proptest::prelude::*;
use std::sync::LazyLock;

const METHODS: [CalibrationMethod; 5] = [
    CalibrationMethod::MinMax,
    CalibrationMethod::MovingAverage,
    CalibrationMethod::Percentile(0.999),
    CalibrationMethod::Mse,
    CalibrationMethod::KlDivergence,
];

fn clip(values: &[f32], method: CalibrationMethod, bits: ActivationBits) -> f32 {
    let mut observer = Observer::new();
    observer.observe("layer", values);
    let calibration = observer.calibrate(method, bits).expect("finite numbers");
    calibration.layers()[0].high.max(-calibration.layers()[0].low)
}

fn normal(count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(4);
    (0..count).map(|_| random.normal_pair()[0] as f32).collect()
}

fn uniform(count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(5);
    (0..count).map(|_| 2.0 * random.unit() as f32 - 1.0).collect()
}

/// Returns the mean squared error of rounding to as many steps on each side of 0, and clamping.
fn error_of(values: &[f32], bits: ActivationBits, largest: f32) -> f64 {
    let step = largest / bits.largest();
    let restored: Vec<f32> =
        values.iter().map(|x| (x.clamp(-largest, largest) / step).round() * step).collect();
    let mut meter = LossMeter::new();
    meter.push(values, &restored).expect("equal lengths");
    meter.loss().mse
}

#[test]
fn uniform_numbers_are_not_clipped() {
    let values = uniform(50_000);
    for method in METHODS {
        for bits in [ActivationBits::Int8, ActivationBits::Int4] {
            let clip = clip(&values, method, bits);
            assert!((0.9..=1.0).contains(&clip), "{method:?} {bits:?}: {clip}");
        }
    }
}

#[test]
fn mse_equals_exhaustive_search() {
    let values = normal(40_000);
    for (bits, known) in [(ActivationBits::Int4, 2.4..2.8), (ActivationBits::Int8, 3.6..4.4)] {
        let found = clip(&values, CalibrationMethod::Mse, bits);
        // For a normal distribution, 2.55 and 3.9 deviations are the figures of "ACIQ" (Banner and others, 2018).
        assert!(known.contains(&found), "{bits:?}: {found}");
        let least = (1..=120u8)
            .map(|i| error_of(&values, bits, f32::from(i) * 0.04))
            .fold(f64::INFINITY, f64::min);
        assert!(error_of(&values, bits, found) <= least * 1.01, "{bits:?}: {found}");
    }
}

#[test]
fn one_outlier_moves_only_the_extremes() {
    let mut values = uniform(50_000);
    values[123] = 50.0;
    let with = |method| clip(&values, method, ActivationBits::Int4);
    assert_eq!(with(CalibrationMethod::MinMax), 50.0);
    for method in [CalibrationMethod::Percentile(0.999), CalibrationMethod::KlDivergence] {
        assert!((0.9..2.0).contains(&with(method)), "{method:?}: {}", with(method));
    }
    let mut observer = Observer::new();
    observer.observe("layer", &values);
    let statistics = observer.statistics("layer").unwrap();
    let outliers = statistics.outliers(10.0);
    assert_eq!(outliers.count, 1);
    assert!(outliers.largest_to_usual > 40.0, "{outliers:?}");
}

/// Outputs of ReLU are mostly zeros, which every range preserves.
#[test]
fn zeros_do_not_affect_the_kl_threshold() {
    let values = normal(20_000);
    let mut with_zeros = values.clone();
    with_zeros.extend([0.0; 60_000]);
    for bits in [ActivationBits::Int8, ActivationBits::Int4] {
        let found = clip(&with_zeros, CalibrationMethod::KlDivergence, bits);
        assert_eq!(found, clip(&values, CalibrationMethod::KlDivergence, bits));
    }
}

#[test]
fn moving_averages_follow_their_formula() {
    let mut observer = Observer::with_momentum(0.5);
    for (low, high) in [(-1.0, 2.0), (-3.0, 4.0), (-1.0, 0.0)] {
        observer.observe("layer", &[low, high, 0.0f32.min(high)]);
    }
    let found = observer.calibrate(CalibrationMethod::MovingAverage, ActivationBits::Int8).unwrap();
    assert_eq!((found.layers()[0].low, found.layers()[0].high), (-1.5, 1.5));
}

#[test]
fn what_is_not_finite_is_counted_apart() {
    let mut observer = Observer::new();
    observer.observe("layer", &[1.0, f32::NAN, -2.0, f32::INFINITY]);
    observer.observe("layer", &[]);
    let statistics = observer.statistics("layer").unwrap();
    assert_eq!((statistics.count(), statistics.not_finite()), (2, 2));
    assert_eq!((statistics.extremes(), statistics.mean()), (Some((-2.0, 1.0)), -0.5));
    assert_eq!(statistics.deviation(), 1.5);
    observer.observe("empty", &[f32::NAN]);
    let error = observer.calibrate(CalibrationMethod::MinMax, ActivationBits::Int8).unwrap_err();
    assert_eq!(error, Error::NotCalibrated { layer: "empty".into() });
    let share = CalibrationMethod::Percentile(0.0);
    let error = observer.calibrate(share, ActivationBits::Int8).unwrap_err();
    assert!(matches!(error, Error::BadParameter { .. }), "{error}");
    let mut zeros = Observer::new();
    zeros.observe("zeros", &[0.0; 9]);
    for method in METHODS {
        let calibration = zeros.calibrate(method, ActivationBits::Int8).unwrap();
        assert_eq!((calibration.layers()[0].low, calibration.layers()[0].high), (0.0, 0.0));
        let range = calibration.layers()[0].activation_range();
        ActivationQuantizer::new(ActivationBits::Int8, range).unwrap();
    }
}

fn calibrations() -> Vec<Calibration> {
    let mut observer = Observer::new();
    observer.observe("layers.0.up", &normal(1000));
    observer.observe("layers.0.down", &uniform(1000));
    observer.observe("a \"quoted\" näme", &[1e-40, -3e38, 0.1]);
    let of = |&method: &CalibrationMethod| {
        observer.calibrate(method, ActivationBits::Int4).expect("finite numbers")
    };
    METHODS.iter().map(of).collect()
}

#[test]
fn stored_calibrations_come_back_equal() {
    for calibration in calibrations() {
        let text = calibration.to_json().unwrap();
        assert_eq!(Calibration::from_json(&text).unwrap(), calibration);
        assert!(calibration.layer("layers.0.up").is_some_and(|layer| layer.count == 1000));
        assert!(calibration.layer("layers").is_none());
    }
}

#[test]
fn damaged_calibrations_are_refused() {
    let text = calibrations()[0].to_json().unwrap();
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"bits\": 4", "\"bits\": 5"),
        ("\"min_max\"", "\"maximal\""),
        ("\"min_max\"", "{\"percentile\": 7.0}"),
        ("layers.0.up", "layers.0.down"),
        ("\"sparsity\": 0.0", "\"sparsity\": 1.5"),
        ("\"sparsity\": 0.0", "\"sparsity\": 0.0, \"more\": 1"),
        ("\"low\":", "\"low\": 1e300, \"hidden\":"),
        ("\"low\": -", "\"low\": 9"),
        ("\"count\": 1000", "\"count\": -1"),
        ("\"layers\"", "\"levels\""),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Calibration::from_json(&text.replacen(from, to, 1)).unwrap_err();
        assert!(
            matches!(error, Error::BadCalibration { .. } | Error::BadParameter { .. }),
            "{from} {to}: {error}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(Calibration::from_json(&deep), Err(Error::BadCalibration { .. })));
}

/// A stored calibration.
static STORED: LazyLock<String> =
    LazyLock::new(|| calibrations()[0].to_json().expect("a calibration"));

proptest! {
    #[test]
    fn texts_never_panic(text in "[\\[\\]{}\":,a-z0-9.eE+-]{0,80}", cut in 0usize..600) {
        prop_assert!(Calibration::from_json(&text).is_err());
        let cut = STORED.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(0);
        prop_assert!(Calibration::from_json(&STORED[..cut]).is_err());
    }
}

#[test]
fn more_bits_lose_less() {
    let bytes = normal(20 * 128).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let weights = DenseMatrix::new(DenseType::F32, 20, 128, bytes).unwrap();
    let widths: Vec<_> = (2..=8)
        .map(StorageWidth::Integer)
        .chain([StorageWidth::Ternary(ScaleGranularity::Row)])
        .collect();
    let found = sensitivity(&weights, &widths).unwrap();
    assert!(found[..7].windows(2).all(|pair| pair[1].loss.mse < pair[0].loss.mse));
    // One more bit halves the step: 6 decibels.
    let gained = found[6].loss.sqnr_db - found[5].loss.sqnr_db;
    assert!((5.5..6.5).contains(&gained), "{gained}");
    // Absmean clamps larger weights; 2 bits by the maximum zero most weights.
    assert!(found[7].loss.mse < found[0].loss.mse);
    for bits in [0, 1, 9] {
        assert!(sensitivity(&weights, &[StorageWidth::Integer(bits)]).is_err());
    }
}
