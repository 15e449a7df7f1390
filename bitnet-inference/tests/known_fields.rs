//! Fields that are not obeyed are refused or listed, for each file of a model.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};

use bitnet_formats::gguf::{GgufFile, GgufWriter, Value as GgufValue};
use bitnet_inference::{Inspection, LoadOptions, Model, ModelSource};
use serde_json::{Value, json};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(path)
}

fn assumptions(path: &Path) -> Result<Vec<String>, String> {
    Inspection::of(ModelSource::Path(path), &LoadOptions::default())
        .map(|inspection| inspection.facts.assumptions)
        .map_err(|error| error.to_string())
}

/// A small tokenizer.json.
fn tokenizer() -> Value {
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    })
}

/// A copy of a golden folder with a tokenizer, in which one field of a JSON file is changed.
fn folder_with(file: &str, field: &str, value: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, name: &str| std::fs::copy(from, folder.path().join(name)).unwrap();
    for name in ["config.json", "model.safetensors"] {
        copy(golden("models/llama-ternary-dense").join(name), name);
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let path = folder.path().join(file);
    let mut json: Value =
        std::fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    json[field] = value;
    std::fs::write(&path, json.to_string()).unwrap();
    folder
}

#[test]
fn fields_of_a_folder_are_listed_by_inspect() {
    for (file, field, value) in [
        ("config.json", "planted_field", json!(1)),
        ("config.json", "sliding_window", json!(16)),
        ("generation_config.json", "repetition_penalty", json!(1.5)),
        ("generation_config.json", "forced_eos_token_id", json!(2)),
        ("generation_config.json", "stop_strings", json!(["END"])),
        ("tokenizer_config.json", "split_special_tokens", json!(true)),
        ("tokenizer_config.json", "additional_special_tokens", json!(["<planted>"])),
        ("special_tokens_map.json", "additional_special_tokens", json!(["<planted>"])),
        ("tokenizer.json", "truncation", json!({"max_length": 4})),
    ] {
        let folder = folder_with(file, field, value);
        let lines = assumptions(folder.path()).unwrap();
        let listed = |line: &&String| line.contains(file) && line.contains(field);
        assert_eq!(lines.iter().filter(listed).count(), 1, "{file} {field}: {lines:?}");
    }
}

#[test]
fn fields_of_a_folder_that_change_numbers_are_refused() {
    for (file, field, value) in [
        ("config.json", "mlp_bias", json!(true)),
        ("config.json", "attention_bias", json!(true)),
        ("config.json", "partial_rotary_factor", json!(0.5)),
        ("config.json", "final_logit_softcapping", json!(30.0)),
        ("config.json", "per_layer_config", json!({"0": {"hidden_act": "gelu"}})),
        ("config.json", "num_local_experts", json!(8)),
        ("tokenizer.json", "post_processor", json!({"type": "BertProcessing"})),
    ] {
        let folder = folder_with(file, field, value);
        let error = assumptions(folder.path()).unwrap_err();
        assert!(error.contains(file) && error.contains(field), "{file} {field}: {error}");
        let error = Model::load(ModelSource::Path(folder.path())).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

/// The embedded model as a file, with one key changed.
fn gguf_with(key: &str, value: GgufValue<'_>) -> (tempfile::TempDir, PathBuf) {
    let source = GgufFile::from_static(bitnet_inference::EMBEDDED, "embedded").unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |_| true).unwrap();
    writer.put(key, value).unwrap();
    for tensor in source.tensors() {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer
        .write(&path, |tensor, sink| {
            sink.write_all(&source.data(source.tensor(&tensor.name).unwrap()).unwrap())
        })
        .unwrap();
    (folder, path)
}

#[test]
fn keys_of_a_gguf_file_are_listed_or_refused() {
    let source = GgufFile::from_static(bitnet_inference::EMBEDDED, "embedded").unwrap();
    let arch = source.metadata().get_str("general.architecture").unwrap();
    for (key, value, refused) in [
        (format!("{arch}.attention.planted"), GgufValue::U32(16), false),
        ("general.sampling.min_p".into(), GgufValue::F32(0.1), false),
        ("tokenizer.ggml.planted".into(), GgufValue::Bool(true), false),
        (format!("{arch}.attention.scale"), GgufValue::F32(0.5), true),
        (format!("{arch}.final_logit_softcapping"), GgufValue::F32(30.0), true),
        (format!("{arch}.rope.scaling.attn_factor"), GgufValue::F32(1.2), true),
        (format!("{arch}.attention.causal"), GgufValue::Bool(false), true),
        (format!("{arch}.expert_count"), GgufValue::U32(8), true),
        // The architecture has ReLU².
        (format!("{arch}.hidden_activation"), GgufValue::String("silu"), true),
        (format!("{arch}.hidden_activation"), GgufValue::String("mish"), true),
    ] {
        let (_folder, path) = gguf_with(&key, value);
        match assumptions(&path) {
            Ok(lines) => {
                assert!(!refused, "{key}: {lines:?}");
                assert_eq!(lines.iter().filter(|line| line.contains(&key)).count(), 1, "{lines:?}");
            }
            Err(error) => assert!(refused && error.contains(&key), "{error}"),
        }
        assert_eq!(Model::load(ModelSource::Path(&path)).is_err(), refused, "{key}");
    }
}

#[test]
fn an_activation_that_the_architecture_has_may_be_named() {
    let (_folder, path) =
        gguf_with("bitnet-b1.58.hidden_activation", GgufValue::String("relu_squared"));
    let inspection = Inspection::of(ModelSource::Path(&path), &LoadOptions::default()).unwrap();
    assert_eq!(inspection.facts.activation, "ReLU² (from the file)");
}

#[test]
fn gguf_sampling_keys_are_suggested() {
    let (_folder, path) = gguf_with("general.sampling.temp", GgufValue::F32(0.25));
    let model = Model::load(ModelSource::Path(&path)).unwrap();
    assert_eq!(model.suggested_sampling().temperature, Some(0.25));
}

#[test]
fn gguf_end_of_message_token_ends_a_text() {
    let (_folder, path) = gguf_with("tokenizer.ggml.eom_token_id", GgufValue::U32(7));
    let model = Model::load(ModelSource::Path(&path)).unwrap();
    assert!(model.end_tokens().contains(&7));
}

#[test]
fn gguf_rope_factor_without_a_type_is_linear() {
    use bitnet_inference::models::RopeScaling;
    let source = GgufFile::from_static(bitnet_inference::EMBEDDED, "embedded").unwrap();
    let arch = source.metadata().get_str("general.architecture").unwrap();
    let scaling = |factor: f32| {
        let key = format!("{arch}.rope.scaling.factor");
        let (_folder, path) = gguf_with(&key, GgufValue::F32(factor));
        Inspection::of(ModelSource::Path(&path), &LoadOptions::default())
            .unwrap()
            .config
            .rope_scaling
    };
    assert_eq!(scaling(4.0), RopeScaling::Linear(4.0));
    assert_eq!(scaling(0.0), RopeScaling::None);
    assert_eq!(scaling(1.0), RopeScaling::None);
}

#[test]
fn golden_models_hold_no_unknown_field() {
    let odd = |line: &&String| {
        line.contains("not known to this program") || line.contains(" is followed")
    };
    for case in std::fs::read_dir(golden("models")).unwrap() {
        let folder = case.unwrap().path();
        let file = folder.join("model.gguf");
        let path = if file.exists() { &file } else { &folder };
        let lines = assumptions(path).unwrap();
        assert_eq!(lines.iter().filter(odd).count(), 0, "{}: {lines:?}", path.display());
    }
    let embedded = Inspection::of(ModelSource::Embedded, &LoadOptions::default()).unwrap();
    let lines = embedded.facts.assumptions;
    assert_eq!(lines.iter().filter(odd).count(), 0, "{lines:?}");
}
