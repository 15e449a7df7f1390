//! Settings of `config.json` that change numbers, against what HF transformers
//! computes with the same weights; and indexes.
//!
//! The cases and the script that makes them: `tests/golden/settings`, `scripts/golden/settings.py`.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::safetensors::{SafeTensors, TensorSpec, write};
use bitnet_inference::{
    InferenceError, Inspection, KvType, LoadOptions, Model, ModelSource, Session,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/settings").join(name)
}

fn golden_cases() -> (Vec<u32>, Vec<Value>) {
    let all: Value = serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap();
    let tokens = all["tokens"].as_array().unwrap();
    let tokens = tokens.iter().map(|token| token.as_u64().unwrap() as u32).collect();
    (tokens, all["cases"].as_array().unwrap().clone())
}

fn case(name: &str) -> Value {
    let (_, cases) = golden_cases();
    cases.into_iter().find(|case| case["name"] == name).unwrap_or_else(|| panic!("{name}"))
}

/// Some tensors of `source`, under the names that `name` gives them, as a file of their own.
fn write_part(source: &SafeTensors, path: &Path, name: &dyn Fn(&str) -> Option<String>) {
    let part: Vec<_> = source.tensors().filter_map(|t| Some((name(&t.name)?, t))).collect();
    let specs: Vec<TensorSpec> = part
        .iter()
        .map(|(name, t)| TensorSpec { name: name.clone(), dtype: t.dtype, shape: t.shape.clone() })
        .collect();
    write(path, &specs, &[], |spec, sink| {
        let (_, tensor) = part.iter().find(|(name, _)| *name == spec.name).unwrap();
        sink.write_all(&tensor.data)
    })
    .unwrap();
}

/// A model folder with these settings, as text, and the weights that a case names.
fn folder_of(config: &str, weights: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let to = folder.path().join("model.safetensors");
    if weights == "head-alone" {
        let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
        write_part(&source, &to, &|name| (!name.contains("embed_tokens")).then(|| name.to_owned()));
    } else {
        std::fs::copy(golden(&format!("{weights}.safetensors")), to).unwrap();
    }
    folder
}

fn folder_of_case(case: &Value) -> TempDir {
    folder_of(&case["config"].to_string(), case["weights"].as_str().unwrap())
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, Arc::new(ReferenceBackend), &mut |_, _| {})
}

fn last_logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session(Some(tokens.len())).unwrap().extend(tokens).unwrap().logits().unwrap()
}

/// Largest difference from the logits of a case.
fn difference(case: &Value, logits: &[f32]) -> f64 {
    let expected = case["logits"].as_array().unwrap();
    assert_eq!(expected.len(), logits.len());
    let pairs = expected.iter().zip(logits);
    pairs.map(|(e, l)| (e.as_f64().unwrap() - f64::from(*l)).abs()).fold(0.0, f64::max)
}

/// What the model's settings leave open, as `inspect` shows it.
fn assumptions(path: &Path) -> String {
    let inspection = Inspection::of(ModelSource::Path(path), &LoadOptions::default()).unwrap();
    inspection.facts.assumptions.join("\n")
}

/// The error of loading a changed copy of the case `llama`.
fn error_with(changes: &[(&str, Value)]) -> String {
    let mut config = case("llama")["config"].clone();
    for (field, value) in changes {
        config[*field] = value.clone();
    }
    let folder = folder_of(&config.to_string(), "weights");
    load(folder.path()).unwrap_err().to_string()
}

