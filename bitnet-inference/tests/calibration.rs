//! What layers read is shown as it is, and calibrated ranges are used: on every back end, for the right model only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;

use bitnet_core::simd::IsaLevel;
use bitnet_cpu::CpuOptions;
use bitnet_inference::{InferenceError, LoadOptions, Model, ModelSource, backend_by_name};
use bitnet_quant::activations::ActivationBits;
use bitnet_quant::calibration::{Calibration, CalibrationMethod, Observer};

fn model(backend: &str, isa: Option<IsaLevel>, calibration: Option<Calibration>) -> Model {
    load(backend, isa, calibration).unwrap()
}

fn load(
    backend: &str,
    isa: Option<IsaLevel>,
    calibration: Option<Calibration>,
) -> Result<Model, InferenceError> {
    let backend = backend_by_name(backend, CpuOptions { threads: Some(2), isa }).unwrap();
    let options = LoadOptions { calibration, ..LoadOptions::default() };
    Model::load_with(ModelSource::Embedded, &options, backend, &mut |_, _| {})
}

/// The numbers of every input, in the order in which they came.
fn inputs(model: &Model, tokens: &[u32]) -> BTreeMap<String, Vec<f32>> {
    let mut seen: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut session = model.session(Some(tokens.len())).unwrap();
    session
        .extend_observed(tokens, &mut |input, x| {
            assert_eq!(x.len(), tokens.len() * input.features);
            seen.entry(input.to_string()).or_default().extend(x);
            Ok(())
        })
        .unwrap();
    assert_eq!(session.logits().unwrap(), logits(model, tokens), "looking changes nothing");
    seen
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session(Some(tokens.len())).unwrap().extend(tokens).unwrap().logits().unwrap()
}

fn calibration(inputs: &BTreeMap<String, Vec<f32>>, bits: ActivationBits) -> Calibration {
    let mut observer = Observer::new();
    for (name, values) in inputs {
        observer.observe(name, values);
    }
    observer.calibrate(CalibrationMethod::MinMax, bits).unwrap()
}

#[test]
fn every_input_is_shown_once_a_token() {
    let model = model("cpu", None, None);
    let tokens = model.encode_prompt("Once upon a time, there was a").unwrap();
    let seen = inputs(&model, &tokens);
    let config = model.config();
    assert_eq!(seen.len(), 4 * config.layers);
    let widths = [
        ("attn_qkv", config.hidden),
        ("attn_output", config.heads * config.head_dim),
        ("ffn_gate_up", config.hidden),
        ("ffn_down", config.intermediate),
    ];
    for layer in 0..config.layers {
        for (name, width) in widths {
            let values = &seen[&format!("blk.{layer}.{name}")];
            assert_eq!(values.len(), tokens.len() * width, "{layer} {name}");
            assert!(values.iter().all(|x| x.is_finite()) && values.iter().any(|&x| x != 0.0));
        }
    }
}

#[test]
fn the_range_of_a_single_token_gives_what_that_token_gives_by_itself() {
    let plain = model("cpu", None, None);
    let tokens = &plain.encode_prompt("Once").unwrap()[..1];
    let ranges = calibration(&inputs(&plain, tokens), ActivationBits::Int8);
    let calibrated = model("cpu", None, Some(ranges));
    assert_eq!(logits(&calibrated, tokens), logits(&plain, tokens));
}

#[test]
fn every_level_computes_what_the_reference_computes_within_the_ranges() {
    let plain = model("cpu", None, None);
    let tokens = plain.encode_prompt("Once upon a time, there was a small").unwrap();
    let mut seen = inputs(&plain, &tokens);
    // Half of the range: the rest is clamped.
    seen.values_mut().flatten().for_each(|x| *x *= 0.5);
    let ranges = calibration(&seen, ActivationBits::Int8);
    let expected = logits(&model("reference", None, Some(ranges.clone())), &tokens);
    assert_ne!(expected, logits(&model("reference", None, None), &tokens));
    for level in IsaLevel::available() {
        let found = logits(&model("cpu", Some(level), Some(ranges.clone())), &tokens);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-3, "{level}: {found} and {expected}");
        }
    }
}

#[test]
fn ranges_of_another_model_are_refused() {
    let plain = model("cpu", None, None);
    let tokens = &plain.encode_prompt("Once").unwrap()[..1];
    let seen = inputs(&plain, tokens);
    let refused = |seen: &BTreeMap<String, Vec<f32>>, bits, words: &[&str]| {
        let error = load("cpu", None, Some(calibration(seen, bits))).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
    };
    let mut fewer = seen.clone();
    fewer.remove("blk.1.ffn_down");
    refused(&fewer, ActivationBits::Int8, &["blk.1.ffn_down has no range", "bitnet calibrate"]);
    let mut more = seen.clone();
    more.insert("blk.99.ffn_down".into(), vec![1.0]);
    refused(&more, ActivationBits::Int8, &["blk.99.ffn_down is not in the model"]);
    refused(&seen, ActivationBits::Int4, &["4 bits", "calibrate for 8 bits"]);
}
