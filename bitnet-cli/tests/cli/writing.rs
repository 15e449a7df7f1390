//! `bitnet run`: text, samplers, streams and signals.

use std::io::{BufReader, Read};
use std::process::Command;

use serde_json::Value;

use crate::program::{json, ok, refused, refused_in_a_line, spawn, stderr, stdout, with_input};

#[test]
fn invalid_sampling_values_are_named_before_generation() {
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
fn run_continues_the_prompt_and_prints_speed() {
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
fn reference_and_all_thread_counts_give_equal_text() {
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
fn drafts_do_not_change_the_text() {
    let prompt = "The dog ran. The dog ran. The dog";
    for sampling in [["--temp", "0"], ["--temp", "0.8"]] {
        let run = |draft: &str| {
            let args = ["run", prompt, "-n", "60", "--seed", "5", "--json", "--draft", draft];
            json(&[&args[..], &sampling].concat())
        };
        let (without, with, chosen) = (run("off"), run("ngram"), run("auto"));
        assert_eq!(without["draft"], "off");
        assert_eq!(without["draft_tokens"], 0);
        assert_eq!((&with["draft"], &chosen["draft"]), (&"ngram".into(), &"ngram".into()));
        assert_eq!((&with["text"], &with["tokens"]), (&without["text"], &without["tokens"]));
        assert_eq!(chosen["tokens"], without["tokens"]);
    }
}

#[test]
fn a_layer_that_drafts_tokens_comes_from_a_second_file() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let model = &format!("{golden}/models/gguf-qwen35-pq2_0/model.gguf");
    let layer = &format!("{golden}/drafts/gguf-qwen35-mtp.gguf");
    let args = ["run", "abab", "-m", model, "-n", "30", "--temp", "0", "--ignore-eos", "--json"];
    let run = |more: &[&str]| json(&[&args[..], more].concat());
    let (without, with) = (run(&["--draft", "off"]), run(&["--draft-model", layer]));
    assert_eq!(with["draft"], "mtp");
    assert!(with["draft_tokens"].as_u64() > Some(0), "{with}");
    assert_eq!(with["tokens"], without["tokens"]);

    let none = ["run", "a", "-m", model, "--draft", "mtp"];
    refused_in_a_line(&none, &["model.gguf", "--draft-model"]);
    let two = ["run", "a", "-m", model, "--draft", "ngram", "--draft-model", layer];
    refused_in_a_line(&two, &["--draft mtp"]);
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
fn stop_text_ends_generation_and_is_omitted() {
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
fn closed_pipe_ends_the_program_silently() {
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
fn control_c_stops_generation_and_keeps_the_text() {
    let mut child =
        spawn(&["run", "Once upon a time", "-n", "100000", "--ctx", "100000", "--ignore-eos"]);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    // The prompt and some text: generation is running.
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