#[test]
fn settings_give_the_logits_of_transformers() {
    let (tokens, cases) = golden_cases();
    let mut wrong = Vec::new();
    for case in &cases {
        let folder = folder_of_case(case);
        let name = case["name"].as_str().unwrap();
        match load(folder.path()) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(model) => {
                // Sums of float32 in another order; activations of 8 bits are the same integers on both sides.
                let difference = difference(case, &last_logits(&model, &tokens));
                println!("{name:32} differs by {difference:.1e}");
                if difference > 1e-4 {
                    wrong.push(format!("{name}: differs by {difference:e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 20, "{} cases", cases.len());
}

#[test]
fn defaults_of_the_class_are_listed_as_assumptions() {
    for (name, said) in [
        ("llama-no-rms-norm-eps", "no rms_norm_eps: 0.000001, the default of LlamaConfig"),
        ("qwen3-no-rms-norm-eps", "no rms_norm_eps: 0.000001, the default of Qwen3Config"),
        ("bitnet-no-rms-norm-eps", "no rms_norm_eps: 0.00001, the default of BitNetConfig"),
        ("bitnet-no-rope-theta", "no rope_theta: 500000, the default of BitNetConfig"),
        ("bitnet-no-hidden-act", "no hidden_act: relu2, the default of BitNetConfig"),
        ("no-max-position-embeddings", "no max_position_embeddings: 2048"),
        ("no-architectures", "no architectures: Qwen3ForCausalLM, by model_type qwen3"),
        ("llama3-no-original-length", "no original_max_position_embeddings"),
        ("dynamic-rope", "plain up to 64 tokens"),
    ] {
        let folder = folder_of_case(&case(name));
        let all = assumptions(folder.path());
        assert!(all.contains(said), "{name}: {all}");
    }
    let complete = folder_of_case(&case("llama"));
    assert_eq!(assumptions(complete.path()), "");
}

#[test]
fn head_that_differs_from_a_tied_table_is_used_and_reported() {
    let folder = folder_of_case(&case("tied-with-other-head"));
    let inspection = Inspection::of(ModelSource::Path(folder.path()), &LoadOptions::default());
    let facts = inspection.unwrap().facts;
    assert!(facts.head.contains("of its own"), "{}", facts.head);
    assert!(facts.assumptions.join("").contains("lm_head.weight differs"), "{facts:?}");
    assert!(!facts.unused_tensors.contains(&"lm_head.weight".to_owned()), "{facts:?}");

    // A head with the table's numbers is the table.
    let same = folder_of_case(&case("tied-with-other-head"));
    let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
    let to = same.path().join("model.safetensors");
    let first = same.path().join("first.safetensors");
    write_part(&source, &first, &|name| (name != "lm_head.weight").then(|| name.to_owned()));
    let head = same.path().join("second.safetensors");
    write_part(&source, &head, &|name| {
        name.contains("embed_tokens").then(|| "lm_head.weight".to_owned())
    });
    std::fs::remove_file(&to).unwrap();
    let index = json!({"weight_map": {"model.norm.weight": "first.safetensors", "lm_head.weight": "second.safetensors"}});
    std::fs::write(same.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let facts = load(same.path()).unwrap().facts().clone();
    assert!(facts.head.starts_with("the embedding table (tied"), "{}", facts.head);
    assert!(facts.unused_tensors.contains(&"lm_head.weight".to_owned()), "{facts:?}");
    assert!(!facts.assumptions.join("").contains("differs"), "{facts:?}");
}

#[test]
fn head_with_the_bytes_of_a_tied_table_is_the_table() {
    let folder = folder_of_case(&case("tied-with-other-head"));
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
    let part = |file: &str, name: &dyn Fn(&str) -> Option<String>| {
        write_part(&source, &folder.path().join(file), name);
    };
    let other = |name: &str| !name.contains("embed_tokens") && name != "lm_head.weight";
    part("rest.safetensors", &|name| other(name).then(|| name.to_owned()));
    part("table.safetensors", &|name| name.contains("embed_tokens").then(|| name.to_owned()));
    part("head.safetensors", &|name| {
        name.contains("embed_tokens").then(|| "lm_head.weight".to_owned())
    });
    let index = json!({"weight_map": {
        "model.norm.weight": "rest.safetensors", "model.embed_tokens.weight": "table.safetensors",
        "lm_head.weight": "head.safetensors",
    }});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let head = || {
        let inspection = Inspection::of(ModelSource::Path(folder.path()), &LoadOptions::default());
        inspection.unwrap().facts.head
    };
    assert!(head().starts_with("the embedding table (tied"), "{}", head());
    // NaN, of any type of floating-point numbers.
    let end_with_nan = |file: &str| {
        let path = folder.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len() - 4;
        bytes[end..].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
    };
    end_with_nan("table.safetensors");
    assert!(head().contains("of its own"), "{}", head());
    end_with_nan("head.safetensors");
    assert!(head().starts_with("the embedding table (tied"), "{}", head());
}

#[test]
fn unused_tensors_are_listed() {
    let facts = load(folder_of_case(&case("llama")).path()).unwrap().facts().clone();
    assert_eq!(facts.unused_tensors.len(), 8, "{:?}", facts.unused_tensors);
    let name = "model.layers.1.self_attn.q_norm.weight";
    assert!(facts.unused_tensors.iter().any(|unused| unused == name), "{facts:?}");
    // The scales of packed layers are read.
    let packed = load(folder_of_case(&case("offline-modules")).path()).unwrap();
    let unused = &packed.facts().unused_tensors;
    assert!(!unused.iter().any(|name| name.contains("scale")), "{unused:?}");
}

#[test]
fn layers_kept_out_of_quantisation_are_reported() {
    let folder = folder_of_case(&case("online-modules"));
    let model = load(folder.path()).unwrap();
    assert!(model.facts().weights.contains("1 layer stays dense"), "{}", model.facts().weights);
    let folder = folder_of_case(&case("offline-modules"));
    let model = load(folder.path()).unwrap();
    assert!(model.facts().weights.contains("2 layers stay dense"), "{}", model.facts().weights);
    // A packed layer cannot be one of them.
    let mut config = case("offline-modules")["config"].clone();
    config["quantization_config"]["modules_to_not_convert"] = json!(["lm_head", "q_proj"]);
    let message = load(folder_of(&config.to_string(), "packed").path()).unwrap_err().to_string();
    assert!(
        message.contains("modules_to_not_convert") && message.contains("q_proj.weight"),
        "{message}"
    );
    // Neither packed nor ternary, and not among them.
    config["quantization_config"]["modules_to_not_convert"] = json!(["lm_head"]);
    let message = load(folder_of(&config.to_string(), "packed").path()).unwrap_err().to_string();
    assert!(message.contains("offline") && message.contains("down_proj.weight"), "{message}");
}

#[test]
fn weights_fact_follows_the_stored_types() {
    let mut config = case("offline-modules")["config"].clone();
    config["quantization_config"]["modules_to_not_convert"] = json!(["lm_head"]);
    let weights = |weights: &str| {
        let folder = folder_of(&config.to_string(), weights);
        let inspection = Inspection::of(ModelSource::Path(folder.path()), &LoadOptions::default());
        inspection.unwrap().facts.weights
    };
    assert_eq!(weights("weights"), "unpacked trits, no weight_scale");
    let scale = "weight_scale multiplies (autobitlinear)";
    assert_eq!(weights("packed"), format!("packed U8, {scale}; unpacked trits, {scale}"));
}

#[test]
fn sequences_beyond_what_is_supported_are_refused() {
    let model = load(folder_of_case(&case("dynamic-rope")).path()).unwrap();
    assert!(model.session(Some(64)).is_ok());
    assert!(model.session(None).unwrap().capacity() <= 64);
    let error = model.session(Some(65)).unwrap_err();
    assert!(matches!(error, InferenceError::Resource { .. }), "{error}");
}

#[test]
fn windows_limit_no_sequence() {
    for name in ["sliding-window", "sliding-window-passed", "sliding-window-unused"] {
        let model = load(folder_of_case(&case(name)).path()).unwrap();
        assert!(model.session(Some(1000)).is_ok(), "{name}");
    }
}

#[test]
fn numbers_of_layers_are_those_of_the_file() {
    for (count, word) in [(1, "model.layers.1."), (3, "model.layers.2.")] {
        let message = error_with(&[("num_hidden_layers", json!(count))]);
        assert!(message.contains("num_hidden_layers") && message.contains(word), "{message}");
    }
}

#[test]
fn settings_that_are_not_obeyed_are_refused_by_name() {
    for (field, value) in [
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["full_attention", "linear_attention"])),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 2.0})),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 1e4}})),
        ("rope_scaling", json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
        ("partial_rotary_factor", json!(0.5)),
        ("model_type", json!("qwen3")),
        ("eos_token_id", json!(-2)),
        ("rms_norm_eps", json!({"__float__": "Infinity"})),
    ] {
        let message = error_with(&[(field, value.clone())]);
        let named = field.trim_start_matches("rope_scaling").trim_start_matches("rope_parameters");
        assert!(message.contains("config.json") && message.contains(named), "{field}: {message}");
    }
    // Layers that all attend to everything are no news.
    let mut config = case("llama")["config"].clone();
    config["layer_types"] = json!(["full_attention", "full_attention"]);
    assert!(load(folder_of(&config.to_string(), "weights").path()).is_ok());
}

