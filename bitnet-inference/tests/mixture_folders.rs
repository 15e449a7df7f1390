//! Maple in Hugging Face folders: the logits of the same values in a GGUF file; fields that are missing or impossible are
//! refused by name.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::safetensors::{Dtype, TensorSpec, write};
use bitnet_inference::loader::storage_of;
use bitnet_inference::{InferenceError, LoadOptions, Model, ModelSource};
use bitnet_quant::codec::dense::DenseMatrix;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::{Storage, TernaryStorage};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn golden() -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    models.join("gguf-maple-q2_0/model.gguf")
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
}

/// A stack of experts as trits `[experts * rows, cols]` with scales.
fn trits_of(source: &GgufFile, name: &str) -> TernaryMatrix {
    let tensor = source.find(name).unwrap();
    let rows = tensor.dims[1..].iter().product::<u64>() as usize;
    let storage = TernaryStorage::Q2_0 { block: 64 };
    storage.decode(&source.data(tensor).unwrap(), rows, tensor.dims[0] as usize, None).unwrap()
}

const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate_inp", "mlp.gate"),
];

/// The numbers of a tensor as f32, `[rows, cols]`.
fn numbers(source: &GgufFile, name: &str) -> (usize, Vec<f32>) {
    let tensor = source.find(name).unwrap();
    let cols = tensor.dims[0] as usize;
    if tensor.ggml_type.is_ternary() {
        let matrix = trits_of(source, name);
        let at = |i: usize| {
            f32::from(matrix.trit(i / cols, i % cols)) * matrix.scale_at(i / cols, i % cols)
        };
        return (cols, (0..matrix.rows() * cols).map(at).collect());
    }
    let layout = I2sLayout::X86;
    let storage = storage_of(tensor.ggml_type, layout).unwrap();
    let Storage::Dense(dense) = storage else { panic!("{name}") };
    let rows = tensor.dims[1..].iter().product::<u64>() as usize;
    let data = source.data(tensor).unwrap();
    let matrix = DenseMatrix::new(dense, rows, cols, data).unwrap();
    let mut out = vec![0.0; rows * cols];
    for (row, out) in out.chunks_exact_mut(cols).enumerate() {
        matrix.decode_row(row, out).unwrap();
    }
    (cols, out)
}

/// The values of the golden file as a folder of f32, with one field of `config.json` changed.
fn folder(field: &str, value: Json) -> TempDir {
    let source = GgufFile::open(&golden()).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |name: String, cols: usize, numbers: Vec<f32>, is_vector: bool| {
        let rows = numbers.len() / cols;
        all.push((name, if is_vector { vec![cols] } else { vec![rows, cols] }, numbers));
    };
    for (gguf, hf) in [
        ("token_embd", "model.word_embeddings"),
        ("output_norm", "model.norm"),
        ("output", "lm_head"),
    ] {
        let (cols, numbers) = numbers(&source, &format!("{gguf}.weight"));
        add(format!("{hf}.weight"), cols, numbers, gguf == "output_norm");
    }
    for layer in 0..3 {
        let hf_layer = format!("model.layers.{layer}");
        for (gguf, hf) in LAYER {
            let (cols, numbers) = numbers(&source, &format!("blk.{layer}.{gguf}.weight"));
            add(format!("{hf_layer}.{hf}.weight"), cols, numbers, gguf.ends_with("norm"));
        }
        for part in ["gate", "up", "down"] {
            let (cols, numbers) = numbers(&source, &format!("blk.{layer}.ffn_{part}_exps.weight"));
            for (expert, numbers) in numbers.chunks_exact(numbers.len() / 5).enumerate() {
                let name = format!("{hf_layer}.mlp.experts.{expert}.{part}_proj.weight");
                add(name, cols, numbers.to_vec(), false);
            }
        }
    }
    let place = TempDir::new().unwrap();
    let specs: Vec<_> = all
        .iter()
        .map(|(name, shape, _)| TensorSpec {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        })
        .collect();
    write(&place.path().join("model.safetensors"), &specs, &[], |spec, sink| {
        let (.., numbers) = all.iter().find(|(name, ..)| *name == spec.name).unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        sink.write_all(&bytes)
    })
    .unwrap();
    let mut config = json!({
        "architectures": ["MapleForCausalLM"], "model_type": "maple", "vocab_size": 264, "hidden_size": 64,
        "intermediate_size": 4096, "moe_intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": null, "partial_rotary_factor": 0.5,
        "nope_on_global_attention": true, "sliding_window": 6, "num_experts": 5, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "norm_topk_prob": true,
        "num_shared_experts": 0, "router_dtype": "fp32", "moe_router_enable_expert_bias": false,
        "use_qk_norm": true, "use_rmsnorm": true, "tie_word_embeddings": false, "quantize": true, "preaffine": false,
        "max_window_layers": 3, "embedding_dropout": 0.0, "output_dropout": 0.0, "output_router_logits": false,
        "eos_token_id": 261,
    });
    config[field] = value;
    std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
    place
}

#[test]
fn a_folder_gives_the_logits_of_the_file() {
    let tokens: Vec<u32> = (0..30).map(|i| (i * i + 31 * i) % 260).collect();
    let from = |path: &Path| {
        let model = load(path).unwrap();
        assert!(model.facts().unused_tensors.is_empty(), "{:?}", model.facts().unused_tensors);
        let mut session = model.session(None).unwrap();
        session.extend(&tokens).unwrap().logits().unwrap()
    };
    let folder = folder("use_cache", json!(true));
    assert_eq!(from(folder.path()), from(&golden()));
}

#[test]
fn impossible_fields_of_folders_are_refused_by_name() {
    for (field, value) in [
        ("num_experts", json!(0)),
        ("num_experts_per_tok", json!(6)),
        ("num_experts_per_tok", json!(0)),
        ("nope_on_global_attention", json!(false)),
        ("nope_on_global_attention", Json::Null),
        ("layer_types", Json::Null),
        ("layer_types", json!(["sliding_attention"])),
        ("layer_types", json!(["full_attention", "linear_attention", "full_attention"])),
        ("sliding_window", json!(0)),
        ("num_shared_experts", json!(1)),
        ("norm_topk_prob", json!(false)),
        ("moe_router_enable_expert_bias", json!(true)),
        ("router_dtype", json!("bf16")),
        ("use_bias", json!(true)),
    ] {
        let folder = folder(field, value.clone());
        let error = load(folder.path()).err().unwrap_or_else(|| panic!("{field} {value}: loaded"));
        let error = error.to_string();
        assert!(error.contains("config.json") && error.contains(field), "{field}: {error}");
    }
    // A number of experts that the file does not have.
    let more = folder("num_experts", json!(6));
    let error = load(more.path()).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.mlp.gate.weight"), "{error}");
}
