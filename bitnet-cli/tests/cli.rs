//! Drives the built program as a user does: every command with the embedded model, and with wrong files and values.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const COMMANDS: [&str; 9] = [
    "run",
    "chat",
    "inspect",
    "tokenize",
    "perplexity",
    "verify",
    "doctor",
    "train",
    "completions",
];

fn bitnet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(args).env_remove("BITNET_ISA").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    bitnet(args).output().unwrap()
}

fn with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = spawn(args);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn spawn(args: &[&str]) -> Child {
    bitnet(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The output of a command that must succeed.
fn ok(args: &[&str]) -> Output {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    output
}

fn json(args: &[&str]) -> Value {
    let output = ok(args);
    serde_json::from_str(stdout(&output))
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", stdout(&output)))
}

/// That a command refuses: code 2, nothing on standard output, one line that begins with `error:` and has `words`.
fn refused(args: &[&str], words: &[&str]) {
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

/// As [`refused`], with nothing but that one line.
fn refused_in_a_line(args: &[&str], words: &[&str]) {
    refused(args, words);
    let output = output(args);
    assert_eq!(stderr(&output).lines().count(), 1, "{args:?}: {}", stderr(&output));
}

fn golden_models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let mut models: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    models
}

/// What `--model` takes for a golden folder, with the options that the file itself cannot tell.
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
fn help_is_there_for_every_command() {
    let all = ok(&["--help"]);
    for command in COMMANDS {
        assert!(stdout(&all).contains(command), "{command}");
        let help = ok(&[command, "--help"]);
        assert!(stdout(&help).contains("Usage: bitnet"), "{command}");
        for line in stdout(&help).lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
    for code in ["0 ", "1 ", "2 ", "130"] {
        assert!(stdout(&all).contains(code), "exit code {code} is documented");
    }
    assert!(stdout(&ok(&["--version"])).starts_with("bitnet "));
}

#[test]
fn wrong_usage_is_refused_with_code_2() {
    for args in [
        &["sing"][..],
        &["run"],
        &["run", "x", "--temp", "warm"],
        &["run", "x", "--logit-bias", "1"],
        &["run", "x", "--threads", "0"],
        &["run", "x", "--ctx", "0"],
        &["run", "x", "--backend", "abacus"],
        &["tokenize"],
        &["perplexity"],
        &["completions", "cmd"],
        &["verify", "--tokens", "0"],
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    refused_in_a_line(&["inspect", "a.gguf", "--model", "b.gguf"], &["twice"]);
}

#[test]
fn sampling_values_out_of_range_are_named_before_anything_is_written() {
    for (option, value, name) in [
        ("--temp", "-1", "temperature"),
        ("--temp", "NaN", "temperature"),
        ("--top-p", "0", "top_p"),
        ("--top-p", "1.5", "top_p"),
        ("--min-p", "2", "min_p"),
        ("--typical", "0", "typical_p"),
        ("--repeat-penalty", "0", "repetition_penalty"),
        ("--logit-bias", "99999999=1", "logit_bias"),
    ] {
        refused_in_a_line(&["run", "Once", option, value], &[name]);
    }
}

#[test]
fn run_continues_the_prompt_and_says_how_fast() {
    let output = ok(&["run", "Once upon a time", "-n", "12", "--temp", "0"]);
    let text = stdout(&output);
    assert!(text.starts_with("Once upon a time") && text.ends_with('\n'), "{text}");
    assert!(text.len() > "Once upon a time\n".len(), "{text}");
    let note = stderr(&output);
    assert!(note.contains("tokens/s") && note.contains("greedy"), "{note}");
    assert!(!text.contains('\x1b') && !note.contains('\x1b'), "no colours in a pipe");

    let bare = ok(&["run", "Once upon a time", "-n", "12", "--temp", "0", "--no-echo"]);
    assert_eq!(format!("Once upon a time{}", stdout(&bare)), text);
    let coloured = ok(&["run", "Once upon a time", "-n", "1", "--color", "always"]);
    assert!(stderr(&coloured).contains('\x1b'));
}

#[test]
fn the_reference_and_any_number_of_threads_write_the_same() {
    let text = |more: &[&str]| {
        let mut args = vec!["run", "Once upon a time", "-n", "16", "--temp", "0"];
        args.extend(more);
        stdout(&ok(&args)).to_owned()
    };
    let expected = text(&[]);
    assert_eq!(text(&["--threads", "1"]), expected);
    assert_eq!(text(&["--threads", "3"]), expected);
    assert_eq!(text(&["--backend", "reference"]), expected);
}

#[test]
fn run_reads_the_prompt_from_standard_input() {
    let expected = ok(&["run", "Once upon a time", "-n", "8", "--temp", "0"]);
    let piped = with_input(&["run", "-", "-n", "8", "--temp", "0"], b"Once upon a time\n");
    assert_eq!(stdout(&piped), stdout(&expected));
    let broken = with_input(&["run", "-"], b"\xff\xfe");
    assert_eq!(broken.status.code(), Some(2));
    assert!(stderr(&broken).contains("UTF-8"));
}

#[test]
fn seeds_reproduce_and_are_printed() {
    let run = |seed: Option<&str>| {
        let mut args =
            vec!["run", "Once upon a time", "-n", "40", "--temp", "1.2", "--top-p", "1", "--json"];
        if let Some(seed) = seed {
            args.extend(["--seed", seed]);
        }
        json(&args)
    };
    let first = run(None);
    let seed = first["seed"].as_u64().unwrap().to_string();
    assert_eq!(run(Some(&seed))["text"], first["text"]);
    let texts: Vec<Value> = ["1", "2", "3"].iter().map(|s| run(Some(s))["text"].clone()).collect();
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "{texts:?}");
}

#[test]
fn run_json_has_text_tokens_reason_and_timings() {
    let value =
        json(&["run", "Once upon a time", "-n", "5", "--temp", "0", "--ignore-eos", "--json"]);
    assert_eq!(value["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(value["finish_reason"], "length");
    assert_eq!(value["prompt"], "Once upon a time");
    assert!(value["text"].is_string());
    assert!(value["write_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(value["prompt_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_stop_text_ends_the_writing_and_is_not_shown() {
    let whole =
        json(&["run", "Once upon a time", "-n", "12", "--temp", "0", "--ignore-eos", "--json"]);
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(4).take(3).collect();
    let cut = json(&[
        "run",
        "Once upon a time",
        "-n",
        "12",
        "--temp",
        "0",
        "--ignore-eos",
        "--json",
        "--stop",
        &stop,
    ]);
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &text[..text.find(&stop).unwrap()]);
}

#[test]
fn a_forbidden_token_is_not_written() {
    let first = |more: &[&str]| {
        let mut args =
            vec!["run", "Once upon a time", "-n", "1", "--temp", "0", "--ignore-eos", "--json"];
        args.extend(more);
        json(&args)["tokens"][0].as_u64().unwrap()
    };
    let likeliest = first(&[]);
    assert_ne!(first(&["--logit-bias", &format!("{likeliest}=-inf")]), likeliest);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    refused(&["run", "Once upon a time there was a dog", "--no-echo", "--ctx", "2"], &["context"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut child =
        spawn(&["run", "Once upon a time", "-n", "100000", "--ctx", "100000", "--ignore-eos"]);
    let mut reader = child.stdout.take().unwrap();
    let mut first = [0u8; 4];
    reader.read_exact(&mut first).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("error") && !stderr(&output).contains("panicked"),
        "{}",
        stderr(&output)
    );
}

#[cfg(unix)]
#[test]
fn control_c_stops_the_writing_and_keeps_what_is_there() {
    let mut child =
        spawn(&["run", "Once upon a time", "-n", "100000", "--ctx", "100000", "--ignore-eos"]);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    // The prompt and some text: the program is writing.
    let mut begun = [0u8; 24];
    reader.read_exact(&mut begun).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(rest.ends_with('\n'));
    assert!(stderr(&output).contains("stopped"), "{}", stderr(&output));
}

#[test]
fn chat_answers_lines_and_obeys_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let script = format!(
        "/help\n/seed 5\n/temp 0\nOnce upon a time\n/stats\nThe end came\n/undo\n/save {}\n/reset\n/load {}\n/retry\n/quit\n",
        file.display(),
        file.display()
    );
    let output = with_input(&["chat", "-n", "8"], script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stdout(&output).trim().is_empty());
    let notes = stderr(&output);
    for word in ["/system", "tokens/s", "taken back: The end came", "1 turn saved", "1 turn loaded"]
    {
        assert!(notes.contains(word), "{word:?} is not in: {notes}");
    }
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["content"], "Once upon a time");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn chat_with_json_gives_a_line_for_each_answer() {
    let output =
        with_input(&["chat", "-n", "4", "--json", "--seed", "1"], b"Once upon a time\nThen\n");
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Vec<Value> =
        stdout(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert!(answers[1]["prompt_tokens"].as_u64() > answers[0]["prompt_tokens"].as_u64());
}

#[test]
fn a_chat_that_outgrows_the_context_forgets_its_oldest_turns() {
    let script = "Once upon a time there was a little dog.\n".repeat(8);
    let output = with_input(&["chat", "-n", "4", "--ctx", "64", "--ignore-eos"], script.as_bytes());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("no longer count"), "{}", stderr(&output));
}

#[test]
fn mistakes_in_a_chat_script_are_told() {
    for (script, word) in [
        ("/dance\n", "/dance"),
        ("/load /nonexistent/talk.json\n", "talk.json"),
        ("/temp x\n", "temp"),
    ] {
        let output = with_input(&["chat"], script.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{script}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{script}: {}", stderr(&output));
    }
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
fn doctor_reports_this_machine() {
    let output = ok(&["doctor"]);
    for word in [
        "processor",
        "caches",
        "instructions",
        "kernels",
        "memory",
        "bandwidth",
        "NUMA",
        "embedded model",
    ] {
        assert!(stdout(&output).contains(word), "{word}: {}", stdout(&output));
    }
    let value = json(&["doctor", "--json"]);
    assert_eq!(value["passed"], true);
    assert!(value["checks"].as_array().unwrap().iter().all(|c| c["verdict"] != "fail"), "{value}");
}

#[test]
fn doctor_fails_where_the_program_cannot_work() {
    let output = bitnet(&["doctor", "--json"]).env("BITNET_ISA", "abacus").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(value["passed"], false);
    let scalar = bitnet(&["doctor", "--json"]).env("BITNET_ISA", "scalar").output().unwrap();
    assert!(scalar.status.success() && stdout(&scalar).contains("BITNET_ISA"));
}

#[test]
fn a_forced_instruction_set_that_is_not_there_is_refused() {
    let output = bitnet(&["run", "x"]).env("BITNET_ISA", "abacus").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("abacus") && stderr(&output).contains("scalar"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn unusable_models_are_refused_in_a_line_that_names_them() {
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
    std::fs::write(path("bad.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\xff{").unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    for name in ["missing.gguf", "empty.gguf", "text.gguf", "cut.gguf", "bad.safetensors", "folder"]
    {
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

#[test]
fn completions_are_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&["completions", shell]);
        assert!(stdout(&script).contains("perplexity"), "{shell}");
    }
}

#[cfg(not(feature = "train"))]
#[test]
fn train_says_how_to_get_the_trainer() {
    refused_in_a_line(&["train", "--config", "x.json", "--out", "x"], &["--features train"]);
}

#[cfg(feature = "train")]
#[test]
fn train_prints_the_story_of_a_seed() {
    let story = ok(&["train", "--story", "7"]);
    assert!(stdout(&story).split_whitespace().count() > 20);
    assert_eq!(stdout(&ok(&["train", "--story", "7"])), stdout(&story));
}

#[test]
fn lines_of_a_chat_are_answered_as_they_come() {
    let mut child = spawn(&["chat", "-n", "3", "--temp", "0", "--ignore-eos", "--json"]);
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    for line in ["Once upon a time\n", "And then\n"] {
        input.write_all(line.as_bytes()).unwrap();
        input.flush().unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["text"].is_string());
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}
