//! `bitnet convert`, `bitnet inspect --diff` and `bitnet compare`, on the story model and golden checkpoints.

use std::path::{Path, PathBuf};

use crate::program::{json, ok, output, refused, stderr, stdout};

fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).display().to_string()
}

fn stories() -> String {
    repository("bitnet-inference/models/stories.gguf")
}

fn text_of(model: &str) -> String {
    let run =
        ok(&["run", "Once upon a time", "--seed", "1", "-n", "40", "--no-cache", "--model", model]);
    stdout(&run).to_owned()
}

fn path(folder: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    let text = path.display().to_string();
    (path, text)
}

#[test]
fn a_converted_story_model_tells_the_same_story() {
    let folder = tempfile::tempdir().unwrap();
    let (_, output) = path(&folder, "stories.gguf");
    let converted = ok(&["convert", &stories(), &output]);
    let text = stdout(&converted);
    assert!(text.contains("verified in") && text.contains("exact"), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 110, "{line}");
    }
    assert_eq!(text_of(&output), text_of(&stories()));
    let same = ok(&["inspect", "--diff", &stories(), &output]);
    assert!(stdout(&same).contains("every number equal"), "{}", stdout(&same));
    // A partial folder would be left by an interruption.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lossy_conversions_report_their_error() {
    let folder = tempfile::tempdir().unwrap();
    let (_, small) = path(&folder, "small.gguf");
    let value = json(&["quantize", &stories(), &small, "--embedding-type", "q4_0", "--json"]);
    assert_eq!(value["proven"], true);
    let tensors = value["tensors"].as_array().unwrap();
    let embedding = tensors.iter().find(|t| t["name"] == "token_embd.weight").unwrap();
    assert_eq!((&embedding["to"], &embedding["exact"]), (&"Q4_0".into(), &false.into()));
    let decibels = embedding["loss"]["sqnr_db"].as_f64().unwrap();
    assert!((15.0..30.0).contains(&decibels), "4 bits give about 20 dB, not {decibels}");
    assert!(
        tensors.iter().filter(|t| t["name"] != "token_embd.weight").all(|t| t["exact"] == true)
    );

    let different = output(&["inspect", "--diff", &stories(), &small]);
    assert_eq!(different.status.code(), Some(1), "{}", stderr(&different));
    assert!(stdout(&different).contains("token_embd.weight"), "{}", stdout(&different));

    let (file, text) = path(&folder, "text");
    std::fs::write(&file, stories_text()).unwrap();
    let far =
        json(&["compare", &stories(), &small, "--file", &text, "--all", "--json", "--no-cache"]);
    assert!(far["kl_mean"].as_f64().unwrap() > 1e-5, "{far}");
    assert!(far["top1_agreement"].as_f64().unwrap() > 0.5, "{far}");
    let near = json(&[
        "compare",
        &stories(),
        &stories(),
        "--file",
        &text,
        "--all",
        "--json",
        "--no-cache",
    ]);
    assert_eq!((near["kl_max"].as_f64(), near["top1_agreement"].as_f64()), (Some(0.0), Some(1.0)));
    assert_eq!(near["perplexity_first"], near["perplexity_second"]);
    assert_eq!(far["perplexity_first"], near["perplexity_first"]);
}

/// Returns text of the story model, which it predicts well.
fn stories_text() -> String {
    stdout(&ok(&["run", "Once upon a time", "--seed", "3", "-n", "120"])).to_owned()
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_, output) = path(&folder, "model.gguf");
    let source = repository("tests/golden/models/bitnet-2b-online");
    let dry = ok(&["convert", &source, &output, "--dry-run", "--tensors"]);
    let text = stdout(&dry);
    assert!(text.contains("blk.0.attn_q.weight") && text.contains("would have"), "{text}");
    assert!(stderr(&dry).contains("absmean"), "{}", stderr(&dry));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn folders_and_files_convert_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let source = repository("tests/golden/models/llama-bitlinear-packed");
    let ((_, file), (packed, packed_text)) = (path(&folder, "model.gguf"), path(&folder, "packed"));
    ok(&["convert", &source, &file]);
    ok(&["convert", &file, &packed_text]);
    let config = std::fs::read_to_string(packed.join("config.json")).unwrap();
    assert!(config.contains("\"quant_method\": \"bitnet\""), "{config}");
    for other in [&file, &packed_text] {
        ok(&["inspect", "--diff", &source, other]);
    }
    ok(&["verify", &packed_text]);
}

#[test]
fn wrong_requests_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (file, output) = path(&folder, "model.gguf");
    let source = repository("tests/golden/models/bitnet-2b-packed");
    refused(&["convert", &source, &output, "--type", "q3_k"], &["q3_k", "tq2_0"]);
    refused(&["convert", &source, &output, "--tensor", "blk.0"], &["PATTERN=TYPE"]);
    refused(&["convert", "no-such-model", &output], &["no-such-model"]);
    refused(
        &["convert", &source, &folder.path().join("no/such/x.gguf").display().to_string()],
        &["no/such"],
    );
    std::fs::write(&file, b"mine").unwrap();
    refused(&["convert", &source, &output], &["--overwrite"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    refused(&["compare", &source, &source, "--file", &output], &["tokenizer"]);
}
