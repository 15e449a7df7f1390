//! BitLinear compared with its formula in f64, with PyTorch (`scripts/golden/bit_linear.py`), and with finite
//! differences of the surrogate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_quant::activations::absmax_int8;
use bitnet_quant::bit_linear::BitLinear;
use bitnet_quant::quantizer::{Absmean, Quantizer, Sign};
use serde_json::Value;

const BATCH: usize = 2;
const TOKENS: usize = 3;
const INPUT: usize = 36;
const OUT: usize = 10;
const EPS: f32 = 1e-5;

fn rules() -> [Arc<dyn Quantizer>; 2] {
    [Arc::new(Absmean), Arc::new(Sign)]
}

/// Returns each rule without and with a norm.
fn layers() -> impl Iterator<Item = (Arc<dyn Quantizer>, bool)> {
    rules().into_iter().flat_map(|rule| [(Arc::clone(&rule), false), (rule, true)])
}

/// Returns the values of the script, exact in f32.
fn formula(start: u64, count: usize) -> Vec<f32> {
    let value =
        |index: u64| (((index * 2_654_435_761) % (1 << 32)) >> 8) as f64 / f64::from(1 << 24) - 0.5;
    (start..start + count as u64).map(|index| value(index) as f32).collect()
}

fn input() -> Vec<f32> {
    formula(0, BATCH * TOKENS * INPUT).iter().map(|v| 4.0 * v).collect()
}

fn latent() -> Vec<f32> {
    formula(1000, OUT * INPUT).iter().map(|v| v / 4.0 + 0.015625).collect()
}

fn gain() -> Vec<f32> {
    formula(4000, INPUT).iter().map(|v| 1.0 + v / 4.0).collect()
}

fn reference() -> Arc<dyn Backend> {
    Arc::new(ReferenceBackend)
}

fn tensor(shape: &[usize], values: &[f32], pool: &HybridMemoryPool) -> BitNetTensor {
    BitNetTensor::from_f32(shape, values, pool).unwrap()
}

fn layer(rule: Arc<dyn Quantizer>, norm: bool, pool: &HybridMemoryPool) -> BitLinear {
    let layer = BitLinear::new(tensor(&[OUT, INPUT], &latent(), pool), rule, reference()).unwrap();
    let layer = layer.with_bias(tensor(&[OUT], &formula(3000, OUT), pool)).unwrap();
    if norm { layer.with_input_norm(tensor(&[INPUT], &gain(), pool), EPS).unwrap() } else { layer }
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// Asserts equality up to the rounding of sums of up to a hundred f32 terms.
fn assert_near(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= 2e-6 * largest, "{what}[{index}]: {got}, not {expected}");
    }
}

