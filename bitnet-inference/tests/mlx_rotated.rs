//! Rotated folders of MLX: both schemas are read, and what is not understood is refused by the name of the field or tensor.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorSpec, write};
use bitnet_inference::{DraftSource, InferenceError, LoadOptions, Model, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

type Tensors = Vec<(TensorSpec, Vec<u8>)>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/mlx-qwen35-rotated")
}

fn load(path: &Path, draft: DraftSource) -> Result<Model, InferenceError> {
    let backend = Arc::new(CpuBackend::new(CpuOptions { threads: Some(1), isa: None }).unwrap());
    let options = LoadOptions { draft, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
}

fn logits(model: &Model) -> Vec<u32> {
    let mut session = model.session(None).unwrap();
    let logits = session.extend(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// Writes a copy of the golden folder with other settings and tensors.
fn changed(folder: &TempDir, change: impl FnOnce(&mut Value, &mut Tensors)) {
    let text = std::fs::read_to_string(source().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let stored = SafeTensors::open(&source().join("model.safetensors")).unwrap();
    let mut tensors: Tensors = stored
        .tensors()
        .map(|tensor| {
            let (name, dtype, shape) = (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
            (TensorSpec { name, dtype, shape }, tensor.data.to_vec())
        })
        .collect();
    change(&mut config, &mut tensors);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    write(&folder.path().join("model.safetensors"), &specs, &[], |spec, sink| {
        sink.write_all(&tensors.iter().find(|(own, _)| own.name == spec.name).unwrap().1)
    })
    .unwrap();
}

fn refused(part: &str, draft: DraftSource, change: impl FnOnce(&mut Value, &mut Tensors)) {
    let folder = TempDir::new().unwrap();
    changed(&folder, change);
    let message = match load(folder.path(), draft) {
        Ok(_) => panic!("{part}: loaded"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains(part), "{part}: {message}");
}

fn named<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (TensorSpec, Vec<u8>) {
    tensors.iter_mut().find(|(spec, _)| spec.name == name).unwrap()
}

#[test]
fn both_schemas_are_read_alike() {
    let folder = TempDir::new().unwrap();
    changed(&folder, |config, tensors| {
        config["schema_version"] = 2.into();
        config["tensor_namespace"] = "mlx-vlm-qwen3_5".into();
        config["architectures"] = json!(["Qwen3_5ForConditionalGeneration"]);
        config["vision_config"] = json!({"depth": 1});
        for (spec, _) in tensors.iter_mut() {
            spec.name = format!("language_model.{}", spec.name);
        }
        let name = "vision_tower.patch_embed.proj.weight".to_owned();
        tensors.push((TensorSpec { name, dtype: Dtype::F32, shape: vec![2] }, vec![0; 8]));
    });
    let [sees, text] =
        [folder.path(), &source()].map(|path| load(path, DraftSource::None).unwrap());
    assert_eq!(logits(&sees), logits(&text));
    assert_eq!(sees.facts().unused_tensors, ["vision_tower.patch_embed.proj.weight"]);
    assert!(text.facts().unused_tensors.is_empty());
}

#[test]
fn signs_may_be_bytes() {
    let folder = TempDir::new().unwrap();
    changed(&folder, |_, tensors| {
        for (spec, data) in tensors.iter_mut().filter(|(spec, _)| spec.name.ends_with(".signs")) {
            spec.dtype = Dtype::I8;
            *data = data.chunks_exact(4).map(|b| if b[3] >= 0x80 { 255 } else { 1 }).collect();
        }
    });
    let [bytes, floats] =
        [folder.path(), &source()].map(|path| load(path, DraftSource::None).unwrap());
    assert_eq!(logits(&bytes), logits(&floats));
}

#[test]
fn settings_that_are_not_understood_are_refused_by_name() {
    let top = [
        ("schema_version", json!(3)),
        ("schema_version", json!("1")),
        ("schema_version", Value::Null),
        ("tensor_namespace", json!("mlx-vlm-qwen3_5")),
        ("tensor_namespace", Value::Null),
        ("gdn_activation_layout", json!("tiled")),
        ("gdn_activation_layout", Value::Null),
        ("base_model_type", json!("qwen3")),
        ("quantization", Value::Null),
        ("quantization", json!({"bits": 2, "group_size": 64, "mode": "affine"})),
        ("quantization", json!({"bits": 2, "group_size": 128})),
        ("text_config", Value::Null),
        ("text_config", json!([])),
        ("modules", Value::Null),
        ("modules", json!([])),
        ("modules", json!({})),
        ("modules[0]", json!([7])),
        ("model_type", json!("prism_hadamard_qwen4")),
        ("model_type", json!("qwen3_5")),
        ("architectures", json!(["Qwen3ForCausalLM"])),
        ("tie_word_embeddings", json!(true)),
    ];
    for (name, value) in top {
        let field = name.split('[').next().unwrap();
        let part = if field == "architectures" { "Qwen3ForCausalLM" } else { name };
        refused(part, DraftSource::None, |config, _| config[field] = value);
    }
    refused("full_attention_interval", DraftSource::None, |config, _| {
        config["text_config"]["full_attention_interval"] = 4.into();
    });
    let modules = [
        ("path", json!("model.layers.9.mlp.up_proj")),
        ("path", json!("model.norm")),
        ("path", json!("layers.0.mlp.up_proj")),
        ("path", json!("lm_head")),
        ("path", Value::Null),
        ("block", json!(64)),
        ("block", json!(1024)),
        ("block", json!(-512)),
        ("block", json!(u64::MAX)),
        ("block", Value::Null),
        ("embedding", json!(false)),
        ("embedding", Value::Null),
        ("dtype", json!("bfloat16")),
        ("dtype", Value::Null),
        ("seed", json!(7)),
    ];
    for (field, value) in modules {
        let part = format!("modules[{}].{field}", if value == "lm_head" { 14 } else { 0 });
        refused(&part, DraftSource::None, |config, _| config["modules"][0][field] = value);
    }
}

#[test]
fn tensors_that_are_not_understood_are_refused_by_name() {
    const UP: &str = "model.layers.0.mlp.up_proj";
    let signs = &format!("{UP}.signs");
    let none = DraftSource::None;
    refused(signs, none.clone(), |_, tensors| tensors.retain(|(spec, _)| spec.name != *signs));
    refused(signs, none.clone(), |_, tensors| {
        let (spec, data) = named(tensors, signs);
        spec.shape = vec![256];
        data.truncate(1024);
    });
    for wrong in [0.0, 0.5, -2.0, f32::NAN] {
        refused(signs, none.clone(), |_, tensors| {
            named(tensors, signs).1[8..12].copy_from_slice(&wrong.to_le_bytes());
        });
    }
    // A module that no record speaks of, and signs of one that is not rotated.
    refused(UP, none.clone(), |config, tensors| {
        config["modules"].as_array_mut().unwrap().retain(|module| module["path"] != UP);
        tensors.retain(|(spec, _)| spec.name != *signs);
    });
    refused(signs, none.clone(), |config, _| {
        let modules = config["modules"].as_array_mut().unwrap();
        modules.iter_mut().find(|module| module["path"] == UP).unwrap()["block"] = 0.into();
    });
    refused("packed", none.clone(), |_, tensors| {
        let (spec, data) = named(tensors, &format!("{UP}.weight"));
        (spec.dtype, spec.shape) = (Dtype::F16, vec![128, 512]);
        data.resize(128 * 512 * 2, 0);
    });
    refused(&format!("{UP}.weight"), none.clone(), |_, tensors| {
        tensors.retain(|(spec, _)| spec.name != format!("{UP}.weight"));
    });
    // Whether the norms of such a layer are stored with their offset, nothing says.
    let draft = |_: &mut Value, tensors: &mut Tensors| {
        let name = "mtp.layers.0.input_layernorm.weight".to_owned();
        tensors.push((TensorSpec { name, dtype: Dtype::F32, shape: vec![512] }, vec![0; 2048]));
    };
    refused("mtp.layers.0.input_layernorm.weight", DraftSource::Own, draft);
    let folder = TempDir::new().unwrap();
    changed(&folder, draft);
    let model = load(folder.path(), none).unwrap();
    assert_eq!(model.facts().unused_tensors, ["mtp.layers.0.input_layernorm.weight"]);
}
