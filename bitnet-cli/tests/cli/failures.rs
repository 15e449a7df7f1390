//! `--json` always ends in one document: usage errors, invalid input, Ctrl-C.

use serde_json::Value;

use crate::program::{bitnet, output, stderr, stdout};

/// Returns the only line of standard output.
fn document(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn failing_commands_end_in_a_document_with_the_reason() {
    let missing = "/nonexistent/model.gguf";
    for args in [
        &["run", "x", "-m", missing][..],
        &["chat", "-m", missing],
        &["inspect", missing],
        &["inspect", "--diff", missing, missing],
        &["convert", missing, "/nonexistent/out.gguf"],
        &["tokenize", "x", "-m", missing],
        &["perplexity", "--file", missing],
        &["compare", missing, missing, "--file", missing],
        &["calibrate", "--file", missing],
        &["bench", "-m", missing, "--no-limits"],
        &["verify", missing],
        &["pull", "a/b/c"],
        &["rm", "a/b/c"],
        &["train", "--config", missing, "--out", missing],
        &["run", "x", "--temp", "-1"],
        // Usage errors.
        &["run", "x", "--ctx", "0"],
        &["sing"],
        &["inspect", "--diff", "a"],
    ] {
        let output = output(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        let value = document(stdout(&output));
        assert_eq!(value["finish_reason"], "error", "{args:?}");
        let error = value["error"].as_str().unwrap();
        assert!(!error.is_empty() && stderr(&output).contains(error), "{args:?}: {error}");
    }
}

#[test]
fn a_chat_that_fails_ends_in_a_document_after_its_answers() {
    let out = crate::program::with_input(&["chat", "-n", "2", "--json"], b"Once\n/dance\n");
    assert_eq!(out.status.code(), Some(2));
    let lines: Vec<Value> =
        stdout(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0]["text"].is_string());
    assert_eq!(lines[1]["finish_reason"], "error");
    assert!(lines[1]["error"].as_str().unwrap().contains("/dance"));
}

#[test]
fn commands_that_succeed_end_in_one_document() {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bench/run.json");
    let report = crate::program::json(&["bench", "--report", run, "--json"]);
    assert!(report["page"].as_str().unwrap().starts_with("# Performance"));
    let completions = crate::program::json(&["completions", "bash", "--json"]);
    assert!(completions["script"].as_str().unwrap().contains("bitnet"));
    for input in [&b""[..], b"\n\n", b"/help\n/quit\n"] {
        let chat = crate::program::with_input(&["chat", "--json"], input);
        assert!(chat.status.success(), "{}", stderr(&chat));
        assert_eq!(document(stdout(&chat))["finish_reason"], "done");
    }
    for format in ["md", "csv"] {
        let output = output(&["bench", "--json", "--output", format]);
        assert_eq!(output.status.code(), Some(2), "{format}");
        let value = document(stdout(&output));
        assert!(value["error"].as_str().unwrap().contains("--output"), "{value}");
    }
}

#[cfg(unix)]
mod interrupts {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::program::spawn;

    fn send(signal: &str, child: &Child) {
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    fn interrupt(child: &Child) {
        send("-INT", child);
    }

    #[test]
    fn a_run_ended_by_a_signal_ends_in_a_document_with_its_text() {
        for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
            run_until(signal, code);
        }
    }

    fn run_until(signal: &str, code: i32) {
        let args = ["run", "Once", "-v", "--json", "-n", "-1", "--ctx", "200000", "--ignore-eos"];
        let mut child =
            bitnet(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Printed when the model is loaded.
        let mut notes = BufReader::new(child.stderr.take().unwrap());
        notes.read_line(&mut String::new()).unwrap();
        send(signal, &child);
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(document(&text)["finish_reason"], "interrupted", "{text}");
    }

    #[test]
    fn interrupting_an_answer_ends_a_piped_chat() {
        let mut child = spawn(&["chat", "-n", "-1", "--ctx", "200000", "--ignore-eos"]);
        let mut input = child.stdin.take().unwrap();
        let mut answer = child.stdout.take().unwrap();
        input.write_all(b"Once\n").unwrap();
        answer.read_exact(&mut [0]).unwrap();
        interrupt(&child);
        // Its input is still open, so only Ctrl-C can have ended it.
        answer.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        drop(input);
    }

    #[test]
    fn an_interrupted_chat_ends_in_a_document() {
        let mut child = spawn(&["chat", "-n", "2", "--json"]);
        let mut input = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        input.write_all(b"Once\n").unwrap();
        answers.read_line(&mut String::new()).unwrap();
        // It waits for the next line.
        interrupt(&child);
        let mut rest = String::new();
        answers.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(document(&rest)["finish_reason"], "interrupted", "{rest}");
    }
}
