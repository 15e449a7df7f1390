//! Extreme sizes and numbers, endless inputs, full outputs.

use crate::program::{output, refused_in_a_line, stderr, with_input};

/// Asserts that a command fails with code 2 and a message, without a panic.
fn refused_in_words(args: &[&str], words: &str) {
    let output = output(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
}

#[test]
fn numbers_out_of_range_are_errors() {
    for threads in ["0", "1025", "100000", "9223372036854775807", "99999999999999999999", "-4"] {
        refused_in_words(&["run", "x", "--threads", threads], "from 1 to 1024");
        refused_in_words(&["bench", "-t", threads], "from 1 to 1024");
    }
    for (option, value, words) in [
        ("-n", "-2", "at least 0"),
        ("-n", "many", "at least 0"),
        ("--seed", "-2", "from 0 to 18446744073709551615"),
        ("--seed", "18446744073709551616", "from 0 to 18446744073709551615"),
        ("--top-k", "-2", "at least 0"),
        ("--temp", "1e40", "temperature"),
        ("--temp", "inf", "temperature"),
        ("--ctx", "-1", "'-1'"),
    ] {
        refused_in_words(&["run", "x", option, value], words);
    }
}

#[test]
fn contexts_larger_than_memory_are_errors_with_size() {
    for context in ["99999999999", "9223372036854775807", "18446744073709551615"] {
        for command in [&["run", "x", "--ctx", context][..], &["chat", "--ctx", context]] {
            refused_in_a_line(command, &["keys and values", "are free", "at most"]);
        }
    }
}

#[test]
fn oversized_texts_are_rejected_before_tokenization() {
    let long = with_input(&["run", "--no-echo"], "word ".repeat(2_000_000).as_bytes());
    assert_eq!(long.status.code(), Some(2));
    assert!(stderr(&long).contains("the context holds"), "{}", stderr(&long));
    assert!(long.stdout.is_empty());
}

#[cfg(unix)]
#[test]
fn folders_and_devices_are_no_texts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for (file, words) in
        [("/dev/zero", "a device"), ("/dev/urandom", "a device"), (folder, "a folder")]
    {
        for command in [
            &["run", "--file", file][..],
            &["tokenize", "--file", file],
            &["perplexity", "--file", file],
            &["calibrate", "--file", file],
            &["bench", "--report", file],
            &["run", "x", "--chat-template", file],
            &["run", "x", "--calibration", file],
        ] {
            refused_in_a_line(command, &[words]);
        }
    }
}

#[cfg(unix)]
#[test]
fn a_named_pipe_gives_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, "Once upon a time\n")
    });
    let args = ["run", "--file", pipe.to_str().unwrap(), "-n", "2"];
    let out = output(&args);
    assert!(out.stdout.starts_with(b"Once upon a time"), "{}", stderr(&out));
    writer.join().unwrap().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_an_error() {
    for args in [
        &["--help"][..],
        &["run", "--help-all"],
        &["help", "run"],
        &["--version"],
        &["run", "x", "-n", "2"],
        &["run", "x", "-n", "2", "--json"],
        &["inspect"],
        &["tokenize", "x"],
        &["tokenize", "--decode", "5"],
        &["completions", "bash"],
        &["cache", "list", "--json"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = crate::program::bitnet(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("No space left"), "{args:?}: {}", stderr(&output));
    }
}
