//! Activations, softmax and norms, and their gradients, against PyTorch in f64 and against finite differences.

use bitnet_core::Error;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
use bitnet_core::tensor::{
    ActivationFunction, NormGradients, activate, activate_backward, activate_into, layer_norm,
    layer_norm_backward, log_softmax, log_softmax_backward, rms_norm, rms_norm_backward, softmax,
    softmax_backward,
};

use crate::golden::{Arrays, assert_bits, assert_ulps};

/// Asserts that gradients are within `ulps` of f32, or within `slack` where terms that cancel leave less.
#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], ulps: f64, slack: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let bound = ulps * 2f64.powi(-23) * expected.abs() + slack;
        let off = (f64::from(got) - expected).abs();
        assert!(off <= bound, "{what}: element {i} is {got:e}, not {expected:e}");
    }
}

#[test]
fn activations_and_their_gradients_are_pytorchs() {
    let golden = Arrays::open("activations");
    let pool = HybridMemoryPool::new().unwrap();
    let (x, g) = (golden.tensor("x", &pool), golden.tensor("g", &pool));
    for (function, name, expected) in [
        (ActivationFunction::Relu, "relu", "relu"),
        (ActivationFunction::Relu2, "relu2", "relu2"),
        (ActivationFunction::LeakyRelu { slope: 0.125 }, "leaky_relu", "leaky_relu"),
        (ActivationFunction::Gelu, "gelu", "gelu.tail"),
        (ActivationFunction::GeluTanh, "gelu_tanh", ""),
        (ActivationFunction::Silu, "silu", "silu"),
        (ActivationFunction::Sigmoid, "sigmoid", "sigmoid"),
        (ActivationFunction::Tanh, "tanh", "tanh"),
    ] {
        let y = activate(function, &x, &pool).unwrap();
        if expected.is_empty() {
            // PyTorch loses the digits of the tail in 1 + tanh, even in f64.
            assert_close(y.f32().unwrap(), &golden.get(name).f64(), 0.51, 1e-14, name);
        } else {
            assert_ulps(y.f32().unwrap(), &golden.get(expected).f64(), 0.51, name);
        }
        let mut out = BitNetTensor::zeros(x.shape(), &pool).unwrap();
        activate_into(function, &x, &mut out).unwrap();
        assert_bits(out.f32().unwrap(), y.f32().unwrap(), name);
        let back = activate_backward(function, &x, &g, &pool).unwrap();
        // The slope and the product are rounded once each.
        let expected = golden.get(&format!("{name}.back0")).f64();
        assert_close(back.f32().unwrap(), &expected, 1.01, 1e-9, name);
    }
}

#[test]
fn softmax_and_its_gradient_are_pytorchs_along_every_dimension() {
    let golden = Arrays::open("activations");
    let pool = HybridMemoryPool::new().unwrap();
    let (x, g) = (golden.tensor("rows", &pool), golden.tensor("rows.g", &pool));
    for axis in 0..3 {
        let name = format!("softmax{axis}");
        let y = softmax(&x, axis, &pool).unwrap();
        assert_eq!(y.shape(), x.shape());
        assert_ulps(y.f32().unwrap(), &golden.get(&name).f64(), 1.51, &name);
        let back = softmax_backward(&y, &g, axis, &pool).unwrap();
        let expected = golden.get(&format!("{name}.back0")).f64();
        // The rounding of y, at most 2^-24, meets gradients of up to 8.
        assert_close(back.f32().unwrap(), &expected, 1.0, 1e-6, &name);
        let name = format!("log_softmax{axis}");
        let y = log_softmax(&x, axis, &pool).unwrap();
        assert_ulps(y.f32().unwrap(), &golden.get(&name).f64(), 0.51, &name);
        let back = log_softmax_backward(&y, &g, axis, &pool).unwrap();
        let expected = golden.get(&format!("{name}.back0")).f64();
        assert_close(back.f32().unwrap(), &expected, 1.0, 1e-5, &name);
    }
}

