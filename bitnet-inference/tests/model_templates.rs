//! Chat templates, special tokens and padded vocabularies of whole models.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::Path;
use std::sync::Arc;

use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::chat::{Builtin, Message, TemplateChoice, TemplateError};
use bitnet_inference::sampler::SamplerConfig;
use bitnet_inference::{
    GenerateOptions, InferenceError, Inspection, LoadOptions, Model, ModelFiles, ModelSource,
    tokenizer_of,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SPECIAL: [&str; 6] =
    ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<pad>"];

/// A golden model with a tokenizer of the letters a to z and [`SPECIAL`], whose ids begin at 26.
fn folder(tokenizer_config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/llama-ternary-dense");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(name), folder.path().join(name)).unwrap();
    }
    let vocab: serde_json::Map<String, Value> =
        ('a'..='z').zip(0..).map(|(letter, id)| (letter.to_string(), json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(26..)
        .map(|(content, id)| json!({"id": id, "content": content, "special": true}))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(config, tokenizer_config.to_string()).unwrap();
    folder
}

fn load(folder: &TempDir, options: &LoadOptions) -> Result<Model, InferenceError> {
    let source = ModelSource::Path(folder.path());
    Model::load_with(source, options, Arc::new(ReferenceBackend), &mut |_, _| {})
}

fn chat_ids(folder: &TempDir) -> Vec<u32> {
    let model = load(folder, &LoadOptions::default()).unwrap();
    model.encode_chat(&[Message::new("user", "hi")]).unwrap()
}

// The ids that transformers 5.24's `apply_chat_template` gives with the same folders.
#[test]
fn templates_get_the_special_tokens_of_tokenizer_config() {
    let text = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let config = |template: String| {
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>",
            "eos_token": {"__type": "AddedToken", "content": "<|eos|>", "special": true},
            "pad_token": "<pad>", "turn_token": "<|im_end|>", "chat_template": template,
        })
    };
    let (h, i) = (7, 8);
    assert_eq!(chat_ids(&folder(&config(format!("{{{{ bos_token }}}}{text}")))), [26, h, i]);
    assert_eq!(chat_ids(&folder(&config(format!("{text}{{{{ eos_token }}}}")))), [h, i, 27]);
    assert_eq!(chat_ids(&folder(&config(format!("{text}{{{{ pad_token }}}}")))), [h, i, 31]);
    assert_eq!(chat_ids(&folder(&config(format!("{text}{{{{ turn_token }}}}")))), [h, i, 29]);
    let undefined = format!("{text}{{{{ 'x' if unk_token is defined else 'y' }}}}");
    assert_eq!(chat_ids(&folder(&config(undefined))), [h, i, 24]);
}

#[test]
fn special_tokens_map_is_read_and_its_eos_ends_texts() {
    let folder = folder(&json!({"chat_template": "{{ eos_token }}{{ bos_token }}"}));
    let map = json!({"eos_token": {"content": "<|eos|>", "lstrip": false}});
    std::fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
    assert_eq!(chat_ids(&folder), [27]);
    let model = load(&folder, &LoadOptions::default()).unwrap();
    assert_eq!(model.tokenizer().unwrap().eos_id(), Some(27));
    assert!(model.end_tokens().contains(&27));
}

#[test]
fn unusable_templates_stop_nothing_but_chat() {
    let folder = folder(&json!({}));
    let options = LoadOptions::default();
    let broken: [(&[u8], &str); 4] = [
        (b"{{ x | no_such_filter }}", "no_such_filter"),
        (b"{% include 'x' %}", "include"),
        (b"a\xFF", "UTF-8"),
        (&[b' '; 70_000], "70000 bytes"),
    ];
    for (source, reason) in broken {
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        let place = ModelSource::Path(folder.path());
        assert!(tokenizer_of(place, &options).unwrap().is_some());
        let files = ModelFiles::open(place, &options).unwrap();
        assert!(files.facts(&options).unwrap().template.contains(reason));
        let inspection = Inspection::of(place, &options).unwrap();
        assert!(inspection.facts.template.contains("chat cannot use it"));
        let model = load(&folder, &options).unwrap();
        assert!(model.complete("hi", 1).is_ok());
        let chat = model.encode_chat(&[Message::new("user", "hi")]);
        match chat {
            Err(InferenceError::Template(problem)) => {
                let problem = problem.to_string();
                assert!(problem.contains(reason) && problem.contains("chatml"), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
    let chosen = LoadOptions {
        chat_template: Some(TemplateChoice::Builtin(Builtin::ChatMl)),
        ..LoadOptions::default()
    };
    let model = load(&folder, &chosen).unwrap();
    assert_eq!(model.template().unwrap().unwrap().name(), "chatml");
}

#[test]
fn a_template_name_that_the_model_does_not_have_is_refused_with_the_names() {
    let list = json!([{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]);
    let folder = folder(&json!({"chat_template": list}));
    let chosen = |name: &str| LoadOptions {
        chat_template: Some(TemplateChoice::Named(name.into())),
        ..LoadOptions::default()
    };
    assert_eq!(load(&folder, &chosen("rag")).unwrap().template().unwrap().unwrap().source(), "r");
    match load(&folder, &chosen("nothing")).unwrap().template() {
        Some(Err(TemplateError::UnknownName { names, .. })) => {
            assert_eq!(*names, ["default", "rag"])
        }
        other => panic!("{other:?}"),
    };
}

#[test]
fn rows_beyond_the_tokenizer_decode_to_no_text() {
    let folder = folder(&json!({"bos_token": "<|bos|>", "eos_token": "<|eos|>"}));
    let model = load(&folder, &LoadOptions::default()).unwrap();
    let (rows, tokenizer) = (model.config().vocab_size, model.tokenizer().unwrap());
    assert!(rows > 32);
    assert_eq!(model.facts().rows_beyond_tokenizer, rows - 32);
    let padding = (rows - 1) as u32;
    assert_eq!(tokenizer.decode(&[0, padding, 1], false).unwrap(), "ab");
    assert_eq!(tokenizer.token_bytes(padding).unwrap(), b"");
    assert!(tokenizer.decode(&[rows as u32], false).is_err());
    let options = GenerateOptions {
        max_tokens: 3,
        sampler: SamplerConfig { logit_bias: vec![(padding, 1e4)], ..SamplerConfig::default() },
        ..GenerateOptions::default()
    };
    let mut session = model.session(None).unwrap();
    let mut generation = session.generate(&[0, 1], &options).unwrap();
    assert_eq!(generation.by_ref().filter(|token| token.is_ok()).count(), 3);
    let written = generation.finish();
    assert_eq!((written.text.as_str(), written.tokens), ("", vec![padding; 3]));
}
