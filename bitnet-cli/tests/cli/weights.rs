//! Models with invalid weights or changed files: reported by `inspect` and `verify`, rejected by text generation.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bitnet_formats::GgufFile;
use serde_json::Value;

use crate::program::{json, ok, output, spawn, stderr, stdout};

/// Writes the embedded model to a file with a modification time one hour ago.
fn model(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    std::fs::write(&path, bitnet_inference::EMBEDDED).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    path
}

/// Replaces the first scale or number of one tensor by bytes that are NaN in every type.
fn spoiled(folder: &Path, tensor: &str) -> PathBuf {
    let path = model(folder);
    let offset = {
        let file = GgufFile::open(&path).unwrap();
        file.tensor(tensor).unwrap().offset as usize
    };
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[offset..offset + 4].copy_from_slice(&[0xff; 4]);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn inspect_and_verify_name_non_finite_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = spoiled(folder.path(), "token_embd.weight");
    let path = path.to_str().unwrap();
    for command in ["inspect", "verify"] {
        let shown = output(&[command, path]);
        assert_eq!(shown.status.code(), Some(1), "{command}: {}", stderr(&shown));
        let text = stdout(&shown);
        for word in ["FAIL", "token_embd.weight", "row 0", "NaN"] {
            assert!(text.contains(word), "{command}: {word}: {text}");
        }
        let shown = output(&[command, path, "--json"]);
        assert_eq!(shown.status.code(), Some(1), "{command}");
        let value: Value = serde_json::from_str(stdout(&shown)).unwrap();
        let faults = value["weights"]["faults"].as_array().unwrap();
        assert_eq!(faults.len(), 1, "{command}: {value}");
        assert_eq!(faults[0]["tensor"], "token_embd.weight");
        assert_eq!(faults[0]["problem"], "non_finite");
        assert_eq!((&faults[0]["row"], &faults[0]["column"]), (&0.into(), &0.into()));
        assert_eq!(faults[0]["value"], "NaN");
        assert_eq!(value["passed"], if command == "verify" { false.into() } else { Value::Null });
    }
    let headers = ok(&["inspect", path, "--no-weights"]);
    assert!(!stdout(&headers).contains("FAIL"));
}

#[test]
fn non_finite_weights_generate_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = spoiled(folder.path(), "token_embd.weight");
    let path = path.to_str().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Once upon a time there was a little dog. ".repeat(40)).unwrap();
    let text = text.to_str().unwrap();
    let runs: [&[&str]; 6] = [
        &["run", "-m", path, "--no-echo", "Once upon a time"],
        &["run", "-m", path, "--no-echo", "--temp", "0.8", "Once upon a time"],
        &["run", "-m", path, "--no-echo", "--head", "full", "Once upon a time"],
        &["run", "-m", path, "--no-echo", "--json", "Once upon a time"],
        &["perplexity", "-m", path, "--file", text, "--ctx-window", "64"],
        &["compare", path, path, "--file", text, "--ctx-window", "64"],
    ];
    for args in runs {
        let ran = output(args);
        assert_eq!(ran.status.code(), Some(2), "{args:?}: {}", stdout(&ran));
        let message = stderr(&ran);
        for word in ["model.gguf", "logit of token", "NaN", "bitnet verify"] {
            assert!(message.contains(word), "{args:?}: {word}: {message}");
        }
    }
}

#[test]
fn sound_weights_are_counted_and_told() {
    let value = json(&["inspect", "--json"]);
    let tensors = value["tensors"].as_array().unwrap();
    let numbers: u64 = tensors
        .iter()
        .map(|t| {
            t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>()
        })
        .sum();
    assert_eq!(value["weights"]["numbers"].as_u64(), Some(numbers));
    assert_eq!(value["weights"]["tensors"].as_u64(), Some(tensors.len() as u64));
    assert_eq!(value["weights"]["faults"].as_array().unwrap().len(), 0);
    let value = json(&["inspect", "--json", "--no-weights"]);
    assert_eq!(value["weights"], Value::Null);
}

