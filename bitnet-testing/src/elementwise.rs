//! Cases of `gate` and `add`.

use crate::{EPS, Numbers, assert_close, bits, pool, tensor};
use bitnet_core::backend::Activation;
use bitnet_core::backend::Backend;
use bitnet_core::memory::HybridMemoryPool;

/// Numbers at which functions of one number go wrong, then random ones.
fn numbers(n: usize) -> Vec<f32> {
    let special = [0.0, -0.0, 1.0, -1.0, 87.0, -87.0, 88.5, -88.5, 89.0, -89.0, 200.0, -200.0];
    let random = Numbers::new(9).floats(n).into_iter().map(|x| x * 12.0);
    special.into_iter().chain(random).take(n).collect()
}

const ACTIVATIONS: [Activation; 4] =
    [Activation::Silu, Activation::Relu2, Activation::GeluTanh, Activation::Sigmoid];

fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

/// Within `2⁻²⁰` of the size of the result, or of `x * up` where GELU subtracts two numbers that are close.
fn gate(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for activation in ACTIVATIONS {
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
    for activation in ACTIVATIONS {
        let x: Vec<f32> = (0..37).map(|i| if i % 5 == 0 { f32::NAN } else { 1.0 }).collect();
        let mut gate = tensor(1, 37, &x, pool);
        backend.gate(activation, &mut gate, &tensor(1, 37, &[1.0; 37], pool)).unwrap();
        for (i, x) in gate.f32().unwrap().iter().enumerate() {
            assert_eq!(x.is_nan(), i % 5 == 0, "{activation}: [{i}] is {x}");
        }
    }
}

/// An infinite gate does not pass for an open or a closed one.
fn infinite_gate(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let mut gate = tensor(1, 3, &[f32::INFINITY, 0.0, f32::NEG_INFINITY], pool);
    backend.gate(Activation::Sigmoid, &mut gate, &tensor(1, 3, &[1.0; 3], pool)).unwrap();
    let nan: Vec<bool> = gate.f32().unwrap().iter().map(|x| x.is_nan()).collect();
    assert_eq!(nan, [true, false, true]);
}

fn add(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (rows, cols) in [(1, 1), (0, 3), (3, 100), (2, 2561)] {
        let (x, y) = (numbers(rows * cols), Numbers::new(11).floats(rows * cols));
        let mut sum = tensor(rows, cols, &x, pool);
        backend.add(&mut sum, &tensor(rows, cols, &y, pool)).unwrap();
        let expected = x.iter().zip(&y).map(|(x, y)| (x + y).to_bits());
        assert_eq!(bits(&sum), expected.collect::<Vec<_>>());
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    gate(backend, &pool);
    gate_of_nan(backend, &pool);
    infinite_gate(backend, &pool);
    add(backend, &pool);
}