#[test]
fn numbers_of_python_in_config_json_are_read() {
    let (tokens, _) = golden_cases();
    let llama = case("llama");
    let text = llama["config"].to_string();
    let text = format!("{}, \"x\": [0.0, Infinity, -Infinity, NaN]}}", &text[..text.len() - 1]);
    let model = load(folder_of(&text, "weights").path()).unwrap();
    assert!(difference(&llama, &last_logits(&model, &tokens)) < 1e-4);
    let used = text.replace("\"rms_norm_eps\":0.00001", "\"rms_norm_eps\":NaN");
    assert_ne!(used, text);
    let message = load(folder_of(&used, "weights").path()).unwrap_err().to_string();
    assert!(message.contains("rms_norm_eps") && message.contains("NaN"), "{message}");
}

/// The folder of the case `llama`, its tensors in two files below `sub`, and what `change` makes of the index.
fn indexed(sub: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> TempDir {
    let folder = folder_of_case(&case("llama"));
    let whole = folder.path().join("model.safetensors");
    let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
    std::fs::remove_file(whole).unwrap();
    std::fs::create_dir_all(folder.path().join(sub)).unwrap();
    let mut map = serde_json::Map::new();
    for (number, first) in [(1, true), (2, false)] {
        let file = format!("{sub}model-{number:05}-of-00002.safetensors");
        let path = folder.path().join(&file);
        write_part(&source, &path, &|name| {
            (name.contains("mlp") == first).then(|| name.to_owned())
        });
        for name in source.names().filter(|name| name.contains("mlp") == first) {
            map.insert(name.to_owned(), file.clone().into());
        }
    }
    change(&mut map);
    let index = json!({"metadata": {}, "weight_map": map});
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    folder
}

#[test]
fn tensors_of_a_sharded_model_are_those_of_its_files() {
    let (tokens, _) = golden_cases();
    let llama = case("llama");
    let names_more = indexed("", |map| {
        let file = map["model.norm.weight"].clone();
        map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), file);
    });
    let lacks_one = indexed("", |map| {
        map.remove("model.layers.0.mlp.down_proj.weight").unwrap();
    });
    let wrong_file = indexed("", |map| {
        let file = map["model.norm.weight"].clone();
        map.insert("model.layers.0.mlp.down_proj.weight".into(), file);
    });
    let below = indexed("weights/", |_| {});
    for folder in [&names_more, &lacks_one, &wrong_file, &below] {
        let model = load(folder.path()).unwrap();
        let difference = difference(&llama, &last_logits(&model, &tokens));
        assert!(difference < 1e-4, "{difference:e}");
    }
    assert!(assumptions(names_more.path()).contains("rotary_emb.inv_freq"));
    assert_eq!(assumptions(below.path()), "");
}