#[test]
fn layers_quantised_at_load_are_a_note_of_inspect_and_verify() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let latent = root.join("bitnet-2b-online-f32");
    let latent = latent.to_str().unwrap();
    for command in ["inspect", "verify"] {
        let value = json(&[command, latent, "--json"]);
        let notes = value["notes"].as_array().unwrap();
        let found = notes.iter().any(|note| note.as_str().unwrap().contains("quantised at load"));
        assert!(found, "{command}: {notes:?}");
    }
    let shown = ok(&["verify", latent]);
    assert!(stdout(&shown).lines().last().unwrap().starts_with("PASS with "));
    // Trits stored as dense numbers stay ternary.
    let exact = json(&["inspect", root.join("llama-ternary-dense").to_str().unwrap(), "--json"]);
    assert!(!exact["notes"].to_string().contains("quantised at load"), "{}", exact["notes"]);
    let assumed = exact["facts"]["assumptions"].to_string();
    assert!(assumed.contains("ternary values already"), "{assumed}");
}

#[test]
fn chat_fails_if_the_model_changes_between_turns() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path());
    let name = path.to_str().unwrap();
    let mut child = spawn(&["chat", "-m", name, "--no-cache", "--json", "-n", "8"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"Once upon a time\n").unwrap();
    input.flush().unwrap();
    let answers = child.stdout.take().unwrap();
    let mut answers = serde_json::Deserializer::from_reader(answers).into_iter::<Value>();
    let first = answers.next().unwrap().unwrap();
    assert!(!first["text"].as_str().unwrap().is_empty(), "{first}");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x11);
    std::fs::write(&path, bytes).unwrap();
    input.write_all(b"The dog\n").unwrap();
    drop(input);
    let failure = answers.next().unwrap().unwrap();
    assert_eq!(failure["finish_reason"], "error", "no answer comes from the changed file");
    assert_eq!(failure["text"], "", "{failure}");
    assert!(answers.next().is_none());
    drop(answers);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let message = stderr(&ended);
    assert!(message.contains("model.gguf") && message.contains("changed"), "{message}");
}

#[test]
fn inspect_counts_weights_of_code_3() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models");
    let model = format!("{golden}/gguf-qwen35-code3/model.gguf");
    let document = json(&["inspect", &model, "--json"]);
    let doubled = document["weights"]["doubled"].as_array().unwrap();
    let count: u64 = doubled.iter().map(|tensor| tensor["count"].as_u64().unwrap()).sum();
    // Counted in the file's bytes by another program.
    assert_eq!(count, 4840);
    assert!(doubled.iter().any(|tensor| tensor["tensor"] == "blk.1.attn_q.weight"), "{document}");
    let text = ok(&["inspect", &model]);
    let line = format!("{count} weights (");
    assert!(
        stdout(&text).contains(&line) && stdout(&text).contains("read as +2"),
        "{}",
        stdout(&text)
    );
    let other = json(&["inspect", &format!("{golden}/gguf-qwen35-pq2_0/model.gguf"), "--json"]);
    assert_eq!(other["weights"]["doubled"].as_array().unwrap().len(), 0);
    assert_eq!(ok(&["verify", "-m", &model]).status.code(), Some(0));
    let same = json(&["inspect", "--diff", &model, &model, "--json"]);
    assert_eq!(same["tensors_differing"], 0, "{}", same["tensors"]);
}

#[test]
fn verify_measures_what_int8_inputs_would_change() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models");
    let report =
        json(&["verify", "-m", &format!("{golden}/gguf-qwen35-pq2_0/model.gguf"), "--json"]);
    let divergence = report["int8_inputs"]["divergence"].as_f64().unwrap();
    assert!(divergence > 0.0 && divergence < 0.1, "{}", report["int8_inputs"]);
    let quantised = json(&["verify", "--json"]);
    assert!(quantised["int8_inputs"].is_null(), "{}", quantised["int8_inputs"]);
}
