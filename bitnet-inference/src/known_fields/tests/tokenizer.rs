//! The fields of a tokenizer's files.

use super::*;
use crate::tokenizer::Tokenizer;

#[test]
fn tokenizer_config_fields_are_listed_as_decided() {
    let outcome = |name: &str, value: Value| {
        tokenizer_config(&json!({ name: value }), "tokenizer_config.json", None)
            .map_err(|e| e.to_string())
    };
    check_table(named(table("tokenizer_config.json", "")), outcome);
    assert!(outcome("image_token", json!("<image>")).unwrap().is_empty(), "a name for templates");
    assert_eq!(outcome("planted", json!("x")).unwrap().len(), 1);
}

#[test]
fn tokenizer_config_is_compared_with_the_tokenizer() {
    let id_of = |token: &str| ["<s>", "</s>"].iter().position(|t| *t == token).map(|id| id as u32);
    let view = TokenizerView { id_of: &id_of, puts: Some((true, false)) };
    let lines = |value: Value| tokenizer_config(&value, "t", Some(&view)).unwrap();
    assert!(lines(json!({"add_bos_token": true, "add_eos_token": false})).is_empty());
    assert_eq!(
        lines(json!({"add_bos_token": false})),
        [
            "t: add_bos_token is false, but tokenizer.json puts a token before a text: tokenizer.json is followed"
        ]
    );
    assert_eq!(
        lines(json!({"add_eos_token": true})),
        [
            "t: add_eos_token is true, but tokenizer.json puts no token after a text: tokenizer.json is followed"
        ]
    );
    assert!(lines(json!({"added_tokens_decoder": {"0": {"content": "<s>"}}})).is_empty());
    assert_eq!(
        lines(json!({"added_tokens_decoder": {"0": {"content": "</s>"}, "7": {"content": "<x>"}}})),
        [
            "t: added_tokens_decoder: \"</s>\" has id 0, in tokenizer.json 1: tokenizer.json is followed",
            "t: added_tokens_decoder: \"<x>\" (id 7) is not in tokenizer.json: tokenizer.json is followed"
        ]
    );
    let missing =
        "t: additional_special_tokens: \"<x>\" is not in tokenizer.json: it is read as text";
    for list in [json!(["<s>", "<x>"]), json!([{"content": "<x>"}]), json!({"x_token": "<x>"})] {
        assert_eq!(lines(json!({"additional_special_tokens": list})), [missing]);
    }
    let many: Vec<String> = (0..50).map(|n| format!("<{n}>")).collect();
    assert_eq!(lines(json!({"extra_special_tokens": many})).len(), 5);
}

#[test]
fn special_tokens_map_is_compared_with_tokenizer_config() {
    let beside = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>"});
    let lines = |value: Value| special_tokens_map(&value, "m", Some(&beside), None).unwrap();
    assert!(
        lines(json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "p"}))
            .is_empty()
    );
    assert_eq!(
        lines(json!({"eos_token": "<|end|>"})),
        ["m: eos_token is \"<|end|>\", in tokenizer_config.json \"</s>\": the former is taken"]
    );
    let beside = json!({"eos_token": "</s>", "added_tokens_decoder": {}});
    assert_eq!(
        special_tokens_map(&json!({"eos_token": "<|end|>"}), "m", Some(&beside), None).unwrap(),
        ["m: eos_token is \"<|end|>\", in tokenizer_config.json \"</s>\": the latter is taken"]
    );
    assert_eq!(
        lines(json!({"planted": "x"})),
        ["m: field \"planted\" is not known to this program"]
    );
}

/// A small tokenizer.json.
fn tokenizer_file() -> Value {
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    })
}

fn load(file: &Value) -> Result<Vec<String>, String> {
    let loaded = Tokenizer::from_json_bytes(file.to_string().as_bytes(), "tokenizer.json");
    loaded.map(|t| t.assumptions().to_vec()).map_err(|e| e.to_string())
}

#[test]
fn types_of_tokenizer_parts_are_read_or_refused_as_decided() {
    let known = known();
    for kind in ["model", "normalizer", "pre_tokenizer", "post_processor", "decoder"] {
        let table = table("tokenizer.json", kind);
        for (name, fields) in known["tokenizer.json"][kind].as_object().unwrap() {
            let mut file = tokenizer_file();
            let mut part = fields.clone();
            part["type"] = json!(name);
            match (kind, name.as_str()) {
                ("model", "BPE") => part = file["model"].clone(),
                ("model", _) => part["vocab"] = json!({"a": 0}),
                ("post_processor", "TemplateProcessing") => part["special_tokens"] = json!({}),
                _ => {}
            }
            file[kind] = part;
            let read = matches!(decision(&[table], name), Some(Decision::Read(_)));
            let outcome = load(&file);
            assert_eq!(outcome.is_ok(), read, "{kind} {name}: {outcome:?}");
            if let Ok(lines) = outcome {
                assert!(lines.is_empty(), "{lines:?}");
            }
        }
    }
}

#[test]
fn tokenizer_json_fields_are_listed_or_refused() {
    let with = |pointer: &str, name: &str, value: Value| {
        let mut file = tokenizer_file();
        file.pointer_mut(pointer).unwrap()[name] = value;
        load(&file)
    };
    let truncation =
        json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    let lines = with("", "truncation", truncation).unwrap();
    assert!(lines.len() == 1 && lines[0].contains("texts are read whole"), "{lines:?}");
    assert_eq!(with("", "padding", json!({"strategy": "BatchLongest"})).unwrap().len(), 1);
    let unknown =
        |path: &str| [format!("tokenizer.json: field {path:?} is not known to this program")];
    assert_eq!(with("", "planted", json!(1)).unwrap(), unknown("planted"));
    assert_eq!(with("/model", "planted", json!(1)).unwrap(), unknown("model.BPE.planted"));
    assert_eq!(
        with("/decoder", "planted", json!(1)).unwrap(),
        unknown("decoder.ByteLevel.planted")
    );
    for (field, value) in [("dropout", json!(0.1)), ("continuing_subword_prefix", json!("##"))] {
        let error = with("/model", field, value).unwrap_err();
        assert!(error.contains("tokenizer.json") && error.contains("model"), "{error}");
    }
}

#[test]
fn tokenizer_json_fields_of_too_many_values_are_refused() {
    let many = format!("[{}0]", "0,".repeat(400_000));
    let names: Vec<String> = (0..400_000).map(|n| format!("\"n{n}\":0")).collect();
    let names = names.join(",");
    let file = tokenizer_file().to_string();
    for (place, field) in [("{", ""), ("\"model\":{", "model.")] {
        for inserted in [
            format!("\"truncation\":{many},"),
            format!("\"planted\":{{\"dropout\":{many}}},"),
            format!("{names},"),
        ] {
            let file = file.replacen(place, &format!("{place}{inserted}"), 1);
            let error = Tokenizer::from_json_bytes(file.as_bytes(), "tokenizer.json").unwrap_err();
            let error = error.to_string();
            let name = inserted.split('"').nth(1).unwrap().trim_end_matches('0');
            assert!(error.contains(&format!("tokenizer.json: {field}{name}")), "{error}");
            assert!(error.contains("more than 327680 values"), "{error}");
        }
    }
    // Fields are still checked where the file is long.
    let long = file.replacen('{', &format!("{{\"truncation\":[{}0],", "0,".repeat(100_000)), 1);
    let long = Tokenizer::from_json_bytes(long.as_bytes(), "tokenizer.json").unwrap();
    assert!(long.assumptions()[0].contains("texts are read whole"), "{:?}", long.assumptions());
}
