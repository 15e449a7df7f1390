//! Conversion of special tokens, end tokens and templates in every form of folders.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod small_model;

use std::fs;
use std::path::Path;

use bitnet_convert::{ConvertOptions, convert, inspect};
use bitnet_formats::GgufFile;
use bitnet_inference::{LoadOptions, ModelFiles, ModelSource};
use serde_json::{Value, json};
use small_model::{SmallModel, put};

const KEYS: [(&str, &str); 7] = [
    ("bos", "bos"),
    ("eos", "eos"),
    ("pad", "padding"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("cls", "cls"),
    ("mask", "mask"),
];

fn f16() -> ConvertOptions {
    ConvertOptions { linear: "f16".parse().ok(), ..ConvertOptions::default() }
}

fn to(input: &Path, output: &Path, options: &ConvertOptions) {
    convert(input, output, options, &mut |_| true).unwrap_or_else(|error| panic!("{error}"));
}

fn id(file: &GgufFile, name: &str) -> Option<u32> {
    file.metadata().opt_u32(&format!("tokenizer.ggml.{name}_token_id")).unwrap()
}

fn ends(path: &Path) -> Vec<u32> {
    let files = ModelFiles::open(ModelSource::Path(path), &LoadOptions::default()).unwrap();
    files.text(&LoadOptions::default()).unwrap().end_tokens
}

/// The values are those of `SpecialVocab` of the gguf package and of llama.cpp's convert_hf_to_gguf.
#[test]
fn all_forms_of_special_tokens_are_converted() {
    let text = |kind: &str| {
        let text = if ["bos", "eos"].contains(&kind) {
            format!("<|{kind}|>")
        } else {
            format!("<{kind}>")
        };
        Value::from(text)
    };
    let named = |form: &dyn Fn(&str) -> Value, ending: &str| {
        let pairs = KEYS.iter().map(|(kind, _)| (format!("{kind}_{ending}"), form(kind)));
        Value::Object(pairs.collect())
    };
    let place = |kind: &str| KEYS.iter().position(|(k, _)| *k == kind).unwrap();
    let ids = [0, 1, 2, 3, 4, 5, 6];
    let strings = named(&text, "token");
    let objects = named(&|kind| json!({"content": text(kind), "lstrip": false}), "token");
    let numbers = named(&|kind| ids[place(kind)].into(), "token_id");
    let lists = named(&|kind| json!([ids[place(kind)]]), "token_id");
    let none = json!({"x": 1});
    for (form, config, files) in [
        ("strings", json!({}), vec![("tokenizer_config.json", strings.clone())]),
        ("objects", json!({}), vec![("tokenizer_config.json", objects.clone())]),
        (
            "map of strings",
            json!({}),
            vec![("tokenizer_config.json", none.clone()), ("special_tokens_map.json", strings)],
        ),
        ("map of objects", json!({}), vec![("special_tokens_map.json", objects)]),
        ("numbers", numbers.clone(), vec![("tokenizer_config.json", none.clone())]),
        ("lists", lists, vec![("tokenizer_config.json", none)]),
        ("generation config", json!({}), vec![("generation_config.json", numbers)]),
    ] {
        let work = tempfile::tempdir().unwrap();
        let folder = SmallModel { config, files, ..SmallModel::default() }.write(work.path(), "m");
        let output = work.path().join("m.gguf");
        to(&folder, &output, &f16());
        let file = GgufFile::open(&output).unwrap();
        for ((kind, key), expected) in KEYS.iter().zip(ids) {
            assert_eq!(id(&file, key), Some(expected), "{form}: {kind}");
        }
        // Back to a folder: the tokens have the same ids.
        let (back, again) = (work.path().join("back"), work.path().join("again.gguf"));
        let dense = ConvertOptions { target: Some(bitnet_convert::Target::Dense), ..f16() };
        to(&output, &back, &dense);
        let settings: Value =
            serde_json::from_slice(&fs::read(back.join("tokenizer_config.json")).unwrap()).unwrap();
        assert_eq!(
            (&settings["mask_token"], &settings["eos_token"]),
            (&"<mask>".into(), &"<|eos|>".into())
        );
        to(&back, &again, &f16());
        let file = GgufFile::open(&again).unwrap();
        for ((kind, key), expected) in KEYS.iter().zip(ids) {
            assert_eq!(id(&file, key), Some(expected), "{form}: {kind} through a folder");
        }
    }
}

#[test]
fn several_end_tokens_stay_end_tokens() {
    let work = tempfile::tempdir().unwrap();
    let config = json!({"eos_token_id": [1, 7, 2]});
    let folder = SmallModel { config, ..SmallModel::default() }.write(work.path(), "m");
    let (file, back) = (work.path().join("m.gguf"), work.path().join("back"));
    to(&folder, &file, &f16());
    let dense = ConvertOptions { target: Some(bitnet_convert::Target::Dense), ..f16() };
    to(&file, &back, &dense);
    for path in [&folder, &file, &back] {
        assert_eq!(ends(path), [1, 2, 7], "{}", path.display());
    }
    let config = json!({"eos_token_id": [1, 7, 2, 5]});
    let folder = SmallModel { config, ..SmallModel::default() }.write(work.path(), "four");
    let error = inspect(&folder, &work.path().join("four.gguf"), &f16()).unwrap_err().to_string();
    assert!(error.contains("[1, 2, 5, 7]") && error.contains("eos, eot, eom"), "{error}");
}

#[test]
fn ids_without_a_tokenizer_are_kept() {
    let work = tempfile::tempdir().unwrap();
    let config =
        json!({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1, "mask_token_id": 100_000});
    let folder = SmallModel { config, ..SmallModel::default() }.write(work.path(), "m");
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    fs::write(folder.join("tokenizer.model"), b"sentences").unwrap();
    let output = work.path().join("m.gguf");
    let report = convert(&folder, &output, &f16(), &mut |_| true).unwrap();
    assert!(
        report.remarks.iter().any(|remark| remark.contains("tokenizer.model")),
        "{:?}",
        report.remarks
    );
    let file = GgufFile::open(&output).unwrap();
    let found = ["bos", "eos", "padding", "mask"].map(|name| id(&file, name));
    assert_eq!(found, [Some(0), Some(1), None, None]);
    assert_eq!(ends(&output), [1]);
}

#[test]
fn named_chat_templates_round_trip() {
    let work = tempfile::tempdir().unwrap();
    let (default, tool) = ("{{ messages[0].content }}", "tools: {{ tools }}");
    let list = json!([
        {"name": "default", "template": default},
        {"name": "tool_use", "template": tool},
    ]);
    let in_settings = SmallModel::default().write(work.path(), "settings");
    put(&in_settings, "tokenizer_config.json", &json!({"chat_template": list}));
    let in_files = SmallModel::default().write(work.path(), "files");
    put(&in_files, "tokenizer_config.json", &json!({"bos_token": "<|bos|>"}));
    fs::write(in_files.join("chat_template.jinja"), default).unwrap();
    fs::create_dir(in_files.join("additional_chat_templates")).unwrap();
    fs::write(in_files.join("additional_chat_templates/tool_use.jinja"), tool).unwrap();

    let dense = ConvertOptions { target: Some(bitnet_convert::Target::Dense), ..f16() };
    for folder in [&in_settings, &in_files] {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let [file, back, copy] =
            [".gguf", "-back", "-copy"].map(|end| work.path().join(format!("{name}{end}")));
        to(folder, &file, &f16());
        to(&file, &back, &dense);
        to(folder, &copy, &dense);
        for path in [folder, &file, &back, &copy] {
            let files = ModelFiles::open(ModelSource::Path(path), &LoadOptions::default()).unwrap();
            let text = files.text(&LoadOptions::default()).unwrap();
            assert_eq!(text.template.as_deref(), Some(default), "{}", path.display());
            let named: Vec<_> = text.named_templates.into_iter().collect();
            assert_eq!(named, [("tool_use".into(), tool.into())], "{}", path.display());
        }
    }
}

#[test]
fn licences_go_with_a_folder() {
    let work = tempfile::tempdir().unwrap();
    let (folder, copy) = (SmallModel::default().write(work.path(), "m"), work.path().join("copy"));
    for name in ["LICENSE", "LICENSE.txt", "LICENSE.md"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let dense = ConvertOptions { target: Some(bitnet_convert::Target::Dense), ..f16() };
    to(&folder, &copy, &dense);
    for name in ["LICENSE", "LICENSE.txt", "LICENSE.md"] {
        assert_eq!(fs::read_to_string(copy.join(name)).unwrap(), name);
    }
}

#[test]
fn chat_template_goes_both_ways() {
    let work = tempfile::tempdir().unwrap();
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let folder = SmallModel::default().write(work.path(), "m");
    put(
        &folder,
        "tokenizer_config.json",
        &json!({"bos_token": "<|bos|>", "chat_template": template}),
    );
    let (file, back) = (work.path().join("m.gguf"), work.path().join("back"));
    to(&folder, &file, &f16());
    to(&file, &back, &ConvertOptions { target: Some(bitnet_convert::Target::Dense), ..f16() });
    for path in [&folder, &file, &back] {
        let files = ModelFiles::open(ModelSource::Path(path), &LoadOptions::default()).unwrap();
        let text = files.text(&LoadOptions::default()).unwrap();
        assert_eq!(text.template.as_deref(), Some(template), "{}", path.display());
    }
}
