//! Every field that other programs define has a decision, the decisions hold in the loaders, and the page about them is
//! what the tables say.

use std::collections::HashSet;
use std::path::PathBuf;

use bitnet_formats::gguf::{GgufFile, GgufWriter, Value as GgufValue};
use serde_json::{Map, Value, json};

use super::*;
use crate::loader::HfConfig;

mod page;
mod tokenizer;

const CLASSES: [&str; 6] = [
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "BitNetForCausalLM",
    "BitnetForCausalLM",
    "Gemma3ForCausalLM",
];

fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The fields that other programs define, as `scripts/golden/known_fields.py` lists them.
fn known() -> Value {
    let path = in_repository("bitnet-inference/tests/data/known_fields.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn table(file: &str, part: &str) -> &'static [Fields] {
    let found = tables().into_iter().find(|(f, p, _)| (*f, *p) == (file, part));
    found.unwrap_or_else(|| panic!("no table {file} {part}")).2
}

/// The names of an object, or the texts of a list.
fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields.keys().cloned().collect(),
        _ => value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().into()).collect(),
    }
}

/// The fields of the list that no table has.
fn undecided(known: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    let mut look = |what: &str, decided: &dyn Fn(&str) -> bool, names: Vec<String>| {
        missing.extend(
            names.iter().filter(|name| !decided(name)).map(|name| format!("{what} {name}")),
        );
    };
    for (class, fields) in known["config.json"].as_object().unwrap() {
        look(class, &|name| config::decision_of(class, name).is_some(), names(fields));
    }
    for (list, file, part) in [
        ("rope_parameters", "config.json", "rope_parameters, rope_scaling"),
        ("quantization_config", "config.json", "quantization_config"),
        ("generation_config.json", "generation_config.json", ""),
        ("tokenizer_config.json", "tokenizer_config.json", ""),
        ("special_tokens_map.json", "special_tokens_map.json", ""),
        ("adapter_config.json", "adapter_config.json", ""),
    ] {
        let table = table(file, part);
        look(list, &|name| decision(&[table], name).is_some(), names(&known[list]));
    }
    for (part, types) in known["tokenizer.json"].as_object().unwrap() {
        let table = table(
            "tokenizer.json",
            match part.as_str() {
                "" => "the file",
                "truncation" | "padding" => "truncation, padding",
                other => other,
            },
        );
        let typed = !matches!(part.as_str(), "" | "added_tokens" | "truncation" | "padding");
        for (name, fields) in types.as_object().unwrap() {
            let mut all = vec![name.clone()];
            if typed {
                all.extend(names(fields).iter().map(|field| format!("{name}.{field}")));
            }
            look(
                &format!("tokenizer.json {part}"),
                &|name| decision(&[table], name).is_some(),
                all,
            );
        }
    }
    for key in names(&known["gguf"]) {
        let (tables, name): (Vec<&[Fields]>, _) = match key.strip_prefix("{arch}.") {
            Some(name) => (vec![table("GGUF", "the architecture (after its name)")], name),
            None => {
                (vec![table("GGUF", "the file"), table("GGUF", "the vocabulary")], key.as_str())
            }
        };
        if decision(&tables, name).is_none() {
            missing.push(format!("gguf {key}"));
        }
    }
    missing
}

#[test]
fn every_known_field_has_a_decision() {
    let missing = undecided(&known());
    assert!(
        missing.is_empty(),
        "decide about these in bitnet-inference/src/known_fields: {missing:#?}"
    );
}

