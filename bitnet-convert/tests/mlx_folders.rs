//! Folders of MLX with recurrent layers, rotated or not: GGUF files say the same, and what one of the two cannot say is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Storage, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::safetensors::{SafeTensors, TensorSpec, write};
use bitnet_inference::{LoadOptions, Model, ModelSource};
use serde_json::Value;
use tempfile::TempDir;

const ROTATED: &str = "mlx-qwen35-rotated";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn to(storage: &str) -> ConvertOptions {
    let storage: Storage = storage.parse().unwrap();
    ConvertOptions { linear: Some(storage), ..ConvertOptions::default() }
}

fn to_folder(target: Target) -> ConvertOptions {
    ConvertOptions { target: Some(target), ..ConvertOptions::default() }
}

fn logits(path: &Path) -> Vec<u32> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    let model =
        Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap();
    let mut session = model.session(None).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 31 % 120).collect();
    let logits = session.extend(&tokens).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Asserts that two folders hold the same tensors: byte for byte in one type, and number for number where the second
/// has f32 for f16.
fn same_weights(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| SafeTensors::open(&path.join("model.safetensors")).unwrap());
    assert_eq!(a.names().count(), b.names().count());
    for tensor in a.tensors() {
        let other = b.find(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
        assert_eq!(other.shape, tensor.shape, "{}", tensor.name);
        // Logarithms of rates come back as near as an exponential and its inverse are.
        if tensor.name.ends_with("A_log") {
            continue;
        }
        if other.dtype == tensor.dtype {
            assert!(*other.data == *tensor.data, "{}", tensor.name);
            continue;
        }
        let halves = tensor.data.as_chunks::<2>().0.iter();
        let halves = halves.map(|b| half::f16::from_le_bytes(*b).to_f32());
        let floats = other.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        assert!(halves.eq(floats), "{}", tensor.name);
    }
}

fn sorted(modules: &Value) -> Vec<String> {
    let mut all: Vec<String> = modules.as_array().unwrap().iter().map(Value::to_string).collect();
    all.sort();
    all
}

#[test]
fn a_rotated_folder_becomes_gguf_files_of_every_type_and_comes_back() {
    let place = TempDir::new().unwrap();
    let (source, expected) = (golden(ROTATED), logits(&golden(ROTATED)));
    for storage in ["pq2_0", "ptq1_0", "q2_0"] {
        let [there, back] =
            ["gguf", "folder"].map(|end| place.path().join(format!("{storage}.{end}")));
        convert(&source, &there, &to(storage), &mut |_| true).unwrap();
        assert_eq!(logits(&there), expected, "{storage}");
        let file = GgufFile::open(&there).unwrap();
        let type_of = |name: &str| file.find(name).unwrap().ggml_type.name().to_lowercase();
        for name in ["token_embd.weight", "output.weight", "blk.0.ssm_out.weight"] {
            assert!(type_of(name).starts_with(storage), "{name}: {}", type_of(name));
        }
        let names = file.metadata().opt_array_str("prism.hadamard.weight_names").unwrap().unwrap();
        assert!(names.len() == 11 && !names.contains(&"blk.0.ffn_down.weight"), "{names:?}");
        convert(&there, &back, &to_folder(Target::Mlx), &mut |_| true).unwrap();
        assert_eq!(logits(&back), expected, "{storage}");
        same_weights(&source, &back);
        let [meant, found] = [&source, &back].map(|path| json(&path.join("config.json")));
        for field in ["model_type", "schema_version", "tensor_namespace", "quantization"] {
            assert_eq!(found[field], meant[field], "{field}");
        }
        for field in ["full_attention_interval", "rope_parameters", "layer_types"] {
            assert_eq!(found["text_config"][field], meant["text_config"][field], "{field}");
        }
        assert_eq!(sorted(&found["modules"]), sorted(&meant["modules"]));
    }
}

#[test]
fn rotated_weights_go_nowhere_that_cannot_say_so() {
    let place = TempDir::new().unwrap();
    let refused = |source: &Path, options: &ConvertOptions, name: &str, why: &str| {
        let output = place.path().join(name);
        let error = convert(source, &output, options, &mut |_| true).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert!(!output.exists(), "{name}");
    };
    let source = golden(ROTATED);
    refused(&source, &to_folder(Target::HuggingFace), "hf", "stored rotated");
    refused(&source, &to_folder(Target::Dense), "dense", "stored rotated");
    let adapters = vec![(place.path().to_owned(), 1.0)];
    refused(&source, &ConvertOptions { adapters, ..to("f16") }, "merged.gguf", "adapters");
    // A GGUF file has one set of signs for each width, where a folder has one for each module.
    let other = place.path().join("other");
    with_first_sign_turned(&source, &other, "model.layers.0.mlp.up_proj.signs");
    assert_ne!(logits(&other), logits(&source));
    refused(&other, &to("pq2_0"), "other.gguf", "blk.0.ffn_up");
}

/// Copies a folder with the first sign of a module turned.
fn with_first_sign_turned(from: &Path, to: &Path, signs: &str) {
    std::fs::create_dir(to).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let tensors = SafeTensors::open(&from.join("model.safetensors")).unwrap();
    let spec = |name: &str| {
        let tensor = tensors.find(name).unwrap();
        TensorSpec { name: name.into(), dtype: tensor.dtype, shape: tensor.shape }
    };
    let specs: Vec<TensorSpec> = tensors.names().map(spec).collect();
    write(&to.join("model.safetensors"), &specs, &[], |spec, sink| {
        let mut bytes = tensors.find(&spec.name).unwrap().data.to_vec();
        if spec.name == signs {
            bytes[3] ^= 0x80;
        }
        sink.write_all(&bytes)
    })
    .unwrap();
}

#[test]
fn models_that_are_not_rotated_are_written_for_mlx_and_come_back() {
    let place = TempDir::new().unwrap();
    // Rates of decay that this program made of logarithms become the same logarithms again.
    let (folder, file) = (golden("qwen35-ternary-dense"), place.path().join("source.gguf"));
    convert(&folder, &file, &to("pq2_0"), &mut |_| true).unwrap();
    for (name, source) in [("file", file), ("folder", folder)] {
        let [there, back, dense] =
            ["mlx", "gguf", "dense"].map(|end| place.path().join(format!("{name}.{end}")));
        convert(&source, &there, &to_folder(Target::Mlx), &mut |_| true).unwrap();
        assert_eq!(logits(&there), logits(&source), "{name}");
        let tensors = SafeTensors::open(&there.join("model.safetensors")).unwrap();
        let conv = tensors.find("model.layers.0.linear_attn.conv1d.weight").unwrap();
        assert_eq!(conv.shape, [256, 4, 1], "MLX's convolutions have channels last");
        convert(&there, &back, &to("pq2_0"), &mut |_| true).unwrap();
        assert_eq!(logits(&back), logits(&source), "{name}");
        // And to a folder of transformers, which holds norms less their offset again.
        convert(&there, &dense, &to_folder(Target::Dense), &mut |_| true).unwrap();
        assert_eq!(logits(&dense), logits(&source), "{name}");
    }
}
