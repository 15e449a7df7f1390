//! Habits from other programs: their flags, words without quotes, pipes, folders.

use std::path::Path;

use crate::program::{
    bitnet, json, ok, output, refused, refused_in_a_line, stderr, stdout, with_input,
};

/// Returns the output of a greedy run.
fn text(args: &[&str]) -> String {
    stdout(&ok(&[&["run"], args, &["--temp", "0"]].concat())).to_owned()
}

#[test]
fn flags_of_llama_cpp_mean_the_same() {
    let expected = text(&["Once upon a time", "-n", "8"]);
    for args in [
        &["-p", "Once upon a time", "-n", "8"][..],
        &["--prompt", "Once upon a time", "--n-predict", "8"],
        &["-p", "Once upon a time", "--predict", "8", "-c", "512", "-t", "1", "-s", "3"],
        &["-p", "Once upon a time", "--max-new-tokens", "8", "--ctx-size", "512", "-s", "-1"],
        &["-p", "Once upon a time", "--n_predict=8", "--top_k", "40", "--min-p", "0.1"],
        &["-p", "Once upon a time", "-n", "8", "--typical-p", "1", "--top-k", "-1"],
    ] {
        assert_eq!(text(args), expected, "{args:?}");
    }
    let warm = |flag| json(&["run", "x", "-n", "1", "--json", flag, "0.25"])["temperature"].clone();
    assert_eq!(warm("--temperature"), warm("--temp"));
    let bare = ok(&["run", "Once", "-n", "2", "--temp", "0", "--no-display-prompt"]);
    assert_eq!(format!("Once{}", stdout(&bare)), text(&["Once", "-n", "2"]));
    let stopped = ["run", "Once upon a time", "--temp", "0", "--ignore-eos", "-r", ",", "--json"];
    assert_eq!(json(&stopped)["finish_reason"], "stop");
    let biased =
        |bias| json(&["run", "x", "-n", "1", "--temp", "0", "--json", "--logit-bias", bias]);
    assert_eq!(biased("5+99")["tokens"], biased("5=99")["tokens"]);
}

#[test]
fn limit_minus_one_generates_to_the_end_of_the_context() {
    let value = json(&["run", "Once", "-n", "-1", "--ctx", "40", "--ignore-eos", "--json"]);
    assert_eq!(value["finish_reason"], "context");
}

#[test]
fn words_without_quotes_are_one_prompt() {
    assert_eq!(
        text(&["Once", "upon", "a", "time", "-n", "4"]),
        text(&["Once upon a time", "-n", "4"])
    );
    let ids = |args: &[&str]| json(&[&["tokenize", "--json"], args].concat())["ids"].clone();
    assert_eq!(ids(&["Once", "upon"]), ids(&["Once upon"]));
    let after_dashes = ok(&["run", "--temp", "0", "-n", "2", "--", "-", "a"]);
    assert_eq!(text(&["-p", "- a", "-n", "2"]), stdout(&after_dashes));
}

#[test]
fn standard_input_and_files_give_the_prompt() {
    let expected = text(&["Once upon a time", "-n", "4"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time\n").unwrap();
    let file = file.to_str().unwrap();
    for flag in ["-f", "--file", "--prompt-file"] {
        assert_eq!(text(&[flag, file, "-n", "4"]), expected, "{flag}");
    }
    for args in
        [&["run", "-n", "4", "--temp", "0"][..], &["run", "-f", "-", "-n", "4", "--temp", "0"]]
    {
        let piped = with_input(args, b"Once upon a time\r\n");
        assert_eq!(stdout(&piped), expected, "{args:?}: {}", stderr(&piped));
    }
    let piped = with_input(&["perplexity", "--all", "--file", "-", "--json"], b"Once upon a time");
    assert!(piped.status.success(), "{}", stderr(&piped));
    refused_in_a_line(&["run"], &["standard input is empty"]);
    for both in
        [&["run", "x", "-p", "y"][..], &["run", "-p", "x", "-f", "y"], &["run", "x", "-f", "y"]]
    {
        assert_eq!(output(both).status.code(), Some(2), "{both:?}");
    }
}

#[test]
fn a_folder_with_one_gguf_model_is_that_model() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let model = golden.join("gguf-llama-tq1_0/model.gguf");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&model, folder.path().join("model.gguf")).unwrap();
    std::fs::write(folder.path().join("README.md"), "a model").unwrap();
    let path = folder.path().to_str().unwrap();
    let tensors = |path: &str| json(&["inspect", "--json", "-m", path])["tensors"].clone();
    assert_eq!(tensors(path), tensors(model.to_str().unwrap()));
    std::fs::copy(&model, folder.path().join("second.gguf")).unwrap();
    refused_in_a_line(&["inspect", path], &["2 GGUF models", "model.gguf, second.gguf"]);
}

#[test]
fn what_is_not_a_terminal_is_not_wrapped() {
    let long = "word ".repeat(60);
    let out = ok(&["run", &long, "-n", "0"]);
    assert_eq!(stdout(&out).lines().count(), 1);
    let narrow = bitnet(&["run", &long, "-n", "0"]).env("COLUMNS", "40").output().unwrap();
    assert_eq!(narrow.stdout, out.stdout);
}

#[test]
fn chat_files_replace_conversations_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("notes.txt"), "mine").unwrap();
    std::fs::write(path("talk.tmp"), "mine too").unwrap();
    let save = |name: &str| {
        let script = format!("Once\n/save {}\n", path(name).display());
        with_input(&["chat", "-n", "1"], script.as_bytes())
    };
    let refusal = save("notes.txt");
    assert_eq!(refusal.status.code(), Some(2));
    assert!(stderr(&refusal).contains("not a saved conversation"), "{}", stderr(&refusal));
    assert!(save("talk.json").status.success() && save("talk.json").status.success());
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(path("talk.json"), path("link.json")).unwrap();
        assert!(stderr(&save("link.json")).contains("not a regular file"));
    }
    assert_eq!(std::fs::read(path("notes.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read(path("talk.tmp")).unwrap(), b"mine too");
    refused(&["run", "x", "--chat-template", folder.path().to_str().unwrap()], &["is a folder"]);
}
