//! A Hugging Face folder of one Llama layer with ternary weights and a byte-level tokenizer, written into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_formats::safetensors::{Dtype, TensorSpec, write};
use serde_json::{Value, json};

/// Special tokens, which have the first ids.
pub(crate) const SPECIAL: [&str; 8] =
    ["<|bos|>", "<|eos|>", "<pad>", "<unk>", "<sep>", "<cls>", "<mask>", "<|stop|>"];
/// Rows of the embedding: the special tokens and the bytes.
pub(crate) const ROWS: usize = SPECIAL.len() + 256;
const HIDDEN: usize = 256;

/// Changes to a plain model.
pub(crate) struct SmallModel {
    /// Columns of the last projection.
    pub(crate) intermediate: usize,
    /// Changed fields of `config.json`; `null` removes a field.
    pub(crate) config: Value,
    /// Other JSON files.
    pub(crate) files: Vec<(&'static str, Value)>,
    /// Whether layers have input norms.
    pub(crate) input_norms: bool,
}

impl Default for SmallModel {
    fn default() -> Self {
        Self { intermediate: 256, config: json!({}), files: Vec::new(), input_norms: false }
    }
}

impl SmallModel {
    /// Writes the folder `name` into `work`.
    pub(crate) fn write(&self, work: &Path, name: &str) -> PathBuf {
        let folder = work.join(name);
        fs::create_dir(&folder).unwrap();
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
            "intermediate_size": self.intermediate, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "vocab_size": ROWS, "tie_word_embeddings": true,
        });
        for (field, value) in self.config.as_object().unwrap() {
            config[field] = value.clone();
        }
        put(&folder, "config.json", &config);
        put(&folder, "tokenizer.json", &tokenizer());
        self.files.iter().for_each(|(name, json)| put(&folder, name, json));
        self.weights(&folder);
        folder
    }

    fn weights(&self, folder: &Path) {
        let wide = self.intermediate;
        let layer = "model.layers.0";
        let mut specs = vec![
            ("model.embed_tokens.weight".to_owned(), vec![ROWS, HIDDEN]),
            ("model.norm.weight".to_owned(), vec![HIDDEN]),
            (format!("{layer}.input_layernorm.weight"), vec![HIDDEN]),
            (format!("{layer}.post_attention_layernorm.weight"), vec![HIDDEN]),
        ];
        let projections = [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", HIDDEN, HIDDEN),
            ("self_attn.v_proj", HIDDEN, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", wide, HIDDEN),
            ("mlp.up_proj", wide, HIDDEN),
            ("mlp.down_proj", HIDDEN, wide),
        ];
        for (name, rows, cols) in projections {
            specs.push((format!("{layer}.{name}.weight"), vec![rows, cols]));
            if self.input_norms {
                specs.push((format!("{layer}.{name}.rms_norm.weight"), vec![cols]));
            }
        }
        let specs: Vec<TensorSpec> = specs
            .into_iter()
            .map(|(name, shape)| TensorSpec { name, dtype: Dtype::F32, shape })
            .collect();
        write(&folder.join("model.safetensors"), &specs, &[], |spec, sink| {
            let count: usize = spec.shape.iter().product();
            (0..count).try_for_each(|i| sink.write_all(&number(&spec.name, i).to_le_bytes()))
        })
        .unwrap();
    }
}

/// Trits of scale 0.5 for projections, 1 for norms, small numbers for the embedding.
fn number(tensor: &str, i: usize) -> f32 {
    let hash = (i as u32 ^ tensor.len() as u32).wrapping_mul(2_654_435_761) >> 16;
    if tensor.contains("norm") {
        1.0
    } else if tensor.contains("proj") {
        ((hash % 3) as f32 - 1.0) * 0.5
    } else {
        (hash % 17) as f32 / 16.0 - 0.5
    }
}

pub(crate) fn put(folder: &Path, name: &str, json: &Value) {
    fs::write(folder.join(name), json.to_string()).unwrap();
}

/// Returns the character of a byte in byte-level vocabularies.
fn letter(byte: u32) -> char {
    let plain = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let shifted = (0..byte).filter(|&other| !plain(other)).count() as u32;
    char::from_u32(if plain(byte) { byte } else { 256 + shifted }).unwrap()
}

/// Returns a tokenizer.json of bytes, without merges.
fn tokenizer() -> Value {
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, token) in SPECIAL.iter().enumerate() {
        vocab.insert((*token).to_owned(), id.into());
        added.push(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }));
    }
    for byte in 0..256 {
        vocab.insert(letter(byte).to_string(), (SPECIAL.len() + byte as usize).into());
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}