#[test]
fn results_and_gradients_equal_pytorch() {
    let pool = HybridMemoryPool::new().unwrap();
    let golden: Value = serde_json::from_str(include_str!("golden/bit_linear.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), layers().count());
    for ((rule, norm), case) in layers().zip(cases) {
        assert_eq!(
            (case["rule"].as_str(), case["norm"].as_bool()),
            (Some(rule.name()), Some(norm))
        );
        let layer = layer(Arc::clone(&rule), norm, &pool);
        let x = tensor(&[BATCH, TOKENS, INPUT], &input(), &pool);
        let y = layer.forward(&x, &pool).unwrap();
        assert_eq!(y.shape(), [BATCH, TOKENS, OUT]);
        assert_near("y", y.f32().unwrap(), &floats(&case["y"]));
        let dy = tensor(y.shape(), &formula(5000, BATCH * TOKENS * OUT), &pool);
        let gradients = layer.backward(&x, &dy, &pool).unwrap();
        assert_eq!(gradients.x.shape(), x.shape());
        assert_eq!(gradients.latent.shape(), [OUT, INPUT]);
        assert_near("x", gradients.x.f32().unwrap(), &floats(&case["x"]));
        assert_near("latent", gradients.latent.f32().unwrap(), &floats(&case["latent"]));
        assert_near("bias", gradients.bias.unwrap().f32().unwrap(), &floats(&case["bias"]));
        assert_eq!(gradients.gain.is_some(), norm);
        if let Some(gain) = gradients.gain {
            assert_near("gain", gain.f32().unwrap(), &floats(&case["gain"]));
        }
    }
}

#[test]
fn results_match_the_formula_with_exact_integers() {
    let pool = HybridMemoryPool::new().unwrap();
    for rule in rules() {
        let layer = layer(Arc::clone(&rule), false, &pool);
        let rows = tensor(&[BATCH * TOKENS, INPUT], &input(), &pool);
        let y = layer.forward(&rows, &pool).unwrap();
        let trits = layer.quantized().to_trits();
        let weight = reference().prepare(layer.quantized().clone()).unwrap();
        let integers = reference().bit_linear_integers(&rows, &*weight).unwrap();
        let (scale, bias) = (layer.quantized().scales()[0], formula(3000, OUT));
        if rule.name() == "sign" {
            assert!(trits.iter().all(|&trit| trit != 0));
        }
        for (token, x) in input().chunks_exact(INPUT).enumerate() {
            let mut codes = [0i8; INPUT];
            let s = absmax_int8(x, &mut codes);
            for row in 0..OUT {
                let trits = &trits[row * INPUT..(row + 1) * INPUT];
                let dot: i64 =
                    trits.iter().zip(&codes).map(|(&t, &q)| i64::from(t) * i64::from(q)).sum();
                assert_eq!(i64::from(integers.dots[token * OUT + row]), dot);
                let product = dot as f64 / f64::from(s) * f64::from(scale);
                let exact = product + f64::from(bias[row]);
                // A division, a product and a sum, each rounded once.
                let bound = f64::from(f32::EPSILON) * (2.0 * product.abs() + exact.abs());
                let got = f64::from(y.f32().unwrap()[token * OUT + row]);
                assert!((got - exact).abs() <= bound, "{rule:?} {token} {row}: {got}, not {exact}");
            }
        }
    }
}

/// The surrogate in f64, with what rounding added at the point of expansion.
struct Surrogate {
    x: Vec<f64>,
    latent: Vec<f64>,
    gain: Option<Vec<f64>>,
    /// The quantisation error of the normed input and of the latent weights.
    added: [Vec<f64>; 2],
    dy: Vec<f64>,
}

impl Surrogate {
    fn normed(&self) -> Vec<f64> {
        let Some(gain) = &self.gain else { return self.x.clone() };
        let norm = |x: &[f64]| {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / INPUT as f64;
            let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
            x.iter().zip(gain).map(|(x, g)| g * x * factor).collect::<Vec<_>>()
        };
        self.x.chunks_exact(INPUT).flat_map(norm).collect()
    }

    /// Returns `Σ dy · y`, whose gradients are those of the backward pass.
    fn value(&self) -> f64 {
        let n: Vec<f64> = self.normed().iter().zip(&self.added[0]).map(|(n, a)| n + a).collect();
        let w: Vec<f64> = self.latent.iter().zip(&self.added[1]).map(|(w, a)| w + a).collect();
        let rows = n.chunks_exact(INPUT).zip(self.dy.chunks_exact(OUT));
        rows.map(|(n, dy)| {
            let products = w.chunks_exact(INPUT).zip(dy);
            products
                .map(|(w, dy)| dy * w.iter().zip(n).map(|(w, n)| w * n).sum::<f64>())
                .sum::<f64>()
        })
        .sum()
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn gradients_match_finite_differences_of_the_surrogate() {
    let pool = HybridMemoryPool::new().unwrap();
    for (rule, norm) in layers() {
        let layer = layer(Arc::clone(&rule), norm, &pool);
        let x = tensor(&[BATCH * TOKENS, INPUT], &input(), &pool);
        let dy = formula(5000, BATCH * TOKENS * OUT);
        let gradients =
            layer.backward(&x, &tensor(&[BATCH * TOKENS, OUT], &dy, &pool), &pool).unwrap();
        let mut surrogate = Surrogate {
            x: wide(&input()),
            latent: wide(&latent()),
            gain: norm.then(|| wide(&gain())),
            added: [Vec::new(), Vec::new()],
            dy: wide(&dy),
        };
        let normed = surrogate.normed();
        let quantized = normed.chunks_exact(INPUT).flat_map(|row| {
            let row: Vec<f32> = row.iter().map(|&v| v as f32).collect();
            let mut codes = [0i8; INPUT];
            let scale = f64::from(absmax_int8(&row, &mut codes));
            codes.map(|code| f64::from(code) / scale)
        });
        surrogate.added[0] = quantized.zip(&normed).map(|(q, n)| q - n).collect();
        let scale = f64::from(layer.quantized().scales()[0]);
        let weights = layer.quantized().to_trits().into_iter().map(|trit| f64::from(trit) * scale);
        surrogate.added[1] = weights.zip(wide(&latent())).map(|(q, w)| q - w).collect();

        let mut check = |what: &str, got: &[f32], at: fn(&mut Surrogate) -> &mut [f64]| {
            let largest = got.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (index, &got) in got.iter().enumerate() {
                let h = 1e-4;
                let mut moved = |by: f64| {
                    at(&mut surrogate)[index] += by;
                    surrogate.value()
                };
                let (up, down) = (moved(h), moved(-2.0 * h));
                moved(h);
                let slope = (up - down) / (2.0 * h);
                // Products in f32 on one side, terms of third order in h on the other.
                let bound = 1e-5 * f64::from(largest);
                assert!(
                    (f64::from(got) - slope).abs() <= bound,
                    "{rule:?} {what}[{index}]: {got}, not {slope}"
                );
            }
        };
        check("x", gradients.x.f32().unwrap(), |s| &mut s.x);
        check("latent", gradients.latent.f32().unwrap(), |s| &mut s.latent);
        if let Some(gain) = gradients.gain {
            check("gain", gain.f32().unwrap(), |s| s.gain.as_mut().unwrap());
        }
    }
}

#[test]
fn both_weight_orientations_are_equivalent() {
    let pool = HybridMemoryPool::new().unwrap();
    let major = latent();
    let transposed: Vec<f32> =
        (0..INPUT * OUT).map(|i| major[(i % OUT) * INPUT + i / OUT]).collect();
    let x = tensor(&[TOKENS, INPUT], &input()[..TOKENS * INPUT], &pool);
    for rule in rules() {
        let by_output =
            BitLinear::new(tensor(&[OUT, INPUT], &major, &pool), Arc::clone(&rule), reference())
                .unwrap();
        // `x [tokens, in] · w [in, out]`, as MLX writes it.
        let w = tensor(&[INPUT, OUT], &transposed, &pool);
        let by_input =
            BitLinear::from_input_major(&w, Arc::clone(&rule), reference(), &pool).unwrap();
        assert_eq!(by_input.latent().shape(), [OUT, INPUT]);
        assert_eq!(by_input.quantized(), by_output.quantized());
        let y = by_input.forward(&x, &pool).unwrap();
        assert_eq!(y.shape(), [TOKENS, OUT]);
        assert_eq!(y.f32().unwrap(), by_output.forward(&x, &pool).unwrap().f32().unwrap());
        // In the wrong orientation, the layer rejects the input.
        let wrong = BitLinear::new(w, rule, reference()).unwrap();
        let error = wrong.forward(&x, &pool).unwrap_err().to_string();
        assert!(error.contains("[3, 10]") && error.contains("[3, 36]"), "{error}");
    }
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    let pool = HybridMemoryPool::new().unwrap();
    for (rule, norm) in layers() {
        let layer = layer(Arc::clone(&rule), norm, &pool);
        let whole =
            layer.forward(&tensor(&[BATCH, TOKENS, INPUT], &input(), &pool), &pool).unwrap();
        for (x, y) in input().chunks_exact(INPUT).zip(whole.f32().unwrap().chunks_exact(OUT)) {
            let alone = layer.forward(&tensor(&[INPUT], x, &pool), &pool).unwrap();
            assert_eq!((alone.shape(), alone.f32().unwrap()), (&[OUT][..], y));
        }
    }
}

#[test]
fn new_weights_are_quantised_and_invalid_operands_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let mut changed = layer(Arc::new(Absmean), false, &pool);
    let x = tensor(&[TOKENS, INPUT], &input()[..TOKENS * INPUT], &pool);
    let before = changed.forward(&x, &pool).unwrap();
    let negated: Vec<f32> = latent().iter().map(|w| -w).collect();
    changed.set_latent(tensor(&[OUT, INPUT], &negated, &pool)).unwrap();
    let after = changed.forward(&x, &pool).unwrap();
    for ((after, before), bias) in after
        .f32()
        .unwrap()
        .iter()
        .zip(before.f32().unwrap())
        .zip(formula(3000, OUT).iter().cycle())
    {
        assert!((after + before - 2.0 * bias).abs() <= 4.0 * f32::EPSILON * before.abs().max(1.0));
    }
    let nothing = BitNetTensor::zeros(&[0, INPUT], &pool).unwrap();
    assert_eq!(changed.forward(&nothing, &pool).unwrap().shape(), [0, OUT]);
    let refused = |result: bitnet_quant::Result<()>, word: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(word), "{word}: {text}");
    };
    refused(changed.set_latent(tensor(&[INPUT, OUT], &latent(), &pool)), "latent weights");
    let dy = tensor(&[TOKENS, INPUT], &input()[..TOKENS * INPUT], &pool);
    refused(changed.backward(&x, &dy, &pool).map(drop), "gradient of the result");
    let wrong = tensor(&[INPUT], &gain(), &pool);
    refused(layer(Arc::new(Sign), false, &pool).with_bias(wrong.clone()).map(drop), "bias");
    let gain = tensor(&[OUT], &formula(0, OUT), &pool);
    refused(layer(Arc::new(Sign), false, &pool).with_input_norm(gain, EPS).map(drop), "gain");
    for value in [f32::NAN, f32::INFINITY] {
        let mut values = latent();
        values[7] = value;
        for rule in rules() {
            let latent = tensor(&[OUT, INPUT], &values, &pool);
            refused(BitLinear::new(latent, rule, reference()).map(drop), "row 0, column 7");
        }
    }
}
