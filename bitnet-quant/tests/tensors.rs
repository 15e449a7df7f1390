//! Integer quantisation of tensors: ranges, zero points, channels and errors.

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::rng::SplitMix64;
use bitnet_core::ternary::ScaleGranularity;
use bitnet_quant::Error;
use bitnet_quant::calibration::CalibrationMethod;
use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
use bitnet_quant::quantizer::{
    BitNetQuantizer, MixedPrecisionConfig, MixedPrecisionQuantizer, QuantizationConfig,
    QuantizationParams,
};
use bitnet_quant::weights::absmean;

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().expect("a pool")
}

fn normal(count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(6);
    (0..count).map(|_| random.normal_pair()[0] as f32 + 0.5).collect()
}

fn integers(bits: f32, symmetric: bool) -> QuantizationConfig {
    QuantizationConfig { bits, symmetric, ..QuantizationConfig::default() }
}

#[test]
fn numbers_come_back_within_half_a_step() {
    let pool = pool();
    let values = normal(6 * 50);
    let tensor = BitNetTensor::from_f32(&[2, 3, 50], &values, &pool).unwrap();
    for bits in [2.0, 3.0, 4.0, 8.0] {
        for symmetric in [false, true] {
            for (per_channel, channel_axis) in [(false, 0), (true, 0), (true, 1), (true, 2)] {
                let config =
                    QuantizationConfig { per_channel, channel_axis, ..integers(bits, symmetric) };
                let quantizer = BitNetQuantizer::new(config, &pool).unwrap();
                let (q, params) = quantizer.quantize_weights(&tensor).unwrap();
                let channels = if per_channel { [2, 3, 50][channel_axis] } else { 1 };
                assert_eq!(params.scales.len(), channels);
                let restored = quantizer.dequantize(&q, &params).unwrap();
                let stride = [150, 50, 1][channel_axis];
                for (i, (x, y)) in values.iter().zip(restored.f32().unwrap()).enumerate() {
                    let scale = params.scales[i / stride % channels];
                    // Half a step, plus half a step for the rounded zero point.
                    let bound = if symmetric { 0.501 } else { 1.001 } * scale;
                    assert!((x - y).abs() <= bound, "{config:?} {i}: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn trits_are_those_of_absmean() {
    let pool = pool();
    let values = normal(4 * 64);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let matrix = DenseMatrix::new(DenseType::F32, 4, 64, bytes).unwrap();
    let tensor = BitNetTensor::from_f32(&[4, 64], &values, &pool).unwrap();
    for (per_channel, granularity) in
        [(false, ScaleGranularity::Tensor), (true, ScaleGranularity::Row)]
    {
        let config = QuantizationConfig { per_channel, ..QuantizationConfig::default() };
        let quantizer = BitNetQuantizer::new(config, &pool).unwrap();
        let (q, params) = quantizer.quantize_weights(&tensor).unwrap();
        let expected = absmean(&matrix, granularity, None).unwrap();
        let trits: Vec<f32> = expected.to_trits().into_iter().map(f32::from).collect();
        assert_eq!(q.to_f32(&pool).unwrap().f32().unwrap(), trits);
        assert_eq!((params.scales.as_slice(), params.zero_points[0]), (expected.scales(), 0));
    }
}

#[test]
fn zero_is_exact_and_ranges_are_fully_used() {
    let pool = pool();
    let tensor = BitNetTensor::from_f32(&[4], &[0.0, 255.0, 51.0, 102.0], &pool).unwrap();
    let quantizer = BitNetQuantizer::new(integers(8.0, false), &pool).unwrap();
    let (q, params) = quantizer.quantize_weights(&tensor).unwrap();
    assert_eq!(q.to_f32(&pool).unwrap().f32().unwrap(), [-128.0, 127.0, -77.0, -26.0]);
    assert_eq!((params.scales[0], params.zero_points[0]), (1.0, -128));
    let zeros = BitNetTensor::zeros(&[3], &pool).unwrap();
    for config in [integers(8.0, false), integers(4.0, true), QuantizationConfig::default()] {
        let quantizer = BitNetQuantizer::new(config, &pool).unwrap();
        let (q, params) = quantizer.quantize_weights(&zeros).unwrap();
        assert_eq!(quantizer.dequantize(&q, &params).unwrap().f32().unwrap(), [0.0; 3]);
    }
}

#[test]
fn fixed_parameters_are_used_and_calibration_clips() {
    let pool = pool();
    let params = QuantizationParams { scales: vec![0.5], zero_points: vec![3] };
    let quantizer = BitNetQuantizer::new(integers(4.0, false), &pool).unwrap();
    let fixed = quantizer.clone().with_params(params.clone()).unwrap();
    let tensor = BitNetTensor::from_f32(&[4], &[0.0, 1.0, -100.0, f32::NAN], &pool).unwrap();
    let q = fixed.quantize_activations(&tensor, &params).unwrap();
    assert_eq!(q.to_f32(&pool).unwrap().f32().unwrap(), [3.0, 5.0, -8.0, 3.0]);
    let mut values = normal(20_000);
    values[7] = 1000.0;
    let tensor = BitNetTensor::from_f32(&[20_000], &values, &pool).unwrap();
    let calibration_method = CalibrationMethod::Percentile(0.999);
    let config = QuantizationConfig { calibration_method, ..integers(8.0, true) };
    let (_, params) =
        BitNetQuantizer::new(config, &pool).unwrap().quantize_weights(&tensor).unwrap();
    assert!(params.scales[0] < 10.0 / 127.0, "{params:?}");
}

#[test]
fn layers_have_their_own_widths() {
    let pool = pool();
    let config = MixedPrecisionConfig::builder()
        .default_config(integers(4.0, true))
        .layer_config("head", integers(8.0, true))
        .build();
    let quantizer = MixedPrecisionQuantizer::new(config, &pool).unwrap();
    let tensor = BitNetTensor::from_f32(&[2], &[1.0, -0.5], &pool).unwrap();
    let of = |layer: &str| quantizer.quantize_weights(layer, &tensor).unwrap().1.scales[0];
    assert_eq!((of("head"), of("other")), (1.0 / 127.0, 1.0 / 7.0));
    let bad = MixedPrecisionConfig::builder().layer_config("x", integers(1.5, true)).build();
    assert!(matches!(MixedPrecisionQuantizer::new(bad, &pool), Err(Error::BadParameter { .. })));
}

#[test]
fn what_can_not_be_quantised_is_refused() {
    let pool = pool();
    for bits in [0.0, 1.0, 1.6, 2.5, 9.0, -4.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(
            BitNetQuantizer::new(integers(bits, true), &pool),
            Err(Error::BadParameter { .. })
        ));
    }
    let config = QuantizationConfig { per_channel: true, channel_axis: 1, ..integers(8.0, true) };
    let quantizer = BitNetQuantizer::new(config, &pool).unwrap();
    let tensor = |values: &[f32]| BitNetTensor::from_f32(&[2, 2], values, &pool).unwrap();
    let error = quantizer.quantize_weights(&tensor(&[1.0, 2.0, 3.0, f32::NAN])).unwrap_err();
    assert!(matches!(error, Error::BadNumber { row: 1, col: 1, .. }), "{error}");
    let flat = BitNetTensor::from_f32(&[4], &[1.0; 4], &pool).unwrap();
    assert!(matches!(quantizer.quantize_weights(&flat), Err(Error::Core(_))));
    let empty = BitNetTensor::zeros(&[0, 2], &pool).unwrap();
    assert!(matches!(quantizer.quantize_weights(&empty), Err(Error::EmptyShape { .. })));
    for (scales, zero_points) in
        [(vec![1.0], vec![0]), (vec![1.0; 2], vec![0]), (vec![f32::NAN, 1.0], vec![0; 2])]
    {
        let params = QuantizationParams { scales, zero_points };
        let result = quantizer.quantize_activations(&tensor(&[1.0; 4]), &params);
        assert!(matches!(result, Err(Error::BadParameter { .. })));
    }
}