#[test]
fn planted_fields_without_a_decision_are_reported() {
    let mut known = known();
    known["config.json"]["Qwen3ForCausalLM"]["planted_scale"] = json!(1.0);
    known["generation_config.json"]["planted_penalty"] = json!(null);
    known["adapter_config.json"]["planted_variant"] = json!(false);
    known["tokenizer.json"]["model"]["BPE"]["planted_option"] = json!(false);
    known["tokenizer.json"]["normalizer"]["PlantedType"] = json!({});
    known["rope_parameters"].as_array_mut().unwrap().push(json!("planted_rope"));
    known["gguf"].as_array_mut().unwrap().push(json!("{arch}.attention.planted_cap"));
    known["gguf"].as_array_mut().unwrap().push(json!("tokenizer.ggml.planted_flag"));
    let mut missing = undecided(&known);
    missing.sort();
    assert_eq!(
        missing,
        [
            "Qwen3ForCausalLM planted_scale",
            "adapter_config.json planted_variant",
            "generation_config.json planted_penalty",
            "gguf tokenizer.ggml.planted_flag",
            "gguf {arch}.attention.planted_cap",
            "rope_parameters planted_rope",
            "tokenizer.json model BPE.planted_option",
            "tokenizer.json normalizer PlantedType",
        ]
    );
}

/// A `config.json` of a class in which every field has the class's default.
fn defaults_of(class: &str, known: &Value) -> Map<String, Value> {
    let mut fields = known["config.json"][class].as_object().unwrap().clone();
    fields.insert("architectures".into(), json!([class]));
    fields.insert("transformers_version".into(), json!("5.24.0"));
    fields
}

fn parse(fields: Map<String, Value>) -> crate::Result<HfConfig> {
    HfConfig::parse(&Value::Object(fields), "config.json")
}

#[test]
fn class_defaults_change_nothing() {
    let known = known();
    for class in CLASSES {
        let config = parse(defaults_of(class, &known)).unwrap();
        assert_eq!(config.assumptions, Vec::<String>::new(), "{class}");
    }
    let lines = generation_config(&known["generation_config.json"], "g").unwrap();
    assert_eq!(lines, Vec::<String>::new());
    adapter_config(&known["adapter_config.json"], "a").unwrap();
}

#[test]
fn missing_fields_get_the_default_of_their_class() {
    let known = known();
    for class in CLASSES {
        // Values that differ from the defaults, so that one default made from another field shows.
        let mut base = defaults_of(class, &known);
        for name in ["hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"] {
            base[name] = json!(base[name].as_u64().unwrap() * 2);
        }
        let mut filled = Vec::new();
        for (name, default) in known["config.json"][class].as_object().unwrap() {
            let (mut without, mut explicit) = (base.clone(), base.clone());
            without.remove(name);
            if name == "architectures" || default.is_null() {
                continue;
            }
            explicit.insert(name.clone(), default.clone());
            let Ok(got) = parse(without) else { continue };
            let wanted = parse(explicit).unwrap();
            assert_eq!(got.model, wanted.model, "{class} without {name}");
            filled.push(name.as_str());
        }
        for name in ["rms_norm_eps", "rope_theta", "hidden_act", "attention_bias"] {
            if known["config.json"][class].get(name).is_none() {
                continue;
            }
            assert!(filled.contains(&name), "{class} needs {name}: {filled:?}");
        }
    }
}

/// A value at which a field with these inert values is not inert, of their kind where there is one.
fn odd_value(inert: &[Inert]) -> Value {
    let candidates = [json!(true), json!(false), json!(7.5), json!("planted"), json!(["planted"])];
    let odd: Vec<&Value> = candidates.iter().filter(|value| !is_inert(value, inert)).collect();
    let same_kind = |value: &&&Value| match inert.first() {
        Some(Inert::Is(_)) => value.is_boolean(),
        Some(Inert::Number(_)) => value.is_number(),
        Some(Inert::Text(_)) => value.is_string(),
        Some(Inert::Empty) | None => true,
    };
    (*odd.iter().find(same_kind).unwrap_or(&odd[0])).clone()
}