#[test]
fn norms_and_their_gradients_are_pytorchs() {
    let golden = Arrays::open("activations");
    let pool = HybridMemoryPool::new().unwrap();
    let (x, g) = (golden.tensor("rows", &pool), golden.tensor("rows.g", &pool));
    let (weight, bias) = (golden.tensor("weight", &pool), golden.tensor("bias", &pool));
    let f64s = |name: &str| golden.get(name).f64();
    let y = layer_norm(&x, Some(&weight), Some(&bias), 1e-5, &pool).unwrap();
    // eps is 1e-5 rounded to f32 here.
    assert_close(y.f32().unwrap(), &f64s("layer_norm"), 0.51, 1e-9, "layer_norm");
    let back = layer_norm_backward(&x, Some(&weight), 1e-5, &g, &pool).unwrap();
    let NormGradients { x: dx, weight: dw, bias: db } = back;
    assert_close(dx.f32().unwrap(), &f64s("layer_norm.back0"), 0.51, 1e-9, "layer norm: x");
    assert_close(dw.f32().unwrap(), &f64s("layer_norm.back1"), 0.51, 1e-9, "layer norm: weight");
    assert_close(db.f32().unwrap(), &f64s("layer_norm.back2"), 0.51, 1e-9, "layer norm: bias");
    let y = rms_norm(&x, Some(&weight), 1e-5, &pool).unwrap();
    assert_close(y.f32().unwrap(), &f64s("rms_norm"), 0.51, 1e-9, "rms_norm");
    let back = rms_norm_backward(&x, Some(&weight), 1e-5, &g, &pool).unwrap();
    assert_close(back.x.f32().unwrap(), &f64s("rms_norm.back0"), 0.51, 1e-9, "RMS norm: x");
    assert_close(
        back.weight.f32().unwrap(),
        &f64s("rms_norm.back1"),
        0.51,
        1e-9,
        "RMS norm: weight",
    );
}

/// Asserts that `gradient` is that of `Σ c · f(x)` by its difference over a step of 1/16 in each direction, whose error
/// is below 2⁻⁸ · f‴ / 6 and the rounding of f32.
#[track_caller]
fn assert_moves(
    x: &BitNetTensor,
    c: &BitNetTensor,
    gradient: &BitNetTensor,
    pool: &HybridMemoryPool,
    f: impl Fn(&BitNetTensor) -> BitNetTensor,
) {
    let at = |i: usize, step: f32| -> f64 {
        let mut moved = x.to_contiguous(pool).unwrap();
        moved.f32_mut().unwrap()[i] += step;
        let y = f(&moved);
        let pairs = y.f32().unwrap().iter().zip(c.f32().unwrap());
        pairs.map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
    };
    let step = 1.0 / 16.0;
    for (i, &gradient) in gradient.f32().unwrap().iter().enumerate() {
        let seen = (at(i, step) - at(i, -step)) / (2.0 * f64::from(step));
        assert!((f64::from(gradient) - seen).abs() < 4e-3, "element {i}: {gradient} {seen}");
    }
}

#[test]
fn gradients_of_rows_agree_with_finite_differences() {
    let pool = HybridMemoryPool::new().unwrap();
    let of = |shape: &[usize], seed| BitNetTensor::normal(shape, 0.0, 1.0, seed, &pool).unwrap();
    let (x, c, weight) = (of(&[2, 19], 1), of(&[2, 19], 2), of(&[19], 3));
    let y = softmax(&x, 1, &pool).unwrap();
    let back = softmax_backward(&y, &c, 1, &pool).unwrap();
    assert_moves(&x, &c, &back, &pool, |x| softmax(x, 1, &pool).unwrap());
    let y = log_softmax(&x, 1, &pool).unwrap();
    let back = log_softmax_backward(&y, &c, 1, &pool).unwrap();
    assert_moves(&x, &c, &back, &pool, |x| log_softmax(x, 1, &pool).unwrap());
    let back = layer_norm_backward(&x, Some(&weight), 0.1, &c, &pool).unwrap();
    let norm =
        |x: &BitNetTensor, w: &BitNetTensor| layer_norm(x, Some(w), None, 0.1, &pool).unwrap();
    assert_moves(&x, &c, &back.x, &pool, |x| norm(x, &weight));
    assert_moves(&weight, &c, &back.weight, &pool, |w| norm(&x, w));
    let back = rms_norm_backward(&x, Some(&weight), 0.1, &c, &pool).unwrap();
    let norm = |x: &BitNetTensor, w: &BitNetTensor| rms_norm(x, Some(w), 0.1, &pool).unwrap();
    assert_moves(&x, &c, &back.x, &pool, |x| norm(x, &weight));
    assert_moves(&weight, &c, &back.weight, &pool, |w| norm(&x, w));
}