#[test]
fn missing_tensors_have_the_names_of_the_folder() {
    let folder = folder_of_case(&case("llama"));
    let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
    let to = folder.path().join("model.safetensors");
    std::fs::remove_file(&to).unwrap();
    let absent = "model.layers.0.mlp.down_proj.weight";
    write_part(&source, &to, &|name| (name != absent).then(|| name.to_owned()));
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains(absent) && !message.contains("blk."), "{message}");

    // An index that names it says in which file it should be.
    let names = "model.layers.0.mlp.down_proj.weight";
    let index: Value = json!({"weight_map": {names: "model.safetensors"}});
    std::fs::write(folder.path().join("x.safetensors.index.json"), index.to_string()).unwrap();
    let message = load(&folder.path().join("x.safetensors.index.json")).unwrap_err().to_string();
    assert!(message.contains(names) && message.contains("model.safetensors"), "{message}");
    assert!(message.contains("the index puts there"), "{message}");
}

#[test]
fn same_tensor_with_other_contents_in_two_files_is_refused() {
    let folder = indexed("", |_| {});
    let source = SafeTensors::open(&golden("weights.safetensors")).unwrap();
    let path = folder.path().join("model-00002-of-00002.safetensors");
    write_part(&source, &path, &|name| match name {
        "model.layers.1.mlp.down_proj.weight" => Some("model.layers.0.mlp.down_proj.weight".into()),
        name => (!name.contains("mlp")).then(|| name.to_owned()),
    });
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("down_proj") && message.contains("another file"), "{message}");
}

#[test]
fn rotation_tables_grow_with_use_and_keep_their_bits() {
    let model = load(folder_of_case(&case("llama")).path()).unwrap();
    let decoder = model.decoder();
    let before = decoder.pool().get_metrics().total_allocated;
    let long = Session::new(decoder, 1 << 20, KvType::F16).unwrap();
    let cache = (1u64 << 20) * long.cache().bytes_per_position() as u64;
    let taken = decoder.pool().get_metrics().total_allocated - before;
    assert!(taken < cache + (1 << 20), "{taken} bytes beside a cache of {cache}");
    drop(long);

    let tokens: Vec<u32> = (0..1500).map(|index| index * 7 % 24).collect();
    let mut session = Session::new(decoder, 3000, KvType::F32).unwrap();
    session.extend(&tokens[..1000]).unwrap().logits().unwrap();
    let grown = session.extend(&tokens[1000..]).unwrap().logits().unwrap();
    let mut cache = decoder.new_cache(3000, KvType::F32).unwrap();
    let mut last = Vec::new();
    let parts = [&tokens[..1000], &tokens[1000..]];
    for chunk in parts.iter().flat_map(|part| part.chunks(bitnet_inference::PREFILL_CHUNK)) {
        let h = decoder.forward(chunk, &mut cache).unwrap();
        let h = h.narrow(0, chunk.len() - 1..chunk.len()).unwrap();
        last = decoder.logits(&h).unwrap().f32().unwrap().to_vec();
    }
    assert_eq!(grown, last);
}
