//! Folders with per-tensor settings: results have equal logits.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::Path;
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource};
use serde_json::Value;
use tempfile::TempDir;

/// Returns the folder of a case of `tests/golden/settings` with changed settings.
fn folder_of(name: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/settings");
    let all: Value =
        serde_json::from_slice(&std::fs::read(golden.join("cases.json")).unwrap()).unwrap();
    let cases = all["cases"].as_array().unwrap();
    let mut case = cases.iter().find(|case| case["name"] == name).unwrap().clone();
    change(&mut case["config"]);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), case["config"].to_string()).unwrap();
    let weights = golden.join(format!("{}.safetensors", case["weights"].as_str().unwrap()));
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

fn logits(path: &Path) -> Vec<f32> {
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    let source = ModelSource::Path(path);
    let model = Model::load_with(source, &options, Arc::new(ReferenceBackend), &mut |_, _| {});
    model.unwrap().session(Some(8)).unwrap().extend(&[3, 17, 5, 22, 9]).unwrap().logits().unwrap()
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn layers_excluded_from_quantisation_are_unchanged() {
    for (name, target) in [
        ("online-modules", Target::HuggingFace),
        ("online-modules", Target::Dense),
        ("offline-modules", Target::HuggingFace),
    ] {
        let source = folder_of(name, |_| {});
        let parent = TempDir::new().unwrap();
        let output = parent.path().join("out");
        let options = ConvertOptions { target: Some(target), ..ConvertOptions::default() };
        convert(source.path(), &output, &options, &mut |_| true).unwrap();
        let (before, after) = (logits(source.path()), logits(&output));
        let distance = before.iter().zip(&after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(distance < 1e-5, "{name} as {target:?}: logits differ by {distance}");
        let listed = &config_of(&output)["quantization_config"]["modules_to_not_convert"];
        assert!(listed.as_array().unwrap().len() == 2, "{name} as {target:?}: {listed}");
    }
}

#[test]
fn dense_layers_stay_dense_in_gguf_files() {
    let source = folder_of("bitnet-no-rope-theta", |config| {
        let list = serde_json::json!(["lm_head", "self_attn"]);
        config["quantization_config"]["modules_to_not_convert"] = list;
    });
    let parent = TempDir::new().unwrap();
    let output = parent.path().join("x.gguf");
    convert(source.path(), &output, &ConvertOptions::default(), &mut |_| true).unwrap();
    let (before, after) = (logits(source.path()), logits(&output));
    let distance = before.iter().zip(&after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(distance < 1e-5, "logits differ by {distance}");
}

#[test]
fn wrong_tied_flag_is_corrected() {
    let source = folder_of("tied-with-other-head", |_| {});
    let parent = TempDir::new().unwrap();
    let output = parent.path().join("out");
    let options = ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() };
    convert(source.path(), &output, &options, &mut |_| true).unwrap();
    assert_eq!(config_of(&output)["tie_word_embeddings"], false);
    assert_eq!(logits(source.path()), logits(&output));
}
