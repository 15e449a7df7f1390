//! Tokenizer files that contradict themselves, or try to make the program
//! panic or stand still, are refused with an error.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::borrow::Cow;

use bitnet_inference::tokenizer::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerError};
use serde_json::{Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// A small valid tokenizer.json: the byte alphabet of ASCII letters, one merge, one special token.
fn file() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 5, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "!": 4}, "merges": [["a", "b"]]}
    })
}

fn load(value: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_json_bytes(value.to_string().as_bytes(), "hostile.json")
}

/// The file with one value exchanged, by JSON pointer; a pointer to nothing adds the last name.
fn with(pointer: &str, value: Value) -> Value {
    let mut file = file();
    if let Some(place) = file.pointer_mut(pointer) {
        *place = value;
        return file;
    }
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match file.pointer_mut(parent).unwrap() {
        Value::Object(fields) => drop(fields.insert(name.into(), value)),
        Value::Array(items) => items.push(value),
        _ => unreachable!(),
    }
    file
}

#[track_caller]
fn refused(value: &Value) {
    match load(value) {
        Err(TokenizerError::Library { problem, .. }) => panic!("left to the library: {problem}"),
        Err(error) => assert!(error.to_string().starts_with("hostile.json: "), "{error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn the_file_itself_is_valid() {
    let tokenizer = load(&file()).unwrap();
    assert_eq!(tokenizer.encode("ab a!", PLAIN).unwrap(), [5, 2, 3, 0, 4]);
    assert_eq!(tokenizer.decode(&[5, 2, 3, 0, 4], true).unwrap(), "ab a!");
}

#[test]
fn what_is_not_a_tokenizer_is_refused() {
    for bytes in [
        &b""[..],
        b"{",
        b"null",
        b"[]",
        b"\"x\"",
        b"\xff\xfe",
        b"{}",
        b"{\"model\": {}}",
        b"\xef\xbb\xbf{}",
    ] {
        assert!(Tokenizer::from_json_bytes(bytes, "hostile.json").is_err());
    }
    let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert!(matches!(
        Tokenizer::from_json_bytes(deep.as_bytes(), "x"),
        Err(TokenizerError::Syntax { .. })
    ));
    assert!(matches!(
        Tokenizer::from_json_file(std::path::Path::new("/nowhere.json")),
        Err(TokenizerError::Io { .. })
    ));
    assert!(Tokenizer::from_json_file(std::path::Path::new("/dev/zero")).is_err());
    assert!(Tokenizer::from_json_file(std::path::Path::new("/")).is_err());
}

#[test]
fn truncation_and_padding_in_the_file_are_not_applied() {
    let mut value = with(
        "/truncation",
        json!({"max_length": 1, "stride": 7, "strategy": "LongestFirst", "direction": "Right"}),
    );
    value["padding"] = json!({"strategy": {"Fixed": 100}, "direction": "Left", "pad_id": 9, "pad_type_id": 0, "pad_token": "?", "pad_to_multiple_of": 0});
    assert_eq!(load(&value).unwrap().encode("ab a!", PLAIN).unwrap(), [5, 2, 3, 0, 4]);
}

#[test]
fn ids_must_be_sound() {
    refused(&with("/model/vocab/b", json!(0)));
    refused(&with("/model/vocab/b", json!(4_294_967_295u32)));
    refused(&with("/model/vocab/b", json!(4_294_967_296u64)));
    refused(&with("/model/vocab/b", json!(-1)));
    refused(&with("/model/vocab/b", json!(1.5)));
    refused(&with("/model/vocab/b", json!("1")));
    refused(&with("/added_tokens/0/id", json!(2)));
    refused(&with("/added_tokens/0/id", json!(77)));
    refused(&with("/added_tokens/0/id", json!(4_294_967_295u32)));
    refused(&with("/added_tokens/0/content", json!("")));
    refused(&with("/added_tokens/0/content", json!("ab")));
    let token =
        |id, content| json!({"id": id, "content": content, "special": true, "normalized": false});
    refused(&with("/added_tokens/-", token(5, "<t>")));
    refused(&with("/added_tokens/-", token(6, "<s>")));
}

#[test]
fn merges_must_name_tokens() {
    for merges in [
        json!([["a", "!"]]),
        json!([["a", "c"]]),
        json!([["c", "a"]]),
        json!(["a c"]),
        json!(["ab"]),
        json!(["a b b"]),
        json!([["a"]]),
        json!([["a", "b", "!"]]),
        json!("a b"),
        json!(null),
        json!([[["ab".repeat(10_000)], "b"]]),
        json!([["ab".repeat(10_000), "b"]]),
    ] {
        refused(&with("/model/merges", merges));
    }
    assert!(load(&with("/model/merges", json!(["#version: 0.2", "a b"]))).is_ok());
    refused(&with("/model/unk_token", json!("<unk>")));
    refused(&with("/model/dropout", json!(0.5)));
    refused(&with("/model/continuing_subword_prefix", json!("##")));
    refused(&with("/model/type", json!("WordPiece")));
}

#[test]
fn decoder_steps_on_the_joined_text_are_refused() {
    let replace =
        |from: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": "x"});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let fuse = json!({"type": "Fuse"});
    let bytes = json!({"type": "ByteLevel"});
    for steps in [
        [&bytes, &replace("ab")],
        [&bytes, &replace("a")],
        [&fuse, &replace("\n ")],
        [&strip, &fuse],
    ] {
        refused(&with("/decoder", json!({"type": "Sequence", "decoders": steps})));
    }
    for steps in [[&replace("ab"), &fuse], [&fuse, &replace("a")], [&fuse, &strip]] {
        let decoder = json!({"type": "Sequence", "decoders": steps});
        assert!(load(&with("/decoder", decoder.clone())).is_ok(), "{decoder}");
    }
}

#[test]
fn surrounding_parts_must_be_sound() {
    for (pointer, part) in [
        ("/post_processor/single/0/SpecialToken/id", json!("<absent>")),
        ("/post_processor/special_tokens", json!({})),
        ("/post_processor/special_tokens/<s>/ids", json!([99])),
        ("/post_processor/special_tokens/<s>/ids", json!([4_294_967_296u64])),
        ("/post_processor/single", json!([])),
        ("/post_processor", json!({"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]})),
        (
            "/decoder",
            json!({"type": "Strip", "content": " ", "start": 4_000_000_000u64, "stop": 4_000_000_000u64}),
        ),
        (
            "/decoder",
            json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        ),
        ("/decoder", json!(null)),
        ("/decoder", json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"})),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA/w=="})),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(?=(a+)+)$"}, "content": "x"}),
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "x".repeat(100_000)}),
        ),
        ("/normalizer", json!({"type": "Prepend", "prepend": ""})),
        ("/normalizer", json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""})),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(a{1000}){1000}{1000}"}, "behavior": "Isolated", "invert": false}),
        ),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(".repeat(8000) + &")".repeat(8000)}, "behavior": "Isolated", "invert": false}),
        ),
        ("/pre_tokenizer", json!({"type": "Nonsense"})),
        ("/version", json!("2.0")),
    ] {
        refused(&with(pointer, part));
    }
    let nested = (0..60).fold(
        json!({"type": "Digits", "individual_digits": true}),
        |part, _| json!({"type": "Sequence", "pretokenizers": [part]}),
    );
    refused(&with("/pre_tokenizer", nested));
}

