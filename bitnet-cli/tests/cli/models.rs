//! `bitnet inspect`, `verify`, `tokenize` and `perplexity` on the embedded model, golden models and damaged models.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{json, ok, refused_in_a_line, stderr, stdout, with_input};

fn golden_models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let mut models: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    models
}

/// Returns the model arguments of a golden folder, with the options for facts that the file does not state.
fn golden_arguments(folder: &Path) -> Vec<String> {
    let gguf = folder.join("model.gguf");
    let path = if gguf.is_file() { gguf } else { folder.to_owned() };
    let mut args = vec!["--model".to_owned(), path.display().to_string()];
    for layout in ["arm64", "x4"] {
        if folder.to_string_lossy().ends_with(layout) {
            args.extend(["--i2s-layout".to_owned(), layout.to_owned()]);
        }
    }
    args
}

#[test]
fn inspect_states_the_memory_of_each_context() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let model = golden.join("gguf-qwen35-pq2_0/model.gguf");
    let inspect = |kv| {
        let path = model.to_str().unwrap();
        json(&["inspect", "--json", "--no-weights", "--kv", kv, "-m", path])["memory"].clone()
    };
    let (half, byte) = (inspect("f16"), inspect("int8"));
    for memory in [&half, &byte] {
        let number = |field: &str| memory[field].as_u64().unwrap();
        let fixed = number("weights") + number("in_place") + number("states") + number("program");
        let context = memory["default"]["context"].as_u64().unwrap().next_multiple_of(64);
        assert_eq!(memory["default"]["bytes"], fixed + context * number("per_token"));
        assert!(memory["full"]["context"].as_u64() >= memory["default"]["context"].as_u64());
        assert!(number("states") > 0, "the layers are recurrent");
    }
    assert!(byte["per_token"].as_u64() < half["per_token"].as_u64());
    let short = ok(&["inspect"]);
    let line = stdout(&short).lines().find(|line| line.starts_with("  memory")).unwrap();
    assert!(line.contains(" tokens of context"), "{line}");
}

