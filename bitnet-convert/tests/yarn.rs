//! RoPE stretched by YaRN: folders and GGUF files say the same with their own fields.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_inference::models::RopeScaling;
use bitnet_inference::{LoadOptions, Model, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

fn load(path: &Path) -> Model {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap()
}

fn logits(model: &Model) -> Vec<u32> {
    let tokens: Vec<u32> = (0..24).map(|i| i * 31 % 260).collect();
    let mut session = model.session(None).unwrap();
    let logits = session.extend(&tokens).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// A golden folder with these RoPE settings.
fn folder_with(place: &TempDir, rope: &Value) -> PathBuf {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/qwen3-ternary-dense");
    let folder = place.path().join("source");
    std::fs::create_dir(&folder).unwrap();
    for file in ["model.safetensors", "generation_config.json"] {
        std::fs::copy(Path::new(golden).join(file), folder.join(file)).unwrap();
    }
    let config = std::fs::read_to_string(Path::new(golden).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["rope_scaling"] = rope.clone();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn yarn_survives_the_way_to_gguf_and_back() {
    for rope in [
        json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8 }),
        json!({ "rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 16,
            "attention_factor": 1.3, "beta_fast": 5.0, "beta_slow": 0.1 }),
        json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
            "mscale": 0.7, "mscale_all_dim": 0.4 }),
    ] {
        let place = TempDir::new().unwrap();
        let source = folder_with(&place, &rope);
        let [gguf, back] = ["there.gguf", "back"].map(|name| place.path().join(name));
        convert(&source, &gguf, &ConvertOptions::default(), &mut |_| true).unwrap();
        let keys = GgufFile::open(&gguf).unwrap();
        let kind = keys.metadata().get_str("qwen3.rope.scaling.type").unwrap().to_owned();
        assert_eq!(kind, "yarn");
        let options = ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() };
        convert(&gguf, &back, &options, &mut |_| true).unwrap();
        let [source, gguf, back] = [&source, &gguf, &back].map(|path| load(path));
        assert!(matches!(source.config().rope_scaling, RopeScaling::Yarn(_)));
        assert_eq!(gguf.config().rope_scaling, source.config().rope_scaling);
        assert_eq!(back.config().rope_scaling, source.config().rope_scaling);
        assert_eq!(logits(&gguf), logits(&source));
        assert_eq!(logits(&back), logits(&source));
    }
}

#[test]
fn a_ramp_between_components_has_no_key_in_gguf() {
    let place = TempDir::new().unwrap();
    let rope = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8,
        "truncate": false });
    let source = folder_with(&place, &rope);
    let output = place.path().join("there.gguf");
    let error = convert(&source, &output, &ConvertOptions::default(), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("truncate"), "{error}");
}
