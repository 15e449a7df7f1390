//! Folders with ONNX files: what is found, what is refused by name, and what a model of a damaged file is.
//!
//! That the golden ones compute what transformers does is tested in `golden_models.rs`.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::loader::{Inspection, StoredWeight};
use bitnet_inference::{LoadOptions, Model, ModelFiles, ModelSource};
use tempfile::TempDir;

const QWEN3: &str = "onnx-qwen3-q2f16";
const FILE: &str = "onnx/model_q2f16.onnx";
const LLAMA: &str = "onnx-llama-q2";

/// A copy of a golden folder, without what it is compared with.
struct Folder(TempDir);

impl Folder {
    fn of(case: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx").join(case);
        for file in ["config.json", "generation_config.json", "model_q2.onnx", FILE] {
            for file in [file.to_owned(), format!("{file}_data")] {
                let (from, to) = (golden.join(&file), folder.path().join(&file));
                if from.exists() {
                    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                    std::fs::copy(from, to).unwrap();
                }
            }
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn join(&self, file: &str) -> PathBuf {
        self.path().join(file)
    }

    /// Replaces bytes of a file by as many others, wherever they are.
    fn patch(self, file: &str, old: &[u8], new: &[u8]) -> Self {
        assert_eq!(old.len(), new.len());
        let mut bytes = std::fs::read(self.join(file)).unwrap();
        let places: Vec<usize> =
            (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
        assert!(!places.is_empty(), "{old:?} is not in the file");
        for at in places {
            bytes[at..at + new.len()].copy_from_slice(new);
        }
        std::fs::write(self.join(file), bytes).unwrap();
        self
    }

    /// Changes a field of `config.json`.
    fn config(self, field: &str, value: serde_json::Value) -> Self {
        let path = self.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        std::fs::write(path, config.to_string()).unwrap();
        self
    }

    fn refusal(&self) -> String {
        load(self.path()).map(drop).expect_err("a refusal")
    }
}

fn load(path: &Path) -> Result<Model, String> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    let loaded = Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {});
    loaded.map_err(|error| error.to_string())
}

fn logits(model: &Model) -> Vec<f32> {
    model.session(None).unwrap().extend(&[1, 5, 7]).unwrap().logits().unwrap()
}

#[track_caller]
fn assert_names(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

#[test]
fn folder_file_and_part_of_a_folder_are_the_same_model() {
    let folder = Folder::of(QWEN3);
    let models: Vec<Vec<f32>> = [folder.path().to_owned(), folder.join(FILE), folder.join("onnx")]
        .iter()
        .map(|path| logits(&load(path).unwrap()))
        .collect();
    assert!(models.iter().all(|model| *model == models[0]));
    // Settings beside the file are its own.
    std::fs::copy(folder.join("config.json"), folder.join("onnx/config.json")).unwrap();
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert_eq!(logits(&load(&folder.join(FILE)).unwrap()), models[0]);
}

#[test]
fn inspection_tells_container_and_types() {
    let folder = Folder::of(QWEN3);
    let found = Inspection::of(ModelSource::Path(folder.path()), &LoadOptions::default()).unwrap();
    assert_eq!(found.facts.container, "ONNX");
    assert_names(&found.facts.weights, &["MatMulNBits, 2 bits", "128 weights"]);
    assert_names(&found.facts.head, &["embedding table (tied)"]);
    assert_eq!(found.facts.unused_tensors, [""; 0]);
    let codes = found.tensors.iter().find(|t| t.name == "model_embed_tokens_weight_quant").unwrap();
    assert_eq!((&*codes.storage, &*codes.shape, codes.bytes), ("UINT8", &[48, 64][..], 48 * 64));
    let files =
        ModelFiles::open(ModelSource::Path(folder.path()), &LoadOptions::default()).unwrap();
    let scan = files.scan_weights(1, &mut |_, _| {}).unwrap();
    assert!(scan.faults.is_empty() && scan.doubled.is_empty(), "{scan:?}");
    assert!(scan.numbers > 500_000, "{scan:?}");
}

#[test]
fn fused_projections_are_rows_of_one_matrix() {
    let folder = Folder::of(LLAMA);
    let files =
        ModelFiles::open(ModelSource::Path(folder.path()), &LoadOptions::default()).unwrap();
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
    let part =
        |name: &str, rows| match files.linear(name, rows, 128, &pool).unwrap().unwrap().weight {
            StoredWeight::Ternary(matrix) => matrix.to_trits(),
            StoredWeight::Dense { .. } => panic!("ternary"),
        };
    for (name, rows, bytes) in [
        ("blk.0.attn_q", 128, 128 * 32),
        ("blk.0.attn_v", 64, 64 * 32),
        ("blk.0.ffn_up", 256, 256 * 32),
    ] {
        assert_eq!(part(name, rows).len(), rows * 128);
        let stored = files.stored_bytes(name).unwrap().unwrap();
        assert_eq!((stored.region.len(), stored.shape), (bytes, vec![rows, 128]), "{name}");
    }
    assert_ne!(part("blk.0.attn_k", 64), part("blk.0.attn_v", 64));
    let error = files.linear("blk.0.attn_q", 64, 128, &pool).unwrap_err().to_string();
    assert_names(&error, &["model_q2.onnx", "model.layers.0.attn.qkv_proj.qweight", "[64, 128]"]);
}

#[test]
fn several_files_are_listed_and_none_is_guessed() {
    let folder = Folder::of(QWEN3);
    std::fs::copy(folder.join(FILE), folder.join("onnx/model_q4.onnx")).unwrap();
    assert_names(
        &folder.refusal(),
        &["2 ONNX files", "model_q2f16.onnx", "model_q4.onnx", "name the one"],
    );
    assert!(load(&folder.join(FILE)).is_ok());
}

#[test]
fn files_that_are_missing_are_named() {
    let folder = Folder::of(QWEN3);
    std::fs::remove_file(folder.join("onnx/model_q2f16.onnx_data")).unwrap();
    assert_names(&folder.refusal(), &[FILE, "\"model_q2f16.onnx_data\" is missing", "location"]);
    let folder = Folder::of(LLAMA);
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert_names(&folder.refusal(), &["config.json", "not found"]);
    let folder = Folder::of(QWEN3);
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert_names(&load(&folder.join(FILE)).map(drop).unwrap_err(), &["config.json", "not found"]);
}

#[test]
fn nodes_that_are_not_read_are_refused_by_name() {
    let bits = |bits| [&b"bits\x18"[..], &[bits], &b"\xa0\x01\x02"[..]].concat();
    let folder = Folder::of(LLAMA).patch("model_q2.onnx", &bits(2), &bits(4));
    assert_names(
        &folder.refusal(),
        &["model_q2.onnx", "MatMulNBits /model/layers.0/attn/qkv_proj", "4 bits"],
    );
    let block = |block: &[u8; 2]| [b"block_size\x18", &block[..]].concat();
    let folder = Folder::of(LLAMA).patch("model_q2.onnx", &block(b"\x80\x01"), &block(b"\x81\x01"));
    assert_names(&folder.refusal(), &["model.layers.0.attn.qkv_proj.qweight", "block_size is 129"]);
    let folder =
        Folder::of(LLAMA).patch("model_q2.onnx", b"\x22\x0bMatMulNBits", b"\x22\x0bMatMulNBots");
    assert_names(&folder.refusal(), &["without MatMulNBits nodes", "q2"]);
    let folder = Folder::of(LLAMA).patch(
        "model_q2.onnx",
        b"attn.qkv_proj.qweight",
        b"attn.qkv_frog.qweight",
    );
    assert!(load(folder.path()).is_ok(), "the node says what its weight is");
    let folder = Folder::of(LLAMA)
        .patch("model_q2.onnx", b"attn.qkv_proj.", b"attn.qkv_frog.")
        .patch("model_q2.onnx", b"attn/qkv_proj/MatMul", b"attn/qkv_frog/MatMul");
    assert_names(
        &folder.refusal(),
        &["model.layers.0.attn.qkv_frog.qweight is not part of a llama model"],
    );
    let (norm, other) = (b"0.input_layernorm.weight", b"0.inner_layernorm.weight");
    let folder = Folder::of(LLAMA).patch("model_q2.onnx", norm, other);
    assert!(load(folder.path()).is_ok(), "the node says what its weight is");
    let folder = folder.patch("model_q2.onnx", b"0/input_layernorm/", b"0/inner_layernorm/");
    assert_names(&folder.refusal(), &["model.layers.0.inner_layernorm.weight is not part of"]);
}

#[test]
fn a_table_is_read_only_if_its_codes_are_spread_as_expected() {
    // The table's entry of byte 1, which must be 1 in the low four bits.
    let spread = [0, 0, 1, 0, 2, 0, 3, 0, 0x10, 0];
    let wrong = [0, 0, 2, 0, 2, 0, 3, 0, 0x10, 0];
    let untied = || Folder::of(QWEN3).config("tie_word_embeddings", false.into());
    let expected = logits(&load(untied().path()).unwrap());
    let folder = untied().patch(FILE, &spread, &wrong);
    assert_names(
        &folder.refusal(),
        &["GatherBlockQuantized", "unpack_lut_src2_tgt4", "does not spread codes"],
    );
    let gather = b"\x22\x06Gather\x2a";
    let folder = untied().patch(FILE, gather, b"\x22\x06Tilers\x2a");
    assert_names(
        &folder.refusal(),
        &["GatherBlockQuantized /model/embed_tokens", "that other nodes compute"],
    );
    // A tied table is the head, in whatever form it is stored.
    let folder = Folder::of(QWEN3).patch(FILE, gather, b"\x22\x06Tilers\x2a");
    let model = load(folder.path()).unwrap();
    assert_eq!(logits(&model), expected);
    let assumptions = model.facts().assumptions.join("\n");
    assert_names(&assumptions, &["GatherBlockQuantized /model/embed_tokens", "is the head (tied)"]);
}

#[test]
fn graphs_that_compute_something_else_are_refused() {
    let folder = Folder::of(LLAMA).config("rms_norm_eps", 1e-6.into());
    assert_names(
        &folder.refusal(),
        &["rms_norm_eps", "0.000001 in config.json", "0.00001 in node"],
    );
    let folder =
        Folder::of(QWEN3).config("num_attention_heads", 8.into()).config("head_dim", 16.into());
    let message = folder.refusal();
    assert_names(&message, &["model_q2f16.onnx"]);
    let folder = Folder::of(LLAMA).patch(
        "model_q2.onnx",
        b"rotary_interleaved\x18\x00",
        b"rotary_interleaved\x18\x01",
    );
    assert_names(
        &folder.refusal(),
        &["GroupQueryAttention /model/layers.0/attn", "with rotary_interleaved"],
    );
    let folder = Folder::of(LLAMA).config("hidden_size", 256.into());
    assert_names(&folder.refusal(), &["qkv_proj.qweight", "[256, 128]", "[", "256]"]);
    let folder = Folder::of(QWEN3).config("num_hidden_layers", 3.into());
    let message = folder.refusal();
    assert!(message.contains("model_q2f16.onnx"), "{message}");
    let folder = Folder::of(QWEN3).config("num_hidden_layers", 1.into());
    assert_names(&folder.refusal(), &["num_hidden_layers", "model_layers_1_"]);
    let folder = Folder::of(LLAMA)
        .config("architectures", ["BitNetForCausalLM"].as_slice().into())
        .config("model_type", "bitnet".into())
        .config("hidden_act", "relu2".into());
    assert_names(
        &folder.refusal(),
        &["BitNetForCausalLM in an ONNX file", "llama, qwen2 and qwen3"],
    );
}

#[test]
fn damaged_numbers_are_found_by_a_scan() {
    let folder = Folder::of(LLAMA);
    let bytes = std::fs::read(folder.join("model_q2.onnx")).unwrap();
    // Behind the name come tag and length of the bytes.
    let name = b"model.layers.0.attn.o_proj.scales\x4a";
    let at = bytes.windows(name.len()).position(|part| part == name).unwrap() + name.len() + 2;
    let mut damaged = bytes;
    damaged[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.join("model_q2.onnx"), damaged).unwrap();
    assert_names(
        &folder.refusal(),
        &["model.layers.0.attn.o_proj.qweight", "scale of row 0, block 0 is NaN"],
    );
    let files =
        ModelFiles::open(ModelSource::Path(folder.path()), &LoadOptions::default()).unwrap();
    let scan = files.scan_weights(1, &mut |_, _| {}).unwrap();
    assert!(scan.faults.iter().any(|fault| fault.tensor.contains("o_proj")), "{scan:?}");
}
