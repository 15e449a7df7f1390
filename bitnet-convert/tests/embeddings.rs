//! Gemma 3, and models without a head: conversion to GGUF files and back.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource, Pooling};

fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name);
    let file = root.join("model.gguf");
    if file.exists() { file } else { root }
}

fn load(path: &Path) -> Model {
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    let backend = Arc::new(ReferenceBackend);
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The states of some tokens.
fn states(path: &Path) -> Vec<Vec<f32>> {
    let tokens: Vec<u32> = (1..20).map(|i| i * 7 % 60).collect();
    load(path).embed_tokens(&[&tokens, &tokens[..3]], Pooling::Mean, false).unwrap()
}

fn options() -> ConvertOptions {
    ConvertOptions { threads: Some(2), ..ConvertOptions::default() }
}

#[test]
fn gemma3_goes_to_a_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (source, file) = (golden("gemma3-ternary-dense"), folder.path().join("model.gguf"));
    let report = convert(&source, &file, &options(), &mut |_| true).unwrap();
    assert!(report.remarks.iter().any(|text| text.contains("root of 24")), "{:?}", report.remarks);
    assert_eq!(states(&file), states(&source));
    let written = GgufFile::open(&file).unwrap();
    let metadata = written.metadata();
    assert_eq!(metadata.get_str("general.architecture").unwrap(), "gemma3");
    assert_eq!(metadata.get_u64("gemma3.attention.sliding_window").unwrap(), 6);
    assert_eq!(metadata.get_u64("gemma3.attention.sliding_window_pattern").unwrap(), 2);
    assert_eq!(metadata.get_f32("gemma3.rope.freq_base_swa").unwrap(), 10_000.0);
    assert!(metadata.value("gemma3.embedding_scale").unwrap().is_none());
    for tensor in ["blk.1.post_attention_norm.weight", "blk.1.post_ffw_norm.weight"] {
        assert!(written.find(tensor).is_some(), "{tensor}");
    }
    let back = folder.path().join("back");
    let to = ConvertOptions { target: Some(Target::Dense), ..options() };
    convert(&file, &back, &to, &mut |_| true).unwrap();
    assert_eq!(states(&back), states(&source));
    let (first, second) = (load(&source), load(&back));
    let other = second.config();
    assert_eq!(first.config(), &bitnet_inference::models::ModelConfig { ..other.clone() });
}

#[test]
fn models_without_a_head_are_written_as_files_with_their_pooling() {
    let folder = tempfile::tempdir().unwrap();
    for (name, pooling) in [("gemma3-embedding", 1), ("gguf-gemma3-embedding-i2s", 3)] {
        let (source, file) = (golden(name), folder.path().join(format!("{name}.gguf")));
        convert(&source, &file, &options(), &mut |_| true)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(states(&file), states(&source), "{name}");
        assert!(!load(&file).config().has_head);
        let written = GgufFile::open(&file).unwrap();
        let arch = written.metadata().get_str("general.architecture").unwrap();
        let key = format!("{arch}.pooling_type");
        assert_eq!(written.metadata().get_u64(&key).unwrap(), pooling, "{name}");
        assert!(written.find("blk.0.attn_q_norm_in.weight").is_some(), "{name}");
        for target in [Target::HuggingFace, Target::Dense, Target::Mlx] {
            let to = ConvertOptions { target: Some(target), ..options() };
            let output = folder.path().join("folder");
            let error = convert(&source, &output, &to, &mut |_| true).unwrap_err().to_string();
            assert!(error.contains("without a head"), "{name}: {error}");
        }
    }
}

/// Of the types of GGUF files only I2_S says that inputs have 8 bits, and its rows are multiples of 128.
#[test]
fn inputs_of_8_bits_that_a_file_can_not_say_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.gguf");
    let error = convert(&golden("qwen3-embedding"), &output, &options(), &mut |_| true);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_q.weight") && error.contains("8 bits"), "{error}");
}
