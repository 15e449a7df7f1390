//! Embeddings of texts against transformers, on the reference and every level of this machine; and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod every_backend;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::{GgufFile, GgufWriter};
use bitnet_formats::safetensors::SafeTensors;
use bitnet_inference::{EmbedOptions, KvType, LoadOptions, Model, ModelSource, Pooling, Prompt};
use serde_json::{Value, json};

use every_backend::backends;

const CASES: [&str; 3] = ["qwen3-embedding", "gemma3-embedding", "gguf-gemma3-embedding-i2s"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load_on(path: &Path, backend: Arc<dyn Backend>) -> bitnet_inference::Result<Model> {
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
}

fn load(path: &Path) -> bitnet_inference::Result<Model> {
    load_on(path, Arc::new(ReferenceBackend))
}

/// The model of a GGUF case.
fn file(name: &str) -> PathBuf {
    golden(name).join("model.gguf")
}

/// What transformers computed for a case.
struct Truth {
    tensors: SafeTensors,
    meta: Value,
}

impl Truth {
    fn of(name: &str) -> Self {
        let folder = golden(name);
        let meta: Value =
            serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
        let tensors = SafeTensors::open(&folder.join(meta["expected"].as_str().unwrap())).unwrap();
        Self { tensors, meta }
    }

    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        self.tensors.find(name).unwrap().data.as_chunks::<4>().0.to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    fn prompts(&self) -> Vec<Vec<u32>> {
        let of = |index| self.words(&format!("prompt.{index}.tokens"));
        (0..3).map(|index| of(index).into_iter().map(u32::from_le_bytes).collect()).collect()
    }

    fn noise(&self, kind: &str, prompt: usize) -> f32 {
        self.meta["noise"][kind][prompt].as_f64().unwrap() as f32
    }
}

#[test]
fn embeddings_differ_by_no_more_than_the_noise_of_the_arithmetic() {
    for backend in backends() {
        for name in CASES {
            let (truth, path) = (Truth::of(name), golden(name));
            let is_file = truth.meta["format"] == "gguf";
            let path = if is_file { path.join("model.gguf") } else { path };
            let model = load_on(&path, Arc::clone(&backend)).unwrap();
            let stated = truth.meta["pooling"].as_str().unwrap();
            assert_eq!(model.embedding_settings().unwrap().pooling.unwrap().name(), stated);
            let prompts = truth.prompts();
            let prompts: Vec<&[u32]> = prompts.iter().map(|tokens| &tokens[..]).collect();
            for pooling in Pooling::ALL {
                for (normalize, tensor, noise) in
                    [(false, "pooled", "per_prompt"), (true, "embedding", "embedding_per_prompt")]
                {
                    let got = model.embed_tokens(&prompts, pooling, normalize).unwrap();
                    for (index, got) in got.iter().enumerate() {
                        let expected = truth.floats(&format!("{tensor}.{index}.{pooling}"));
                        assert_eq!(got.len(), expected.len());
                        let pairs = got.iter().zip(&expected);
                        let difference = pairs.fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
                        let bound = 3.0 * truth.noise(noise, index);
                        assert!(
                            difference <= bound,
                            "{name} prompt {index} {pooling} {tensor} on {}: {difference:e} > {bound:e}",
                            backend.describe()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn together_and_alone_give_the_same_bits() {
    let model = load(&file("gguf-gemma3-embedding-i2s")).unwrap();
    let tokens: Vec<u32> = (0..300).map(|i| i * 7 % 250).collect();
    // The second is longer than what is read in one pass.
    let sequences = [&tokens[..5], &tokens[..], &tokens[3..40], &tokens[9..10]];
    for pooling in Pooling::ALL {
        let together = model.embed_tokens(&sequences, pooling, true).unwrap();
        for (alone, embedding) in sequences.iter().zip(&together) {
            assert_eq!(&model.embed_tokens(&[alone], pooling, true).unwrap()[0], embedding);
            let length: f32 = embedding.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
    }
}

#[test]
fn options_change_what_they_say() {
    let model = load(&file("gguf-gemma3-embedding-i2s")).unwrap();
    let embed = |text: &str, options: &EmbedOptions| model.embed(&[text], options);
    let plain = EmbedOptions::default();
    let prompted = EmbedOptions { prompt: Prompt::Text("query: ".into()), ..plain.clone() };
    let whole = embed("query: a cat", &plain).unwrap();
    assert_eq!(embed("a cat", &prompted).unwrap(), whole);
    let limited = EmbedOptions { max_tokens: Some(4), ..plain.clone() };
    let error = embed("a long text of many tokens", &limited).unwrap_err().to_string();
    assert!(error.contains("4 available") && error.contains("truncate"), "{error}");
    let cut = embed("abcdefghij", &EmbedOptions { truncate: true, ..limited }).unwrap();
    assert_eq!((cut[0].tokens, cut[0].left_out), (4, 7), "BOS and three of ten letters stay");
    assert_eq!(cut[0].values, embed("abc", &plain).unwrap()[0].values);
    for (options, word) in [
        (EmbedOptions { max_tokens: Some(0), ..plain.clone() }, "most tokens"),
        (EmbedOptions { max_tokens: Some(1 << 20), ..plain.clone() }, "most tokens"),
        (EmbedOptions { prompt: Prompt::Named("query".into()), ..plain.clone() }, "query"),
    ] {
        let error = embed("a", &options).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let error = model.embed_tokens(&[&[1], &[]], Pooling::Mean, true).unwrap_err().to_string();
    assert!(error.contains("number 1"), "{error}");
}

#[test]
fn a_model_without_a_head_writes_no_text_and_says_what_it_is_for() {
    for path in [golden("qwen3-embedding"), file("gguf-gemma3-embedding-i2s")] {
        let model = load(&path).unwrap();
        let error = model.session(None).unwrap_err().to_string();
        assert!(error.contains("without a head") && error.contains("bitnet embed"), "{error}");
        let mut cache = model.decoder().new_cache(1, KvType::F32).unwrap();
        let h = model.decoder().forward(&[1], &mut cache).unwrap();
        assert!(model.decoder().logits(&h).unwrap_err().to_string().contains("bitnet embed"));
        assert!(model.facts().head.contains("none"), "{}", model.facts().head);
        assert!(model.facts().unused_tensors.is_empty(), "{:?}", model.facts().unused_tensors);
    }
}

/// A copy of a folder, of which tensors and settings can be changed.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden(name)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        let pooling = golden(name).join("1_Pooling/config.json");
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        if pooling.exists() {
            std::fs::copy(pooling, folder.path().join("1_Pooling/config.json")).unwrap();
        }
        Self(folder)
    }

    /// Changes the header of the tensors as text of the same length.
    fn replace(&self, old: &str, new: &str) {
        assert_eq!(old.len(), new.len());
        let path = self.0.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
        bytes[found..found + old.len()].copy_from_slice(new.as_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    fn set(&self, file: &str, changes: Value) {
        let path = self.0.path().join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (field, new) in changes.as_object().unwrap() {
            value[field] = new.clone();
        }
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn error(&self) -> String {
        load(self.0.path()).unwrap_err().to_string()
    }
}

#[test]
fn input_norms_that_are_missing_or_of_another_width_name_their_tensor() {
    const NORM: &str = "layers.1.mlp.up_proj.norm.weight";
    let copy = Copy::of("qwen3-embedding");
    copy.replace(NORM, "layers.1.mlp.up_proj.nrom.weight");
    let error = copy.error();
    assert!(error.contains("layers.1.mlp.up_proj") && error.contains("missing"), "{error}");

    let copy = Copy::of("qwen3-embedding");
    // The norms of two projections in each other's place.
    let of = |letter: char| format!("layers.1.self_attn.{letter}_proj.norm.weight");
    for (old, new) in [('o', 'x'), ('k', 'o'), ('x', 'k')] {
        copy.replace(&of(old), &of(new));
    }
    let error = copy.error();
    let named = error.contains("k_proj.norm.weight") || error.contains("o_proj.norm.weight");
    assert!(named && error.contains("64") && error.contains("128"), "{error}");
}

/// Writes the model of the GGUF case without one tensor.
fn without(tensor: &str) -> tempfile::NamedTempFile {
    let source = GgufFile::open(&file("gguf-gemma3-embedding-i2s")).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |_| true).unwrap();
    let kept: Vec<_> = source.tensors().iter().filter(|own| own.name != tensor).collect();
    assert_eq!(kept.len() + 1, source.tensors().len());
    for own in &kept {
        writer.add_tensor(&own.name, &own.dims, own.ggml_type).unwrap();
    }
    let layout = writer.layout("model.gguf").unwrap();
    let mut bytes = layout.header.clone();
    for (own, &offset) in kept.iter().zip(&layout.offsets) {
        bytes.resize(offset as usize, 0);
        bytes.extend_from_slice(&source.data(own).unwrap());
    }
    bytes.resize(layout.len as usize, 0);
    let written = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(written.path(), bytes).unwrap();
    written
}

#[test]
fn norms_that_a_file_lacks_are_named() {
    for tensor in [
        "blk.0.ffn_up_norm_in.weight",
        "blk.0.attn_output_norm_in.weight",
        "blk.0.post_attention_norm.weight",
        "blk.0.post_ffw_norm.weight",
    ] {
        let error = load(without(tensor).path()).unwrap_err().to_string();
        assert!(error.contains(tensor) && error.contains("missing"), "{error}");
    }
}

#[test]
fn a_norm_of_another_role_is_not_taken_for_the_one_that_is_missing() {
    let copy = Copy::of("gemma3-ternary-dense");
    copy.replace(
        "model.layers.0.pre_feedforward_layernorm",
        "model.layers.0.pre_feedforward_layernrom",
    );
    let error = copy.error();
    assert!(error.contains("pre_feedforward_layernorm") && error.contains("missing"), "{error}");
}

#[test]
fn settings_that_are_not_supported_name_their_field() {
    for (changes, words) in [
        (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (json!({"sliding_window": 0}), "sliding_window"),
        (json!({"query_pre_attn_scalar": 0}), "scale of attention"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
        (json!({"layer_types": null, "sliding_window_pattern": 0}), "sliding_window_pattern"),
        (json!({"layer_types": ["full_attention", "linear_attention"]}), "linear_attention"),
        (json!({"rope_parameters": {"rope_type": "default"}}), "rope_parameters"),
        (
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
            "rope_parameters.sliding_attention.rope_type",
        ),
        (json!({"rope_parameters": {"full_attention": {"rope_type": "linear"}}}), "factor"),
    ] {
        let copy = Copy::of("gemma3-ternary-dense");
        copy.set("config.json", changes.clone());
        let error = copy.error();
        assert!(error.contains("config.json") && error.contains(words), "{changes}: {error}");
    }
}

#[test]
fn an_unknown_pooling_names_its_key_unless_another_is_asked_for() {
    let copy = Copy::of("qwen3-embedding");
    let modes = json!({"pooling_mode_lasttoken": false, "pooling_mode_max_tokens": true});
    copy.set("1_Pooling/config.json", modes);
    let model = load(copy.0.path()).unwrap();
    let error = model.embedding_settings().unwrap_err().to_string();
    assert!(error.contains("1_Pooling") && error.contains("pooling_mode_max_tokens"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(file("gguf-gemma3-embedding-i2s")).unwrap();
    let key = b"gemma3.pooling_type";
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap() + key.len() + 4;
    bytes[at] = 9;
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let model = load(&path).unwrap();
    let embed =
        |pooling| model.embed(&["a cat"], &EmbedOptions { pooling, ..EmbedOptions::default() });
    let error = embed(None).unwrap_err().to_string();
    assert!(error.contains("gemma3.pooling_type") && error.contains('9'), "{error}");
    assert!(embed(Some(Pooling::Last)).is_ok());
}

#[test]
fn prompts_of_a_folder_are_used_by_name() {
    let copy = Copy::of("qwen3-embedding");
    let settings = json!({"prompts": {"query": "q"}, "default_prompt_name": "other"});
    let path = copy.0.path().join("config_sentence_transformers.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    let error = load(copy.0.path()).unwrap().embedding_settings().unwrap_err().to_string();
    assert!(error.contains("default_prompt_name") && error.contains("other"), "{error}");
    let settings = json!({"prompts": {"query": "q"}, "default_prompt_name": "query"});
    std::fs::write(&path, settings.to_string()).unwrap();
    let model = load(copy.0.path()).unwrap();
    let found = model.embedding_settings().unwrap();
    assert_eq!(found.default_prompt.as_deref(), Some("query"));
    assert_eq!(found.prompts["query"], "q");
}
