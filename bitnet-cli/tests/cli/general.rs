//! Commands without a model: usage, doctor, completions, the trainer.

use serde_json::Value;

use crate::program::{bitnet, json, ok, output, refused_in_a_line, stderr, stdout};

const STORIES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../bitnet-inference/models/stories.gguf");

const COMMANDS: &[&str] = &[
    "run",
    "chat",
    "inspect",
    "tokenize",
    "perplexity",
    "bench",
    "verify",
    "calibrate",
    "convert",
    "compare",
    "cache",
    "pull",
    "list",
    "rm",
    "doctor",
    "train",
    "completions",
];

#[test]
fn help_is_there_for_every_command() {
    let all = ok(&["--help"]);
    for command in COMMANDS {
        assert!(stdout(&all).contains(command), "{command}");
        let help = ok(&[command, "--help"]);
        assert!(stdout(&help).contains("Usage: bitnet"), "{command}");
        let all = ok(&[command, "--help-all"]);
        for line in stdout(&help).lines().chain(stdout(&all).lines()) {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
        assert_eq!(stdout(&all), stdout(&ok(&["help", command])), "{command}");
    }
    for code in ["0 ", "1 ", "2 ", "130"] {
        assert!(stdout(&all).contains(code), "exit code {code} is documented");
    }
    for variable in ["BITNET_CACHE", "BITNET_ISA", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "NO_COLOR"] {
        assert!(stdout(&all).contains(variable), "{variable} is documented");
    }
    assert!(stdout(&ok(&["--version"])).starts_with("bitnet "));
}

#[test]
fn help_lists_common_options_and_help_all_lists_all() {
    let (short, all) = (ok(&["run", "--help"]), ok(&["run", "--help-all"]));
    let (short, all) = (stdout(&short), stdout(&all));
    let place =
        |text: &str, word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
    for text in [short, all] {
        assert!(place(text, "--no-echo") < place(text, "--threads"), "{text}");
        assert!(place(text, "--temp") < place(text, "--model <"), "{text}");
    }
    for rare in
        ["--i2s-layout", "--backend", "--typical", "--logit-bias", "--calibration", "--offline"]
    {
        assert!(!short.contains(rare) && all.contains(rare), "{rare}");
    }
    assert!(short.contains("--help-all lists"));
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
        &["bench", "-p", "x"],
        &["bench", "-t", "0"],
        &["bench", "-r", "0"],
        &["bench", "-o", "sql"],
        &["bench", "-pg", "1"],
        &["bench", "--against", "x"],
        &["bench", "--against", "bitnet=x"],
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    refused_in_a_line(&["inspect", "a.gguf", "--model", "b.gguf"], &["twice"]);
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
    let checks = value["checks"].as_array().unwrap();
    assert!(checks.iter().all(|c| c["verdict"] != "fail"), "{value}");
    let data = |name: &str| &checks.iter().find(|c| c["name"] == name).unwrap()["data"];
    let rate = |value: &Value| value.as_f64().unwrap();
    let bandwidth = data("bandwidth");
    let sustained = rate(&bandwidth["gigabytes_per_second"]);
    assert!(0.0 < sustained && sustained <= rate(&bandwidth["best_gigabytes_per_second"]));
    assert!(bandwidth["buffer_bytes"].as_u64().unwrap() > 0);
    for speed in data("embedded model")["speed"].as_array().unwrap() {
        assert!(rate(&speed["tokens_per_second"]) > 0.0);
        assert!(speed["predicted_tokens_per_second"].is_null(), "it fits the caches: {speed}");
    }
}

#[test]
fn doctor_compares_a_model_with_the_limits() {
    let value = json(&["doctor", "--json", "-t", "1", "-m", STORIES]);
    let checks = value["checks"].as_array().unwrap();
    let model = checks.iter().find(|c| c["name"] == "model").unwrap();
    let speeds = model["data"]["speed"].as_array().unwrap();
    assert_eq!(speeds.len(), 2, "{value}");
    let peak = checks.iter().find(|c| c["name"] == "integer peak").unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let macs = number(&speeds[0]["integer_macs_per_token"]);
    if let Some(peak) = peak["data"]["macs_per_second"].as_f64() {
        let predicted = number(&speeds[0]["predicted_tokens_per_second"]);
        // The last bits are lost in decimal digits.
        assert!((predicted * macs / peak - 1.0).abs() < 1e-9, "{value}");
    }
    refused_in_a_line(&["doctor", "-m", "missing.gguf"], &["missing.gguf"]);
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
fn forcing_an_unavailable_instruction_set_is_an_error() {
    let output = bitnet(&["run", "x"]).env("BITNET_ISA", "abacus").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("abacus") && stderr(&output).contains("scalar"),
        "{}",
        stderr(&output)
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

#[cfg(feature = "train")]
#[test]
fn train_makes_a_model_that_runs_and_can_be_continued() {
    use crate::program::{refused, with_input};

    let folder = tempfile::tempdir().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/stories.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(recipe).unwrap()).unwrap();
    for (key, value) in
        [("vocab_size", 280), ("hidden_size", 128), ("layers", 1), ("heads", 2), ("kv_heads", 1)]
    {
        config["model"][key] = value.into();
    }
    config["model"]["feed_forward"] = 128.into();
    for (key, value) in
        [("vocabulary_stories", 20), ("warmup_steps", 1), ("validation_stories", 1), ("steps", 4)]
    {
        config[key] = value.into();
    }
    if config.get("stage_two_step").is_some() {
        config["stage_two_step"] = 2.into();
    }
    let path = folder.path().join("recipe.json");
    let write = |config: &Value| std::fs::write(&path, config.to_string()).unwrap();
    write(&config);
    let out = folder.path().join("out");
    let args =
        ["train", "--json", "--config", path.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let first = json(&args);
    assert_eq!(first["steps"], 4);
    if std::path::Path::new("/proc/self/pagemap").exists() {
        let held = ["weights", "activations", "gradients", "optimizer state", "data"];
        crate::memory::adds_up(&first["memory"], &held);
    }
    let model = first["model"].as_str().unwrap().to_owned();
    assert_eq!(
        json(&["run", "Once", "-n", "3", "--ignore-eos", "--json", "-m", &model])["tokens"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let before = std::fs::read(&model).unwrap();
    let again = ["train", "--config", path.to_str().unwrap(), "--out", out.to_str().unwrap()];
    refused(&again, &["checkpoint.safetensors already exists", "--resume"]);
    assert_eq!(std::fs::read(&model).unwrap(), before, "a finished run stays as it is");
    let other = folder.path().join("other");
    let plain = ["train", "--config", path.to_str().unwrap(), "--out", other.to_str().unwrap()];
    let lines = with_input(&plain, b"");
    assert!(
        stderr(&lines).contains("step 4/4") && stderr(&lines).contains("tokens/s"),
        "{}",
        stderr(&lines)
    );
    config["steps"] = (-1).into();
    write(&config);
    refused(&again, &["recipe.json"]);
    assert_eq!(json(&["run", "Once", "-n", "0", "--json", "-m", &model])["text"], "");
}