#[test]
fn extreme_numbers_have_the_expected_results() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = [f32::INFINITY, -1e30, f32::NAN, -0.0, f32::MAX];
    let x = BitNetTensor::from_f32(&[5], &x, &pool).unwrap();
    let big = f32::INFINITY;
    for (function, expected) in [
        (ActivationFunction::Relu, [big, 0.0, f32::NAN, -0.0, f32::MAX]),
        (ActivationFunction::Gelu, [big, -0.0, f32::NAN, -0.0, f32::MAX]),
        (ActivationFunction::GeluTanh, [big, -0.0, f32::NAN, -0.0, f32::MAX]),
        (ActivationFunction::Silu, [big, -0.0, f32::NAN, -0.0, f32::MAX]),
        (ActivationFunction::Sigmoid, [1.0, 0.0, f32::NAN, 0.5, 1.0]),
        (ActivationFunction::Tanh, [1.0, -1.0, f32::NAN, -0.0, 1.0]),
    ] {
        let y = activate(function, &x, &pool).unwrap();
        assert_bits(y.f32().unwrap(), &expected, &format!("{function:?}"));
    }
    let rows = [0.0, f32::NEG_INFINITY, f32::NAN, 1.0, f32::INFINITY, 0.0];
    let rows = BitNetTensor::from_f32(&[3, 2], &rows, &pool).unwrap();
    let y = softmax(&rows, 1, &pool).unwrap();
    assert_bits(y.f32().unwrap(), &[1.0, 0.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN], "softmax");
    let logs = log_softmax(&rows, 1, &pool).unwrap();
    assert_bits(&logs.f32().unwrap()[..2], &[0.0, f32::NEG_INFINITY], "log_softmax");
    let empty = BitNetTensor::zeros(&[2, 0], &pool).unwrap();
    assert_eq!(softmax(&empty, 1, &pool).unwrap().shape(), [2, 0]);
    assert_eq!(rms_norm(&empty, None, 1e-5, &pool).unwrap().shape(), [2, 0]);
}

#[test]
fn half_precision_rows_are_computed_wide_and_rounded_once() {
    let pool = HybridMemoryPool::new().unwrap();
    for dtype in [BitNetDType::F16, BitNetDType::BF16] {
        // 512 squares of 16 are 131072: above the range of f16, and a sum in bf16 would stop early.
        let x = BitNetTensor::full(&[1, 512], 16.0, &pool).unwrap();
        let x = x.cast(dtype, CastRule::Checked, &pool).unwrap();
        let y = rms_norm(&x, None, 0.0, &pool).unwrap();
        assert_eq!(y.dtype(), dtype);
        assert_eq!(y.to_f32(&pool).unwrap().f32().unwrap(), [1.0; 512]);
        let y = softmax(&x, 1, &pool).unwrap();
        assert_eq!(y.to_f32(&pool).unwrap().f32().unwrap(), [1.0 / 512.0; 512]);
    }
}

#[test]
fn incompatible_operands_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::ones(&[2, 3], &pool).unwrap();
    let (row, scalar) =
        (BitNetTensor::ones(&[2], &pool).unwrap(), BitNetTensor::ones(&[], &pool).unwrap());
    assert!(matches!(softmax(&x, 2, &pool), Err(Error::OutOfRange { .. })));
    assert!(matches!(softmax_backward(&x, &row, 0, &pool), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(rms_norm(&x, Some(&row), 1e-5, &pool), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(rms_norm(&scalar, None, 1e-5, &pool), Err(Error::OutOfRange { .. })));
    let back = rms_norm_backward(&x, None, 1e-5, &row, &pool);
    assert!(matches!(back, Err(Error::ShapeMismatch { .. })));
    let back = activate_backward(ActivationFunction::Relu, &x, &scalar, &pool);
    assert!(matches!(back, Err(Error::ShapeMismatch { .. })));
    let trits = x.cast(BitNetDType::BitNet158, CastRule::Checked, &pool).unwrap();
    let refused = activate(ActivationFunction::Relu, &trits, &pool);
    assert!(matches!(refused, Err(Error::DTypeMismatch { .. })));
    assert!(matches!(softmax(&trits, 0, &pool), Err(Error::DTypeMismatch { .. })));
}