#[test]
fn inspect_shows_facts_sizes_and_tensors() {
    let short = ok(&["inspect"]);
    let text = stdout(&short);
    for word in ["container", "GGUF", "activation", "RoPE", "tokenizer", "Size by type", "layers"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("token_embd"));
    let long = ok(&["inspect", "--tensors"]);
    assert!(stdout(&long).contains("token_embd.weight"));
    for line in stdout(&long).lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    let value = json(&["inspect", "--json"]);
    let bytes = |list: &Value| {
        list.as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(bytes(&value["tensors"]), bytes(&value["types"]));
    assert!(value["config"]["layers"].as_u64().unwrap() > 0);
    assert!(value["facts"]["activation"].is_string());
}

#[test]
fn golden_models_are_inspected_and_verified() {
    for folder in golden_models() {
        let args = golden_arguments(&folder);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let inspected = json(&[&["inspect", "--json"], &args[..]].concat());
        assert!(!inspected["tensors"].as_array().unwrap().is_empty(), "{folder:?}");
        let verified = json(&[&["verify", "--json"], &args[..]].concat());
        assert_eq!(verified["passed"], true, "{folder:?}: {verified}");
        assert_eq!(verified["mismatches"].as_array().unwrap().len(), 0, "{folder:?}");
        assert!(verified["integers_compared"].as_u64().unwrap() > 0, "{folder:?}");
    }
}

#[test]
fn verify_passes_on_the_embedded_model_and_says_so_last() {
    let output = ok(&["verify"]);
    let text = stdout(&output);
    assert!(text.lines().last().unwrap().starts_with("PASS"), "{text}");
    for word in ["activation", "RoPE", "end tokens", "integers", "cpu scalar", "logits"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn tokens_round_trip() {
    let value = json(&["tokenize", "Once upon a time, there was", "--json", "--no-special"]);
    let ids: Vec<String> = value["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(value["pieces"].as_array().unwrap().len(), ids.len());
    let plain = ok(&["tokenize", "Once upon a time, there was", "--ids", "--no-special"]);
    assert_eq!(stdout(&plain).trim(), ids.join(" "));
    let mut args = vec!["tokenize", "--decode"];
    args.extend(ids.iter().map(String::as_str));
    assert_eq!(stdout(&ok(&args)).trim_end(), "Once upon a time, there was");
    let commas = ids.join(",");
    assert_eq!(
        json(&["tokenize", "--json", "--decode", &commas])["text"],
        "Once upon a time, there was"
    );
    let piped =
        with_input(&["tokenize", "-", "--ids", "--no-special"], b"Once upon a time, there was");
    assert_eq!(stdout(&piped), stdout(&plain));
    refused_in_a_line(&["tokenize", "--decode", "99999999"], &["99999999"]);
}

#[test]
fn perplexity_measures_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(
        &file,
        "Once upon a time there was a little dog who lived in a small house. ".repeat(20),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let measure =
        |more: &[&str]| json(&[&["perplexity", "--json", "--file", file][..], more].concat());
    let all = measure(&["--all", "--ctx-window", "64"]);
    let half = measure(&["--ctx-window", "64"]);
    let strided = measure(&["--ctx-window", "64", "--stride", "32"]);
    for value in [&all, &half, &strided] {
        let nats = value["nats_per_token"].as_f64().unwrap();
        assert!((value["perplexity"].as_f64().unwrap() / nats.exp() - 1.0).abs() < 1e-9);
        assert!(nats > 0.0 && value["bits_per_byte"].as_f64().unwrap() > 0.0);
    }
    let scored = |value: &Value| value["tokens_scored"].as_u64().unwrap();
    assert_eq!(scored(&half), 31 * half["windows"].as_u64().unwrap());
    assert_eq!(scored(&strided), 32 * strided["windows"].as_u64().unwrap());
    assert_eq!(scored(&all), all["tokens"].as_u64().unwrap() - all["windows"].as_u64().unwrap());
    let text = ok(&["perplexity", "--file", file, "--ctx-window", "64"]);
    assert!(stdout(&text).contains('±') && stdout(&text).contains("bits/byte"));

    refused_in_a_line(&["perplexity", "--file", "/nonexistent/text"], &["/nonexistent/text"]);
    std::fs::write(folder.path().join("short"), "Once").unwrap();
    let short = folder.path().join("short");
    refused_in_a_line(
        &["perplexity", "--file", short.to_str().unwrap()],
        &["--all", "--ctx-window"],
    );
}

#[test]
fn windows_beyond_the_trained_context_warn() {
    let folder = tempfile::tempdir().unwrap();
    let model = json(&["inspect", "--json"]);
    let trained = model["config"]["context"].as_u64().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "Once upon a time there was a dog. ".repeat(100)).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.path().join("ranges.json"));
    for (window, warns) in [(trained, false), (trained + 1, true)] {
        let window = window.to_string();
        let commands: [&[&str]; 2] = [
            &["perplexity", "--file", file, "--ctx-window", &window, "--all"],
            &[
                "calibrate",
                "--file",
                file,
                "--ctx-window",
                &window,
                "--windows",
                "1",
                "--out",
                out.to_str().unwrap(),
            ],
        ];
        for command in commands {
            let said = ok(command);
            assert_eq!(
                stderr(&said).contains("was trained for"),
                warns,
                "{command:?}: {}",
                stderr(&said)
            );
        }
    }
}

#[test]
fn unusable_models_are_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("empty.gguf"), b"").unwrap();
    std::fs::write(path("text.gguf"), b"This is no model, but it is long enough to be looked at.")
        .unwrap();
    std::fs::write(
        path("cut.gguf"),
        b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x00\x00\x00",
    )
    .unwrap();
    std::fs::create_dir(path("empty-folder")).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let golden =
        golden_models().into_iter().find(|folder| folder.ends_with("bitnet-2b-packed")).unwrap();
    std::fs::copy(golden.join("config.json"), path("folder/config.json")).unwrap();
    std::fs::write(path("folder/model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\xff{").unwrap();
    for name in ["missing.gguf", "empty.gguf", "text.gguf", "cut.gguf", "empty-folder", "folder"] {
        let path = path(name);
        let path = path.to_str().unwrap();
        for command in [
            &["run", "x", "--model", path][..],
            &["inspect", path],
            &["verify", path],
            &["tokenize", "x", "-m", path],
        ] {
            refused_in_a_line(command, &[name]);
        }
    }
    refused_in_a_line(
        &["run", "x", "--chat-template", "/nonexistent/t.jinja"],
        &["/nonexistent/t.jinja"],
    );
}
