//! Cases of `gate`, `clamped_gate`, `weighted_sum` and `add`.

use crate::{EPS, Numbers, assert_close, bits, dirty, pool, tensor};
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

/// As SiLU, with the gate bounded above and the other factor on both sides, whatever is infinite.
fn clamped_gate(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let limit = 7.0;
    for (rows, cols) in [(1, 1), (3, 37), (0, 5), (2, 512)] {
        let mut x = numbers(rows * cols);
        let mut up: Vec<f32> =
            Numbers::new(12).floats(rows * cols).into_iter().map(|x| x * 20.0).collect();
        for (index, number) in [(20, f32::INFINITY), (21, 7.000_001)] {
            x.get_mut(index).into_iter().for_each(|x| *x = number);
        }
        for (index, number) in [(22, f32::INFINITY), (23, f32::NEG_INFINITY)] {
            up.get_mut(index).into_iter().for_each(|up| *up = number);
        }
        let mut gate = tensor(rows, cols, &x, pool);
        backend.clamped_gate(limit, &mut gate, &tensor(rows, cols, &up, pool)).unwrap();
        let expected: Vec<f64> = x
            .iter()
            .zip(&up)
            .map(|(&x, &up)| {
                let gate = f64::from(x).min(f64::from(limit));
                exact(Activation::Silu, gate) * f64::from(up.clamp(-limit, limit))
            })
            .collect();
        assert_close("clamped gate", gate.f32().unwrap(), &expected, |i| {
            16.0 * EPS * expected[i].abs() + 1e-36
        });
    }
    for wrong_gate in [true, false] {
        let x = |is_wrong: bool| [1.0, if is_wrong { f32::NAN } else { 1.0 }, 9.0];
        let mut gate = tensor(1, 3, &x(wrong_gate), pool);
        backend.clamped_gate(limit, &mut gate, &tensor(1, 3, &x(!wrong_gate), pool)).unwrap();
        let nan: Vec<bool> = gate.f32().unwrap().iter().map(|x| x.is_nan()).collect();
        assert_eq!(nan, [false, true, false], "NaN of the gate: {wrong_gate}");
    }
    for limit in [0.0, -1.0, f32::NAN] {
        let up = tensor(1, 1, &[1.0], pool);
        assert!(backend.clamped_gate(limit, &mut tensor(1, 1, &[1.0], pool), &up).is_err());
    }
}

/// Products are rounded before they are added, in the order of the rows.
fn weighted_sum(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (tokens, each, cols) in
        [(1, 1, 1), (1, 8, 37), (3, 2, 100), (0, 4, 5), (2, 0, 3), (33, 8, 512)]
    {
        let rows = tokens * each;
        let x = Numbers::new(13).floats(rows * cols);
        let weights = Numbers::new(14).floats(rows);
        let mut out = dirty(tokens, cols, pool);
        backend.weighted_sum(&tensor(rows, cols, &x, pool), &weights, &mut out).unwrap();
        let mut expected = vec![0f32; tokens * cols];
        for (index, out) in expected.iter_mut().enumerate() {
            let (token, col) = (index / cols, index % cols);
            for row in token * each..(token + 1) * each {
                let product = weights[row] * x[row * cols + col];
                *out += product;
            }
        }
        let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
        assert_eq!(bits(&out), expected, "{tokens} tokens of {each} rows");
    }
    let x = tensor(4, 2, &[0.0; 8], pool);
    for (weights, tokens, cols) in [(&[1.0; 3][..], 2, 2), (&[1.0; 4], 3, 2), (&[1.0; 4], 2, 3)] {
        assert!(backend.weighted_sum(&x, weights, &mut dirty(tokens, cols, pool)).is_err());
    }
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
    clamped_gate(backend, &pool);
    weighted_sum(backend, &pool);
    add(backend, &pool);
}
