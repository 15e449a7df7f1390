//! Models with recurrent layers and rotated weights: GGUF types change and the model stays; what a target cannot say is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Storage, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::{LoadOptions, Model, ModelSource};
use tempfile::TempDir;

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
    refused(rotated, Some(Target::Mlx), "mlx", "stored rotated");
    refused("gguf-qwen35-pq2_0/model.gguf", Some(Target::Dense), "dense", "recurrent layers");
    refused("qwen35-ternary-dense", None, "model.gguf", "recurrent layers");
}