/// Checks the decisions of a table against what `outcome` makes of a file
/// with one field changed: its assumptions, or its error.
fn check_table(
    fields: impl Iterator<Item = (&'static str, Decision)>,
    outcome: impl Fn(&str, Value) -> Result<Vec<String>, String>,
) {
    for (name, decision) in fields {
        let real = name.replace('*', "planted");
        match decision {
            Decision::RefusedUnless(inert, why) => {
                let error = outcome(&real, odd_value(inert)).expect_err(&real);
                assert!(error.contains(real.as_str()), "{error}");
                assert!(error.contains(why) || !error.contains("is not supported:"), "{error}");
                for value in inert.iter().map(inert_value).chain([Value::Null]) {
                    assert!(outcome(&real, value.clone()).is_ok(), "{real} {value}");
                }
            }
            Decision::Assumption(inert, instead) => {
                let lines = outcome(&real, odd_value(inert)).unwrap();
                let listed =
                    |line: &&String| line.contains(real.as_str()) && line.contains(instead);
                assert_eq!(lines.iter().filter(listed).count(), 1, "{real}: {lines:?}");
                for value in inert.iter().map(inert_value).chain([Value::Null]) {
                    let lines = outcome(&real, value.clone()).unwrap();
                    assert!(!lines.iter().any(|line| line.contains(instead)), "{value} {lines:?}");
                }
            }
            Decision::NoEffect(_) => {
                let lines = outcome(&real, json!("planted")).unwrap();
                assert!(!lines.iter().any(|line| line.contains(real.as_str())), "{lines:?}");
            }
            Decision::Read(_) => {}
        }
    }
}

fn inert_value(inert: &Inert) -> Value {
    match *inert {
        Inert::Is(value) => json!(value),
        Inert::Number(value) => json!(value),
        Inert::Text(value) => json!(value),
        Inert::Empty => json!([]),
    }
}

#[test]
fn config_fields_are_refused_or_listed_as_decided() {
    let known = known();
    for class in CLASSES {
        let outcome = |name: &str, value: Value| {
            let mut fields = defaults_of(class, &known);
            fields.insert(name.into(), value);
            parse(fields).map(|c| c.assumptions).map_err(|e| e.to_string())
        };
        let tables = config::tables_of(class);
        for (index, table) in tables.iter().enumerate() {
            let own = named(table).filter(|(name, _)| decision(&tables[..index], name).is_none());
            check_table(own, outcome);
        }
        let inside = |name: &'static str| {
            let known = &known;
            move |field: &str, value: Value| {
                let mut fields = defaults_of(class, known);
                let mut own = json!({"rope_theta": 1e4, "quant_method": "bitnet", field: value});
                // Of each kind of layers.
                if class == "Gemma3ForCausalLM" && name == "rope_parameters" {
                    own = json!({ "full_attention": own });
                }
                fields.insert(name.into(), own);
                fields["rope_theta"] = json!(1e4);
                let unknown = |line: &String| !line.contains("not known to this program");
                let lines = |c: HfConfig| c.assumptions.into_iter().filter(unknown).collect();
                parse(fields).map(lines).map_err(|e| e.to_string())
            }
        };
        let rope = table("config.json", "rope_parameters, rope_scaling");
        check_table(named(rope), inside("rope_parameters"));
        check_table(named(rope), inside("rope_scaling"));
        let bitnet = table("config.json", "quantization_config");
        check_table(named(bitnet), inside("quantization_config"));
    }
}

