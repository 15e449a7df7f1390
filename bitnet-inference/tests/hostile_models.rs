//! Model files that lie: every impossible setting, damaged tensor or missing part is a typed error that names it.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter, Value};
use bitnet_inference::models::RopeScaling;
use bitnet_inference::{InferenceError, Inspection, LoadOptions, Model, ModelSource};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    Model::load_with(
        ModelSource::Path(path),
        &LoadOptions::default(),
        Arc::new(ReferenceBackend),
        &mut |_, _| {},
    )
}

/// What is changed in a copy of a good file.
#[derive(Default)]
struct Change<'a> {
    key: Option<(&'a str, Value<'a>)>,
    drop_key: Option<&'a str>,
    drop_tensor: Option<&'a str>,
    add_tensor: Option<&'a str>,
    patch: Option<(&'a str, usize, &'a [u8])>,
}

/// A copy of the golden I2_S model with one thing changed.
fn changed(folder: &TempDir, change: &Change<'_>) -> PathBuf {
    let source = GgufFile::open(&golden("gguf-bitnet-b158-i2s").join("model.gguf")).unwrap();
    let mut writer = GgufWriter::new();
    let replaced = change.key.as_ref().map(|(key, _)| *key);
    writer
        .copy_metadata(source.metadata(), |key| {
            Some(key) != change.drop_key && Some(key) != replaced
        })
        .unwrap();
    if let Some((key, value)) = &change.key {
        writer.put(key, *value).unwrap();
    }
    let kept: Vec<_> =
        source.tensors().iter().filter(|t| Some(t.name.as_str()) != change.drop_tensor).collect();
    for tensor in &kept {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    if let Some(name) = change.add_tensor {
        writer.add_tensor(name, &[16], GgmlType::F32).unwrap();
    }
    let path = folder.path().join("changed.gguf");
    writer
        .write(&path, |pending, sink| {
            if Some(pending.name.as_str()) == change.add_tensor {
                return sink.write_all(&2f32.to_le_bytes().repeat(16));
            }
            let tensor = source.tensor(&pending.name).unwrap();
            let mut bytes = source.data(tensor).unwrap().to_vec();
            if let Some((name, from_end, patch)) = &change.patch
                && *name == pending.name
            {
                let at = bytes.len() - from_end;
                bytes[at..at + patch.len()].copy_from_slice(patch);
            }
            sink.write_all(&bytes)
        })
        .unwrap();
    path
}

/// The error that a changed file gives, which must name the file.
fn error_of(change: &Change<'_>) -> String {
    let folder = TempDir::new().unwrap();
    let path = changed(&folder, change);
    let message =
        load(&path).err().unwrap_or_else(|| panic!("a damaged file must not load")).to_string();
    assert!(message.contains("changed.gguf"), "{message}");
    message
}

#[test]
fn the_unchanged_copy_loads() {
    let folder = TempDir::new().unwrap();
    assert!(load(&changed(&folder, &Change::default())).is_ok());
}

#[test]
fn impossible_keys_are_named() {
    let cases: &[(&str, Value<'_>, &str)] = &[
        ("bitnet-b1.58.block_count", Value::U32(0), "layers"),
        ("bitnet-b1.58.block_count", Value::U32(513), "layers"),
        ("bitnet-b1.58.block_count", Value::U32(u32::MAX), "layers"),
        ("bitnet-b1.58.block_count", Value::String("two"), "block_count"),
        ("bitnet-b1.58.block_count", Value::I32(-1), "block_count"),
        ("bitnet-b1.58.block_count", Value::U32(3), "blk.2."),
        ("bitnet-b1.58.attention.head_count", Value::U32(0), "head_count"),
        ("bitnet-b1.58.attention.head_count", Value::U32(u32::MAX), "head"),
        ("bitnet-b1.58.attention.head_count_kv", Value::U32(3), "key-value heads"),
        ("bitnet-b1.58.attention.head_count_kv", Value::U32(0), "key-value heads"),
        ("bitnet-b1.58.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "epsilon"),
        ("bitnet-b1.58.attention.layer_norm_rms_epsilon", Value::F32(-1.0), "epsilon"),
        ("bitnet-b1.58.context_length", Value::U32(u32::MAX), "context"),
        ("bitnet-b1.58.context_length", Value::U32(0), "context"),
        (
            "bitnet-b1.58.attention.input_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "input_norm_rms_epsilon",
        ),
        ("bitnet-b1.58.rope.dimension_count", Value::U32(31), "rope.dimension_count"),
        ("bitnet-b1.58.rope.freq_base", Value::F32(f32::INFINITY), "RoPE base"),
        ("bitnet-b1.58.rope.scaling.type", Value::String("longrope"), "rope.scaling.type"),
        ("bitnet-b1.58.rope.scaling.attn_factor", Value::F32(1.5), "rope.scaling.attn_factor"),
        ("bitnet-b1.58.rope.scaling.yarn_ext_factor", Value::F32(1.0), "yarn_ext_factor"),
        ("bitnet-b1.58.embedding_length", Value::U32(1 << 31), "rope.dimension_count"),
        ("bitnet-b1.58.embedding_length", Value::U32(64), "rope.dimension_count"),
        ("bitnet-b1.58.feed_forward_length", Value::U32(128), "shape"),
        ("bitnet-b1.58.vocab_size", Value::U32(7), "vocab_size"),
        ("bitnet-b1.58.attention.key_length", Value::U32(33), "rope.dimension_count"),
        ("general.architecture", Value::String("mamba"), "architecture"),
        ("general.architecture", Value::U32(1), "general.architecture"),
        ("tokenizer.ggml.eos_token_id", Value::U32(1 << 30), ""),
    ];
    for (key, value, word) in cases {
        let message = error_of(&Change { key: Some((key, *value)), ..Change::default() });
        assert!(message.contains(word), "{key} = {value:?}: {message}");
    }
}

/// What `inspect` lists for a changed file that loads.
fn assumptions_of(change: &Change<'_>, tail: &[u8]) -> String {
    let folder = TempDir::new().unwrap();
    let path = changed(&folder, change);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(tail);
    std::fs::write(&path, bytes).unwrap();
    load(&path).unwrap().facts().assumptions.join("\n")
}

#[test]
fn unused_special_ids_out_of_range_are_ignored() {
    let with = |name: &str, value| {
        let key = Some((name, Value::U32(value)));
        assumptions_of(&Change { key, ..Change::default() }, b"")
    };
    for id in [u32::MAX, 32_000] {
        for name in ["padding", "unknown", "seperator", "cls", "mask"] {
            let name = format!("tokenizer.ggml.{name}_token_id");
            let all = with(&name, id);
            assert!(all.contains(&name), "{name} = {id}: {all}");
        }
    }
    // -1 stands for none; an end token beyond the vocabulary would never end a text.
    assert!(with("tokenizer.ggml.eos_token_id", u32::MAX).contains("eos_token_id is -1"));
    assert!(with("tokenizer.ggml.eom_token_id", u32::MAX).contains("eom_token_id is -1"));
}

#[test]
fn bytes_behind_the_last_tensor_are_ignored_and_reported() {
    assert!(!assumptions_of(&Change::default(), b"").contains("last tensor"));
    let zeros = assumptions_of(&Change::default(), &[0; 4096]);
    assert!(zeros.contains("4096 zeros follow the last tensor"), "{zeros}");
    let other = assumptions_of(&Change::default(), b"PK\x03\x04");
    assert!(other.contains("4 bytes that are not zero follow"), "{other}");
}

#[test]
fn rope_factors_need_a_type_of_rope_scaling_that_is_supported() {
    let with = |kind| Change {
        key: Some(("bitnet-b1.58.rope.scaling.type", Value::String(kind))),
        add_tensor: Some("rope_freqs.weight"),
        ..Change::default()
    };
    for kind in ["yarn", "longrope", "planted"] {
        let message = error_of(&with(kind));
        assert!(message.contains("rope.scaling.type") && message.contains(kind), "{message}");
    }
    for tensor in ["rope_factors_short.weight", "rope_factors_long.weight"] {
        let message = error_of(&Change { add_tensor: Some(tensor), ..Change::default() });
        assert!(message.contains(tensor) && message.contains("longrope"), "{message}");
    }
    let folder = TempDir::new().unwrap();
    for kind in ["none", "linear"] {
        let model = load(&changed(&folder, &with(kind))).unwrap();
        let scaling = &model.config().rope_scaling;
        assert!(matches!(scaling, RopeScaling::Factors(f) if f[..] == [2.0; 16]), "{scaling:?}");
    }
}

#[test]
fn sliding_window_of_gguf_limits_the_context() {
    let folder = TempDir::new().unwrap();
    let key = Some(("bitnet-b1.58.attention.sliding_window", Value::U32(16)));
    let model = load(&changed(&folder, &Change { key, ..Change::default() })).unwrap();
    assert_eq!(model.config().context_limit.unwrap().positions, 16);
    let said = &model.facts().assumptions;
    assert!(!said.iter().any(|line| line.contains("whole context")), "{said:?}");
    assert_eq!(said.iter().filter(|line| line.contains("window")).count(), 1, "{said:?}");
}

#[test]
fn gguf_defaults_are_those_of_llama_cpp() {
    let folder = TempDir::new().unwrap();
    let read = |key, value, drop_key| {
        let change = Change { key: Some((key, value)), drop_key, ..Change::default() };
        load(&changed(&folder, &change)).unwrap()
    };
    // A factor without a type is linear.
    let scaled = read("bitnet-b1.58.rope.scaling.factor", Value::F32(4.0), None);
    assert_eq!(scaled.config().rope_scaling, RopeScaling::Linear(4.0));
    let older = read("bitnet-b1.58.rope.scale_linear", Value::F32(2.0), None);
    assert_eq!(older.config().rope_scaling, RopeScaling::Linear(2.0));
    let base = read("general.name", Value::String("x"), Some("bitnet-b1.58.rope.freq_base"));
    assert_eq!(base.config().rope_theta, 10_000.0);
    let said = base.facts().assumptions.join("\n");
    assert!(said.contains("no bitnet-b1.58.rope.freq_base: 10000"), "{said}");
}

#[test]
fn sequences_longer_than_a_gguf_window_are_refused() {
    let folder = TempDir::new().unwrap();
    let key = Some(("bitnet-b1.58.attention.sliding_window", Value::U32(8)));
    let model = load(&changed(&folder, &Change { key, ..Change::default() })).unwrap();
    assert!(model.session(Some(8)).is_ok());
    assert!(matches!(model.session(Some(9)), Err(InferenceError::Resource { .. })));
    assert!(model.facts().assumptions.join("").contains("window of 8 tokens"));
}

#[test]
fn missing_keys_and_tensors_are_named() {
    for key in [
        "general.architecture",
        "bitnet-b1.58.block_count",
        "bitnet-b1.58.embedding_length",
        "bitnet-b1.58.attention.layer_norm_rms_epsilon",
    ] {
        let message = error_of(&Change { drop_key: Some(key), ..Change::default() });
        assert!(message.contains(key), "{message}");
    }
    for tensor in [
        "token_embd.weight",
        "output_norm.weight",
        "blk.1.attn_sub_norm.weight",
        "blk.0.ffn_up.weight",
    ] {
        let message = error_of(&Change { drop_tensor: Some(tensor), ..Change::default() });
        assert!(message.contains(tensor.trim_end_matches(".weight")), "{message}");
    }
}

#[test]
fn gguf_tensors_outside_the_architecture_are_refused_by_name() {
    for tensor in [
        "blk.0.attn_q_norm.weight",
        "blk.1.ffn_gate_inp.weight",
        "blk.0.post_attention_norm.weight",
        "output.bias",
        "blk.0.attn_q.bias",
        "token_embd_norm.weight",
    ] {
        let message = error_of(&Change { add_tensor: Some(tensor), ..Change::default() });
        assert!(message.contains(tensor), "{message}");
        assert!(message.contains("not part of a bitnet model"), "{message}");
    }
}

#[test]
fn biases_outside_the_family_are_refused_by_name() {
    let source = golden("qwen2-ternary-dense");
    load(&source).unwrap();
    let folder = TempDir::new().unwrap();
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("Qwen2ForCausalLM", "LlamaForCausalLM").replace("qwen2", "llama");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, InferenceError::UnsupportedOperation { .. }), "{error:?}");
    assert!(error.to_string().contains("model.layers.0.self_attn.q_proj.bias"), "{error}");
}

#[test]
fn gguf_tables_of_rotary_angles_are_accepted() {
    let folder = TempDir::new().unwrap();
    let add_tensor = Some("blk.0.attn_rot_embd.weight");
    assert!(load(&changed(&folder, &Change { add_tensor, ..Change::default() })).is_ok());
}

#[test]
fn scales_and_norms_that_are_not_finite_are_named() {
    for (patch, what) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let tensor = "blk.0.attn_q.weight";
        // An I2_S tensor ends with its f32 scale in the last 32 bytes.
        let message = error_of(&Change {
            patch: Some((tensor, 32, &patch.to_le_bytes())),
            ..Change::default()
        });
        assert!(message.contains(tensor) && message.contains(what), "{message}");
        let tensor = "blk.1.ffn_norm.weight";
        let message = error_of(&Change {
            patch: Some((tensor, 8, &patch.to_le_bytes())),
            ..Change::default()
        });
        assert!(message.contains(tensor) && message.contains(what), "{message}");
    }
}