#[test]
fn patterns_that_explode_end_in_an_error_or_in_time() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let text = "a".repeat(30_000) + "!";
    for pattern in ["(a+)+$", "(a|a)*$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(?:a?){40}a{40}b"] {
        let tokenizer = match load(&with("/pre_tokenizer", split(pattern))) {
            Ok(tokenizer) => tokenizer,
            Err(_) => continue,
        };
        let _either = tokenizer.encode(&text, PLAIN);
    }
    for pattern in [r"(?:(?=a)a+)+(?!.)b", r"(a+)+\1b", r"((?!b)a*)*(?=c)d"] {
        let tokenizer = load(&with("/pre_tokenizer", split(pattern))).unwrap();
        match tokenizer.encode(&text, PLAIN) {
            Err(TokenizerError::PatternTooSlow { limit, .. }) => assert!(limit <= 1_000_000),
            other => panic!("{pattern}: {other:?}"),
        }
    }
}

#[test]
fn long_texts_are_encoded() {
    let tokenizer = load(&file()).unwrap();
    for unit in ["a", "ab", " ", "!", "ab "] {
        let text = unit.repeat(100_000);
        let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

/// A small valid GGUF vocabulary of each model.
fn gpt2() -> GgufVocabulary<'static> {
    GgufVocabulary {
        file: "hostile.gguf".into(),
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: ["a", "b", "ab", "Ġ", "<s>"].map(Cow::from).into(),
        token_types: Some(vec![1, 1, 1, 1, 3]),
        merges: Some(vec!["a b".into()]),
        bos: Some(4),
        ..GgufVocabulary::default()
    }
}

fn llama() -> GgufVocabulary<'static> {
    GgufVocabulary {
        file: "hostile.gguf".into(),
        model: "llama".into(),
        tokens: ["<unk>", "<s>", "▁", "a", "▁a", "<0x0A>"].map(Cow::from).into(),
        scores: Some(vec![0.0, 0.0, -3.0, -2.0, -1.0, 0.0]),
        token_types: Some(vec![2, 3, 1, 1, 1, 6]),
        bos: Some(1),
        unk: Some(0),
        ..GgufVocabulary::default()
    }
}

