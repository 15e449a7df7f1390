//! MiniCPM: what is missing or impossible is refused by the name of its key or field, and a sequence longer than LongRoPE's
//! original context is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::{GgufFile, GgufWriter, Value};
use bitnet_inference::{InferenceError, LoadOptions, Model, ModelSource};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
}

/// The golden GGUF file with one key put or removed, or one tensor removed or cut to 15 numbers.
fn changed(place: &TempDir, key: &str, value: Option<Value<'_>>, tensor: &str) -> PathBuf {
    let source = GgufFile::open(&golden("gguf-minicpm-pq2_0").join("model.gguf")).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |other| other != key).unwrap();
    if let Some(value) = value {
        writer.put(key, value).unwrap();
    }
    let (named, cut) = tensor.split_once(':').unwrap_or((tensor, ""));
    for tensor in source.tensors().iter().filter(|tensor| tensor.name != named || cut == "cut") {
        let mut dims = tensor.dims.clone();
        if tensor.name == named {
            dims[0] -= 1;
        }
        writer.add_tensor(&tensor.name, &dims, tensor.ggml_type).unwrap();
    }
    let path = place.path().join("changed.gguf");
    writer
        .write(&path, |pending, sink| {
            let bytes = source.data(source.find(&pending.name).unwrap()).unwrap();
            let cut = if pending.name == named { 4 } else { 0 };
            sink.write_all(&bytes[..bytes.len() - cut])
        })
        .unwrap();
    path
}

#[test]
fn missing_and_impossible_factors_of_gguf_files_are_refused_by_their_key() {
    let place = TempDir::new().unwrap();
    let refused = |path: PathBuf, named: &str| {
        let error = load(&path).err().unwrap_or_else(|| panic!("{named}: loaded")).to_string();
        assert!(error.contains("changed.gguf") && error.contains(named), "{named}: {error}");
    };
    for name in ["embedding_scale", "residual_scale", "logit_scale"] {
        // llama.cpp takes those of an early model.
        let key = format!("minicpm.{name}");
        refused(changed(&place, &key, None, ""), &key);
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let word = name.split('_').next().unwrap();
            refused(changed(&place, &key, Some(Value::F32(value)), ""), word);
        }
    }
    refused(changed(&place, "", None, "rope_factors_short.weight"), "rope_factors_short");
    refused(changed(&place, "", None, "rope_factors_short.weight:cut"), "rope_factors_short");
    // Factors that the type would leave unread.
    for kind in ["none", "linear", "yarn"] {
        let path = changed(&place, "minicpm.rope.scaling.type", Some(Value::String(kind)), "");
        refused(path, "minicpm.rope.scaling.type: the tensor rope_factors_short.weight");
    }
    let key = "minicpm.rope.scaling.attn_factor";
    refused(changed(&place, key, Some(Value::F32(f32::NAN)), ""), "RoPE scaling");
    let key = "minicpm.expert_count";
    refused(changed(&place, key, Some(Value::U32(4)), ""), "expert_count");
}

#[test]
fn impossible_fields_of_folders_are_refused_by_name() {
    let source = golden("minicpm-ternary-dense");
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config: Json = serde_json::from_str(&text).unwrap();
    let with = |field: &str, value: Json| {
        let place = TempDir::new().unwrap();
        let mut config = config.clone();
        match field.split_once('.') {
            Some((object, field)) => config[object][field] = value,
            None => config[field] = value,
        }
        std::fs::copy(source.join("model.safetensors"), place.path().join("model.safetensors"))
            .unwrap();
        std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        load(place.path()).map(drop)
    };
    with("scale_emb", json!(12)).unwrap();
    for (field, value, named) in [
        ("scale_emb", json!(0), "embedding scale"),
        ("scale_depth", json!(-1.0), "residual scale"),
        ("dim_model_base", json!("256"), "dim_model_base"),
        ("num_experts", json!(8), "num_experts"),
        ("sparse_config", json!({ "kernel_size": 32 }), "sparse_config"),
        ("rope_scaling.short_factor", json!([1.0]), "short factors"),
        ("rope_scaling.short_factor", json!("all"), "short_factor"),
        ("rope_scaling.long_factor", Json::Null, "long_factor"),
    ] {
        let error = with(field, value).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains(named), "{field}: {error}");
    }
}

#[test]
fn sequences_beyond_the_original_context_are_refused() {
    for path in [golden("minicpm-ternary-dense"), golden("gguf-minicpm-pq2_0").join("model.gguf")] {
        let model = load(&path).unwrap();
        assert_eq!(model.session(None).unwrap().capacity(), 256);
        let error = model.session(Some(257)).unwrap_err();
        assert!(matches!(error, InferenceError::Resource { limit: 256, .. }), "{error}");
        assert!(error.to_string().contains("LongRoPE"), "{error}");
        let assumptions = model.facts().assumptions.join("\n");
        assert!(assumptions.contains("beyond 256 tokens"), "{assumptions}");
    }
}
