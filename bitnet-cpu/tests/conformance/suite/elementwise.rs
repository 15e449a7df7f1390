//! Cases of `gate`, `add`, `mul`, `softmax`, `cast` and `copy`.

use super::*;
use bitnet_core::backend::Activation;
use bitnet_core::device::Device;
use bitnet_core::memory::tensor::{BitNetDType, SharedBytes, TensorMetadata};
use std::sync::Arc;

/// Numbers at which functions of one number go wrong, then random ones.
fn numbers(n: usize) -> Vec<f32> {
    let special = [0.0, -0.0, 1.0, -1.0, 87.0, -87.0, 88.5, -88.5, 89.0, -89.0, 200.0, -200.0];
    let random = Numbers::new(9).floats(n).into_iter().map(|x| x * 12.0);
    special.into_iter().chain(random).take(n).collect()
}

fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// Within `2⁻²⁰` of the size of the result, or of `x * up` where GELU subtracts two numbers that are close.
fn gate(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for activation in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
        for (rows, cols) in [(1, 1), (3, 37), (0, 5), (2, 6912)] {
            let x = numbers(rows * cols);
            let up = Numbers::new(10).floats(rows * cols);
            let mut gate = tensor(rows, cols, &x, pool);
            backend.gate(activation, &mut gate, &tensor(rows, cols, &up, pool)).unwrap();
            let expected: Vec<f64> = x
                .iter()
                .zip(&up)
                .map(|(&x, &up)| exact(activation, f64::from(x)) * f64::from(up))
                .collect();
            let case = format!("{activation:?}");
            assert_close(&case, gate.f32().unwrap(), &expected, |i| {
                let close = activation == Activation::GeluTanh;
                let size = if close { f64::from(x[i] * up[i]) } else { expected[i] };
                16.0 * EPS * size.abs() + 1e-36
            });
        }
    }
}

/// No activation makes a number of NaN.
fn gate_of_nan(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for activation in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
        let x: Vec<f32> = (0..37).map(|i| if i % 5 == 0 { f32::NAN } else { 1.0 }).collect();
        let mut gate = tensor(1, 37, &x, pool);
        backend.gate(activation, &mut gate, &tensor(1, 37, &[1.0; 37], pool)).unwrap();
        for (i, x) in gate.f32().unwrap().iter().enumerate() {
            assert_eq!(x.is_nan(), i % 5 == 0, "{activation}: [{i}] is {x}");
        }
    }
}

fn add_and_mul(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (rows, cols) in [(1, 1), (0, 3), (3, 100), (2, 2561)] {
        let (x, y) = (numbers(rows * cols), Numbers::new(11).floats(rows * cols));
        let other = tensor(rows, cols, &y, pool);
        let mut sum = tensor(rows, cols, &x, pool);
        backend.add(&mut sum, &other).unwrap();
        let mut product = tensor(rows, cols, &x, pool);
        backend.mul(&mut product, &other).unwrap();
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            assert_eq!(sum.f32().unwrap()[i].to_bits(), (x + y).to_bits());
            assert_eq!(product.f32().unwrap()[i].to_bits(), (x * y).to_bits());
        }
    }
}

/// Within `2⁻²⁰` of the size of the result.
fn softmax(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (rows, cols) in [(1, 1), (0, 5), (4, 7), (3, 300)] {
        for (factor, hole) in [(1.0, false), (40.0, false), (1.0, true), (1e30, false)] {
            let mut x: Vec<f32> =
                Numbers::new(12).floats(rows * cols).iter().map(|x| x * factor).collect();
            if hole && cols > 1 {
                x.iter_mut().step_by(2).for_each(|x| *x = f32::NEG_INFINITY);
            }
            let mut out = tensor(rows, cols, &x, pool);
            backend.softmax(&mut out).unwrap();
            let mut expected = vec![];
            for row in x.chunks_exact(cols) {
                let largest = row.iter().copied().fold(f32::MIN, f32::max);
                let weight = |x: &f32| (f64::from(*x) - f64::from(largest)).exp();
                let total: f64 = row.iter().map(weight).sum();
                expected.extend(row.iter().map(|x| weight(x) / total));
            }
            // The difference from the largest is rounded before the exponential sees it.
            let bound =
                |i: usize| (16.0 + 100.0 * f64::from(factor.min(40.0))) * EPS * expected[i] + 1e-37;
            assert_close("softmax", out.f32().unwrap(), &expected, bound);
            for (x, out) in x.iter().zip(out.f32().unwrap()) {
                assert!(*x != f32::NEG_INFINITY || *out == 0.0, "what is masked has no weight");
            }
        }
    }
    let mut empty = tensor(3, 0, &[], pool);
    backend.softmax(&mut empty).unwrap();
}

fn cast(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for n in [0, 1, 15, 16, 17, 1000] {
        let values = numbers(n);
        for (dtype, plain) in [
            (BitNetDType::F32, PlainType::F32),
            (BitNetDType::F16, PlainType::F16),
            (BitNetDType::BF16, PlainType::BF16),
        ] {
            let stored = Rows::new(1, n, &values, plain, true);
            let metadata = TensorMetadata::new(vec![1, n], dtype, Device::Cpu);
            let bytes: SharedBytes = Arc::new(stored.bytes[stored.start..].to_vec());
            let x = BitNetTensor::from_shared(metadata, bytes).unwrap();
            let mut out = dirty(1, n, pool);
            backend.cast(&x, &mut out).unwrap();
            assert_eq!(out.f32().unwrap(), stored.values(), "{plain:?}");
        }
    }
    let metadata = TensorMetadata::new(vec![1, 4], BitNetDType::I8, Device::Cpu);
    let x = BitNetTensor::from_shared(metadata, Arc::new(vec![0u8; 4])).unwrap();
    assert!(matches!(
        backend.cast(&x, &mut dirty(1, 4, pool)),
        Err(bitnet_core::Error::DTypeMismatch { .. })
    ));
}

fn copy(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let mut out = tensor(4, 3, &[9.0; 12], pool);
    backend.copy(&tensor(2, 3, &values, pool), &mut out, 1).unwrap();
    let mut expected = [9.0; 12];
    expected[3..9].copy_from_slice(&values);
    assert_eq!(out.f32().unwrap(), expected);
    backend.copy(&tensor(0, 3, &[], pool), &mut out, 4).unwrap();
    assert_eq!(out.f32().unwrap(), expected);
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    gate(backend, &pool);
    gate_of_nan(backend, &pool);
    add_and_mul(backend, &pool);
    softmax(backend, &pool);
    cast(backend, &pool);
    copy(backend, &pool);
}