#[test]
fn read_config_fields_refuse_values_of_another_kind() {
    let known = known();
    for (name, decision) in named(table("config.json", "every class")) {
        // Objects are checked by their own fields; class and type stand in for each other.
        let objects = ["rope_scaling", "rope_parameters", "quantization"];
        let other = [&objects[..], &["architectures", "model_type"]].concat().contains(&name);
        if decision == Decision::Read("") && !other {
            let mut fields = defaults_of("LlamaForCausalLM", &known);
            fields.insert(name.into(), json!({"planted": 1}));
            let error = parse(fields).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

#[test]
fn unknown_fields_are_listed_and_many_are_counted() {
    let mut fields = defaults_of("LlamaForCausalLM", &known());
    fields.insert("planted_one".into(), json!(1));
    fields.insert("planted_null".into(), json!(null));
    let lines = parse(fields.clone()).unwrap().assumptions;
    assert_eq!(lines, ["config.json: field \"planted_one\" is not known to this program"]);
    for index in 0..100 {
        fields.insert(format!("x{index}\n{}", "y".repeat(1000)), json!(1));
    }
    let lines = parse(fields).unwrap().assumptions;
    assert_eq!(lines.len(), MAX_UNKNOWN + 1);
    assert!(lines.iter().all(|line| line.len() < 200 && !line.contains('\n')), "{lines:?}");
    assert_eq!(lines[MAX_UNKNOWN], "config.json: 85 more fields are not known to this program");
}

#[test]
fn generation_fields_are_listed_as_decided() {
    let outcome = |name: &str, value: Value| {
        generation_config(&json!({ name: value }), "generation_config.json")
            .map_err(|e| e.to_string())
    };
    check_table(named(generation::FIELDS), outcome);
    let lines = outcome("planted", json!(1)).unwrap();
    assert_eq!(lines, ["generation_config.json: field \"planted\" is not known to this program"]);
}

#[test]
fn adapter_fields_are_refused_as_decided() {
    let outcome = |name: &str, value: Value| {
        adapter_config(&json!({ name: value }), "adapter_config.json")
            .map(|()| Vec::new())
            .map_err(|e| e.to_string())
    };
    check_table(named(table("adapter_config.json", "")), outcome);
    assert!(outcome("init_lora_weights", json!("pissa_niter_4")).is_err());
    assert!(outcome("use_planted", json!(false)).is_ok());
    assert!(outcome("use_planted", json!(true)).is_err());
}

fn gguf_outcome(arch: &str, key: &str, value: GgufValue<'_>) -> Result<Vec<String>, String> {
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", GgufValue::String(arch)).unwrap();
    writer.put(key, value).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path, |_, _| Ok(())).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let refused = gguf_refusals(file.metadata(), arch);
    let listed = gguf_assumptions(file.metadata(), arch);
    assert_eq!(refused.is_err(), listed.is_err());
    listed.map_err(|e| e.to_string())
}

/// A JSON value as one of GGUF; `None` for what the format does not have.
fn as_gguf(value: &Value) -> Option<GgufValue<'_>> {
    match value {
        Value::Bool(flag) => Some(GgufValue::Bool(*flag)),
        Value::Number(number) => Some(GgufValue::F32(number.as_f64()? as f32)),
        Value::String(text) => Some(GgufValue::String(text)),
        _ => None,
    }
}

#[test]
fn gguf_keys_are_refused_or_listed_as_decided() {
    for part in ["the file", "the vocabulary", "the architecture (after its name)"] {
        let own = part.starts_with("the architecture");
        check_table(named(table("GGUF", part)), |name, value| {
            let key = if own { format!("bitnet-b1.58.{name}") } else { name.into() };
            let Some(value) = as_gguf(&value) else { return Ok(Vec::new()) };
            gguf_outcome("bitnet-b1.58", &key, value)
        });
    }
    for arch in ["llama", "qwen3", "bitnet"] {
        let lines = gguf_outcome(arch, &format!("{arch}.planted"), GgufValue::U32(1)).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].ends_with(&format!("field \"{arch}.planted\" is not known to this program"))
        );
        assert_eq!(gguf_outcome(arch, "planted", GgufValue::U32(1)).unwrap().len(), 1);
        assert_eq!(gguf_outcome(arch, "gemma.scale", GgufValue::U32(1)).unwrap().len(), 1);
        let error =
            gguf_outcome(arch, &format!("{arch}.expert_count"), GgufValue::U8(8)).unwrap_err();
        assert!(error.contains("expert_count: 8 is not supported"), "{error}");
        assert!(
            gguf_outcome(arch, &format!("{arch}.expert_count"), GgufValue::U8(0))
                .unwrap()
                .is_empty()
        );
        let scale = gguf_outcome(arch, &format!("{arch}.attention.scale"), GgufValue::F32(0.1));
        assert!(scale.unwrap_err().contains("0.1 is not supported"));
    }
}

#[test]
fn tables_have_each_field_once() {
    for (file, part, fields) in tables() {
        let mut seen = HashSet::new();
        for (name, _) in named(fields) {
            assert!(seen.insert(name), "{file} {part} {name}");
        }
    }
}