#[test]
fn a_reserved_code_in_packed_weights_is_named_by_place() {
    let folder = TempDir::new().unwrap();
    let source = golden("bitnet-2b-packed");
    for file in ["config.json", "generation_config.json"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = bitnet_formats::SafeTensors::open(&source.join("model.safetensors")).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let offset = tensors.tensor(name).unwrap().data.offset() as usize;
    let mut damaged = bytes;
    damaged[offset + 5] |= 0b11;
    std::fs::write(folder.path().join("model.safetensors"), damaged).unwrap();
    let message =
        load(folder.path()).err().unwrap_or_else(|| panic!("code 3 is no trit")).to_string();
    assert!(message.contains(name) && message.contains("model.safetensors"), "{message}");
    assert!(message.contains("column 5"), "{message}");
}

#[test]
fn packed_weights_without_a_quantization_config_are_refused_not_guessed() {
    let folder = TempDir::new().unwrap();
    let source = golden("bitnet-2b-packed");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let message = load(folder.path())
        .err()
        .unwrap_or_else(|| panic!("the scale's direction is unknown"))
        .to_string();
    assert!(message.contains("quantization_config") && message.contains("direction"), "{message}");
}

#[test]
fn the_wrong_kind_of_path_is_an_error() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("absent.gguf");
    assert!(load(&missing).is_err());
    assert!(
        load(folder.path()).unwrap_err().to_string().contains("config.json"),
        "an empty folder"
    );
    let text = folder.path().join("notes.gguf");
    std::fs::write(&text, "not a model").unwrap();
    assert!(load(&text).unwrap_err().to_string().contains("notes.gguf"));
    std::fs::write(folder.path().join("config.json"), "{\"architectures\": [").unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn inspection_lists_assumptions_without_decoding() {
    let path = golden("gguf-bitnet-b158-i2s").join("model.gguf");
    let inspection = Inspection::of(ModelSource::Path(&path), &LoadOptions::default()).unwrap();
    assert!(inspection.facts.activation.starts_with("ReLU²"), "{}", inspection.facts.activation);
    assert!(inspection.facts.weights.contains("canonical"), "{}", inspection.facts.weights);
    assert_eq!(inspection.facts.inputs, "int8 per token");
    let total: u64 = inspection.tensors.iter().map(|t| t.bytes).sum();
    assert_eq!(total, inspection.bytes_by_type().iter().map(|(_, _, bytes)| bytes).sum::<u64>());
    let divided = Inspection::of(
        ModelSource::Path(&golden("llama-bitlinear-packed")),
        &LoadOptions::default(),
    )
    .unwrap();
    assert!(divided.facts.weights.contains("divides"), "{}", divided.facts.weights);
}
