//! Layers that draft tokens: `mtp.*` of Hugging Face folders and `nextn.*` of GGUF files are one layer.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod drafting_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Storage, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::safetensors::SafeTensors;
use bitnet_inference::{DraftSource, KvType, LoadOptions, Model, ModelSource};
use serde_json::Value as Json;
use tempfile::TempDir;

use drafting_model::with_layer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn open(path: &Path) -> Result<Model, bitnet_inference::InferenceError> {
    let options =
        LoadOptions { draft: DraftSource::Own, kv: KvType::F32, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, Arc::new(ReferenceBackend), &mut |_, _| {})
}

/// Asserts that the layer gives the logits of transformers, within the noise of float32.
fn drafts_as_transformers(path: &Path) {
    let expected = SafeTensors::open(&golden("drafts/gguf-qwen35-mtp.safetensors")).unwrap();
    let floats = |key: &str| -> Vec<f32> {
        let numbers = expected.find(key).unwrap().data;
        numbers.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let model = open(path).unwrap();
    let decoder = model.decoder();
    for (prompt, noise) in floats("noise").into_iter().enumerate() {
        let tokens = expected.find(&format!("prompt.{prompt}.tokens")).unwrap();
        let tokens: Vec<u32> =
            tokens.data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let mut cache = decoder.new_cache(tokens.len(), KvType::F32).unwrap();
        let states = decoder.normed(&decoder.forward(&tokens, &mut cache).unwrap()).unwrap();
        let states = states.narrow(0, 0..tokens.len() - 1).unwrap();
        let mut cache = decoder.new_draft_cache(tokens.len(), KvType::F32).unwrap();
        let after = decoder.draft_states(&tokens[1..], &states, &mut cache).unwrap();
        let logits = decoder.logits_of_normed(after).unwrap();
        let truth = floats(&format!("prompt.{prompt}.logits"));
        let found = logits.f32().unwrap();
        assert_eq!(found.len(), truth.len());
        let error = found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 3.0 * noise, "prompt {prompt}: {error} of {noise}");
    }
}

fn to_folder() -> ConvertOptions {
    ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() }
}

#[test]
fn a_layer_goes_to_a_folder_and_comes_back() {
    let place = TempDir::new().unwrap();
    let source = with_layer(&place);
    let [folder, again, back] =
        ["folder", "again", "back.gguf"].map(|name| place.path().join(name));
    convert(&source, &folder, &to_folder(), &mut |_| true).unwrap();
    drafts_as_transformers(&folder);
    let names = |folder: &Path| -> Vec<String> {
        let file = SafeTensors::open(&folder.join("model.safetensors")).unwrap();
        file.names().filter(|name| name.starts_with("mtp.")).map(str::to_owned).collect()
    };
    // The names of the layer in published checkpoints.
    let mut published: Vec<String> = ["fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"]
        .map(|module| format!("mtp.{module}.weight"))
        .into();
    let modules = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.q_norm",
        "self_attn.k_norm",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    published.extend(modules.map(|module| format!("mtp.layers.0.{module}.weight")));
    let mut found = names(&folder);
    published.sort();
    found.sort();
    assert_eq!(found, published);
    // Published checkpoints hold every norm of the layer as its distance from 1.
    let file = GgufFile::open(&source).unwrap();
    let written = SafeTensors::open(&folder.join("model.safetensors")).unwrap();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    for (gguf, hf) in [
        ("nextn.enorm", "pre_fc_norm_embedding"),
        ("nextn.hnorm", "pre_fc_norm_hidden"),
        ("nextn.shared_head_norm", "norm"),
        ("attn_norm", "layers.0.input_layernorm"),
        ("attn_k_norm", "layers.0.self_attn.k_norm"),
        ("post_attention_norm", "layers.0.post_attention_layernorm"),
    ] {
        let stored = file.find(&format!("blk.3.{gguf}.weight")).unwrap();
        let meant: Vec<f32> = floats(&file.data(stored).unwrap()).iter().map(|x| x - 1.0).collect();
        let found = written.find(&format!("mtp.{hf}.weight")).unwrap();
        assert_eq!(floats(&found.data), meant, "{hf}");
    }
    // The embedding comes before the state in both.
    let join = file.data(file.find("blk.3.nextn.eh_proj.weight").unwrap()).unwrap();
    assert!(*written.find("mtp.fc.weight").unwrap().data == *join);
    convert(&folder, &again, &to_folder(), &mut |_| true).unwrap();
    assert_eq!(names(&again), names(&folder));
    // Ternary weights of the layer are named to be ternary again.
    let storage: Storage = "pq2_0".parse().unwrap();
    let options = ConvertOptions {
        linear: Some(storage),
        overrides: vec![
            ("blk.3.attn_?".into(), storage),
            ("blk.3.attn_output".into(), storage),
            ("blk.3.ffn_gate".into(), storage),
            ("blk.3.ffn_up".into(), storage),
            ("blk.3.ffn_down".into(), storage),
        ],
        ..ConvertOptions::default()
    };
    convert(&folder, &back, &options, &mut |_| true).unwrap();
    drafts_as_transformers(&back);
    let [source, back] = [&source, &back].map(|path| GgufFile::open(path).unwrap());
    assert_eq!(back.metadata().get_u64("qwen35.nextn_predict_layers").unwrap(), 1);
    assert_eq!(back.metadata().get_u64("qwen35.block_count").unwrap(), 4);
    assert_eq!(back.tensors().len(), source.tensors().len());
    for tensor in source.tensors().iter().filter(|tensor| !tensor.name.ends_with("ssm_a")) {
        let other = back.find(&tensor.name).unwrap();
        assert_eq!(other.ggml_type, tensor.ggml_type, "{}", tensor.name);
        assert!(*back.data(other).unwrap() == *source.data(tensor).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn numbers_that_are_not_ternary_are_not_made_so() {
    let place = TempDir::new().unwrap();
    let options = ConvertOptions {
        overrides: vec![("blk.3.nextn.eh_proj".into(), "pq2_0".parse().unwrap())],
        ..ConvertOptions::default()
    };
    let output = place.path().join("out.gguf");
    let error = convert(&with_layer(&place), &output, &options, &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("ordinary numbers"), "{error}");
}

#[test]
fn folders_whose_layers_do_not_fit_their_settings_are_refused() {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("folder");
    convert(&with_layer(&place), &folder, &to_folder(), &mut |_| true).unwrap();
    let path = folder.join("config.json");
    let plain: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, why) in [
        ("mtp_num_hidden_layers", Json::from(2), "mtp_num_hidden_layers"),
        ("mtp_num_hidden_layers", Json::from(0), "mtp_num_hidden_layers"),
        ("mtp_use_dedicated_embeddings", Json::from(true), "table of its own"),
    ] {
        let mut config = plain.clone();
        config[field] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let error = open(&folder).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
    // Without the setting, the file tells.
    let mut config = plain;
    config.as_object_mut().unwrap().remove("mtp_num_hidden_layers");
    std::fs::write(&path, config.to_string()).unwrap();
    drafts_as_transformers(&folder);
}
