//! Models with recurrent layers and rotated weights: GGUF types change and the model stays; what a target cannot say is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod drafting_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Storage, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_inference::{LoadOptions, Model, ModelSource};
use tempfile::TempDir;

use drafting_model::with_layer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn to(storage: &str) -> ConvertOptions {
    let storage: Storage = storage.parse().unwrap();
    ConvertOptions {
        linear: Some(storage),
        embedding: Some(storage),
        head: Some(storage),
        ..ConvertOptions::default()
    }
}

fn logits(path: &Path) -> Vec<u32> {
    let model = Model::load_with(
        ModelSource::Path(path),
        &LoadOptions::default(),
        Arc::new(ReferenceBackend),
        &mut |_, _| {},
    )
    .unwrap();
    let mut session = model.session(None).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 31 % 260).collect();
    let logits = session.extend(&tokens).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

#[test]
fn rotated_weights_come_back_byte_for_byte() {
    let (folder, source) =
        (TempDir::new().unwrap(), golden("gguf-qwen35-rotated").join("model.gguf"));
    let [there, back, again] =
        ["there.gguf", "back.gguf", "again.gguf"].map(|name| folder.path().join(name));
    let to = |storage: &str| ConvertOptions { target: Some(Target::Gguf), ..to(storage) };
    convert(&source, &there, &to("pq2_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&there), logits(&source));
    convert(&there, &back, &to("ptq1_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&back), logits(&source));
    convert(&back, &again, &to("pq2_0"), &mut |_| true).unwrap();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&there).unwrap());
}

#[test]
fn a_layer_that_drafts_tokens_is_carried_over_as_it_is() {
    let folder = TempDir::new().unwrap();
    let (source, result) = (with_layer(&folder), folder.path().join("result.gguf"));
    let linear = || ConvertOptions { embedding: None, head: None, ..to("ptq1_0") };
    convert(&source, &result, &linear(), &mut |_| true).unwrap();
    assert_eq!(logits(&result), logits(&source));
    let [source, result] = [&source, &result].map(|path| GgufFile::open(path).unwrap());
    let mut carried = 0;
    for tensor in source.tensors().iter().filter(|tensor| tensor.name.starts_with("blk.3.")) {
        let written = result.find(&tensor.name).unwrap();
        assert_eq!(written.ggml_type, tensor.ggml_type, "{}", tensor.name);
        assert!(*result.data(written).unwrap() == *source.data(tensor).unwrap(), "{}", tensor.name);
        carried += 1;
    }
    assert_eq!(carried, 15);
    assert_eq!(result.metadata().get_u64("qwen35.nextn_predict_layers").unwrap(), 1);
    // What can't be carried is refused.
    let load = LoadOptions::default();
    let options = ConvertOptions { load, ..linear() };
    let output = folder.path().join("other.gguf");
    let error = convert(&folder.path().join("with-layer.gguf"), &output, &options, &mut |_| true);
    assert!(error.unwrap_err().to_string().contains("load.draft"));
}

#[test]
fn what_a_target_cannot_say_is_refused() {
    let folder = TempDir::new().unwrap();
    let refused = |source: &str, target: Option<Target>, name: &str, why: &str| {
        let options = ConvertOptions { target, ..ConvertOptions::default() };
        let output = folder.path().join(name);
        let error = convert(&golden(source), &output, &options, &mut |_| true).unwrap_err();
        assert!(error.to_string().contains(why), "{source}: {error}");
        assert!(!output.exists());
    };
    let rotated = "gguf-qwen35-rotated/model.gguf";
    refused(rotated, Some(Target::HuggingFace), "hf", "stored rotated");
    refused(rotated, Some(Target::Mlx), "mlx", "prism.hadamard.block_size");
    refused("gguf-qwen35-rotated/model.gguf", Some(Target::Dense), "dense", "stored rotated");
    refused("minicpm-ternary-dense", Some(Target::Mlx), "mlx", "minicpm");
    refused("gguf-qwen35-pq2_0/model.gguf", Some(Target::HuggingFace), "hf", "hf-dense");
}

#[test]
fn scaled_models_change_their_types_and_stay() {
    let folder = TempDir::new().unwrap();
    let (source, there) =
        (golden("gguf-minicpm-pq2_0").join("model.gguf"), folder.path().join("there.gguf"));
    let options = ConvertOptions { embedding: None, head: None, ..to("ptq1_0") };
    convert(&source, &there, &options, &mut |_| true).unwrap();
    assert_eq!(logits(&there), logits(&source));
    let names = |path: &Path| -> Vec<String> {
        GgufFile::open(path).unwrap().tensors().iter().map(|tensor| tensor.name.clone()).collect()
    };
    assert!(names(&there).contains(&"rope_factors_long.weight".to_owned()));
}

#[test]
fn weights_of_code_3_are_carried_over_where_the_type_holds_them() {
    let folder = TempDir::new().unwrap();
    let source = golden("gguf-qwen35-code3").join("model.gguf");
    let [same, other, dense] =
        ["same.gguf", "other.gguf", "dense.gguf"].map(|name| folder.path().join(name));
    let linear = |storage: &str| ConvertOptions { embedding: None, head: None, ..to(storage) };
    for (storage, path) in [("pq2_0", &same), ("q2_0", &other)] {
        convert(&source, path, &linear(storage), &mut |_| true).unwrap();
        assert_eq!(logits(path), logits(&source), "{storage}");
    }
    convert(&source, &dense, &to("f32"), &mut |_| true).unwrap();
    let [before, after] = [&source, &same].map(|path| GgufFile::open(path).unwrap());
    for tensor in before.tensors() {
        let written = after.find(&tensor.name).unwrap();
        assert!(*after.data(written).unwrap() == *before.data(tensor).unwrap(), "{}", tensor.name);
    }
    let output = folder.path().join("trits.gguf");
    let error = convert(&source, &output, &linear("ptq1_0"), &mut |_| true).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("code 3") && error.contains("pq2_0"), "{error}");
}