#[test]
fn texts_that_cannot_be_cut_are_named_by_their_place_in_the_text() {
    let mut source = llama();
    source.tokens.push("aa".into());
    source.scores.as_mut().unwrap().push(-0.5);
    source.token_types.as_mut().unwrap().push(1);
    let tokenizer = Tokenizer::from_vocabulary(source).unwrap();
    let text = " ".repeat(100_000) + &"a".repeat(300_000);
    let error = tokenizer.encode(&text, PLAIN).unwrap_err();
    let TokenizerError::NoPlaceToCut { at, .. } = error else { panic!("{error}") };
    assert!((65_536..=100_000).contains(&at), "{at}");
    assert!(text[at..].starts_with(' ') || at == 100_000, "{at}");
}

#[track_caller]
fn refused_vocabulary(source: GgufVocabulary<'_>) -> String {
    let error = Tokenizer::from_vocabulary(source).unwrap_err().to_string();
    assert!(error.starts_with("hostile.gguf: tokenizer.ggml."), "{error}");
    error
}

#[test]
fn gguf_vocabularies_must_be_sound() {
    assert_eq!(
        Tokenizer::from_vocabulary(gpt2()).unwrap().encode("ab a", PLAIN).unwrap(),
        [4, 2, 3, 0]
    );
    assert_eq!(
        Tokenizer::from_vocabulary(llama()).unwrap().encode("a\nx", PLAIN).unwrap(),
        [1, 4, 5, 0]
    );
    let unencodable = Tokenizer::from_vocabulary(gpt2()).unwrap().encode("z", PLAIN);
    assert!(matches!(unencodable, Err(TokenizerError::Unencodable { .. })));

    refused_vocabulary(GgufVocabulary { tokens: vec![], ..gpt2() });
    refused_vocabulary(GgufVocabulary { token_types: Some(vec![1; 4]), ..gpt2() });
    refused_vocabulary(GgufVocabulary { token_types: Some(vec![1, 1, 1, 1, 9]), ..gpt2() });
    refused_vocabulary(GgufVocabulary { token_types: Some(vec![1, 1, 1, 1, -1]), ..gpt2() });
    refused_vocabulary(GgufVocabulary { token_types: Some(vec![6, 1, 1, 1, 3]), ..gpt2() });
    refused_vocabulary(GgufVocabulary { scores: Some(vec![0.0; 3]), ..gpt2() });
    refused_vocabulary(GgufVocabulary { merges: None, ..gpt2() });
    for merge in ["a c", "c a", "b a", "ab", "", " ", "a ", " a", "a b b"] {
        refused_vocabulary(GgufVocabulary { merges: Some(vec![merge.into()]), ..gpt2() });
    }
    refused_vocabulary(GgufVocabulary { bos: Some(5), ..gpt2() });
    refused_vocabulary(GgufVocabulary { eos: Some(u32::MAX), ..gpt2() });
    refused_vocabulary(GgufVocabulary { eot: Some(5), ..gpt2() });
    refused_vocabulary(GgufVocabulary { pad: Some(5), ..gpt2() });
    refused_vocabulary(GgufVocabulary { unk: Some(6), ..llama() });
    refused_vocabulary(GgufVocabulary { scores: None, ..llama() });
    refused_vocabulary(GgufVocabulary { scores: Some(vec![f32::NAN; 6]), ..llama() });
    refused_vocabulary(GgufVocabulary { model: "t5".into(), ..gpt2() });
    for byte in ["<0x-1>", "<0xZZ>", "<0x100>", "0x0A", ""] {
        let mut source = llama();
        source.tokens[5] = byte.into();
        refused_vocabulary(source);
    }
    let mut huge = llama();
    huge.tokens[3] = "a".repeat(1 << 20).into();
    refused_vocabulary(huge);
}

#[test]
fn an_unknown_pre_tokenizer_lists_the_known_ones() {
    let error = refused_vocabulary(GgufVocabulary { pre: Some("my-own".into()), ..gpt2() });
    for expected in ["my-own", "llama-bpe", "falcon3", "qwen2", "tokenizer.json"] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn special_tokens_in_a_users_text_stay_text() {
    let options = EncodeOptions::default();
    let tokenizer =
        load(&with("/model/vocab/s", json!(6))).unwrap_or_else(|_| load(&file()).unwrap());
    assert!(!tokenizer.encode("a<s>b", options).unwrap().contains(&5));
    assert!(tokenizer.encode("a<s>b", PLAIN).unwrap()[1..].contains(&5));
}
