//! Runs the built program and captures its output.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) fn bitnet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(args).stdin(Stdio::null());
    // Isolates the test from the user's settings, caches and models.
    let own = |name: &str| {
        ["BITNET_", "HF_", "HUGGINGFACE_", "XDG_", "TRANSFORMERS_"]
            .iter()
            .any(|beginning| name.starts_with(beginning))
            || ["NO_COLOR", "LOCALAPPDATA"].contains(&name)
    };
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if own(&name) {
            command.env_remove(name);
        }
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bitnet-home");
    command.env("HF_HOME", home.join("hub")).env("BITNET_CACHE", home.join("cache"));
    command.env("HOME", home);
    command
}

pub(crate) fn output(args: &[&str]) -> Output {
    bitnet(args).output().unwrap()
}

pub(crate) fn with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(args);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn spawn(args: &[&str]) -> Child {
    bitnet(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs a command that must succeed.
pub(crate) fn ok(args: &[&str]) -> Output {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    output
}

pub(crate) fn json(args: &[&str]) -> Value {
    let output = ok(args);
    serde_json::from_str(stdout(&output))
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", stdout(&output)))
}

/// Asserts that a command fails: code 2, empty standard output,
/// one line that begins with `error:` and contains `words`.
pub(crate) fn refused(args: &[&str], words: &[&str]) {
    let output = output(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{args:?}");
    let message = stderr(&output);
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{args:?}: {word:?} is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// Like [`refused`], without any other line.
pub(crate) fn refused_in_a_line(args: &[&str], words: &[&str]) {
    refused(args, words);
    let output = output(args);
    assert_eq!(stderr(&output).lines().count(), 1, "{args:?}: {}", stderr(&output));
}
