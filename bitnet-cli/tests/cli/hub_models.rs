//! Models on a hub: resolution, selection, download, listing and removal.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::program::stderr;
#[cfg(feature = "hub")]
use crate::program::stdout;
use crate::pulling::{refusal, with_home};

fn run(args: &[&str], home: &Path, endpoint: &str) -> Output {
    // In an empty folder no name is a path.
    with_home(args, home).env("HF_ENDPOINT", endpoint).current_dir(home).output().unwrap()
}

/// An unreachable hub.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn names_with_file_extensions_are_never_downloaded() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("models")).unwrap();
    for path in ["own/model.gguf", "models/x", "./own/model", "own/model.safetensors", "model"] {
        let output = run(&["inspect", path], home.path(), NOWHERE);
        let text = refusal(&output);
        assert!(text.contains("cannot find the file") && text.contains(path), "{text}");
    }
}

#[test]
fn offline_lists_missing_files_without_requests() {
    let home = tempfile::tempdir().unwrap();
    for args in [
        &["inspect", "own/model", "--offline"][..],
        &["--offline", "run", "x", "-m", "hf:own/model"],
        &["run", "x", "-hf", "own/model", "--offline"],
    ] {
        let output = run(args, home.path(), NOWHERE);
        assert!(refusal(&output).contains("own/model is not in"), "{}", stderr(&output));
    }
}

#[test]
fn an_empty_cache_lists_nothing_and_removes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let list = run(&["list", "--json"], home.path(), NOWHERE);
    let value: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((value["bytes"].as_u64(), value["models"].as_array().unwrap().len()), (Some(0), 0));
    let missing = run(&["rm", "own/model", "--yes"], home.path(), NOWHERE);
    assert!(refusal(&missing).contains("own/model is not in"), "{}", stderr(&missing));
}

#[cfg(feature = "hub")]
mod downloads {
    use super::*;
    use crate::pulling::downloads::serve;
    use crate::pulling::{COMMIT, golden_files};

    fn golden() -> Vec<(String, Vec<u8>)> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        golden_files().iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
    }

    #[test]
    fn a_model_is_downloaded_once_listed_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let endpoint = serve(golden());
        let first = run(&["inspect", "hf:own/model", "--json"], home.path(), &endpoint);
        assert!(first.status.success(), "{}", stderr(&first));
        let notes = stderr(&first);
        assert!(notes.starts_with("downloading own/model: safetensors ("), "{notes}");
        assert!(notes.contains("the only model of the repository"), "{notes}");
        // The hub is not needed from here.
        for name in ["own/model", "hf:own/model"] {
            let again = run(&["inspect", "-m", name, "--json"], home.path(), NOWHERE);
            assert_eq!(stdout(&again), stdout(&first), "{}", stderr(&again));
            assert_eq!(stderr(&again), "");
        }

        let list = run(&["list", "--json"], home.path(), NOWHERE);
        let value: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        let model = &value["models"][0];
        assert_eq!(model["name"], "own/model");
        assert_eq!(model["files"].as_array().unwrap().len(), 3, "weights and two of settings");
        assert!(model["path"].as_str().unwrap().ends_with(COMMIT));
        assert_eq!(model["bytes"], value["bytes"]);
        let words = run(&["list"], home.path(), NOWHERE);
        assert!(stdout(&words).contains("own/model") && stdout(&words).contains("1 model in"));

        let asked = run(&["rm", "own/model"], home.path(), NOWHERE);
        assert!(refusal(&asked).contains("--yes"), "{}", stderr(&asked));
        let removed = run(&["rm", "own/model", "--yes", "--json"], home.path(), NOWHERE);
        let value: serde_json::Value = serde_json::from_slice(&removed.stdout).unwrap();
        assert_eq!(value["freed_bytes"], model["bytes"]);
        assert!(!home.path().join("hub/models--own--model").exists());
    }

    #[test]
    fn best_of_several_models_is_selected_and_named() {
        let home = tempfile::tempdir().unwrap();
        let model = |name: &str, length| (name.to_owned(), vec![7_u8; length]);
        let endpoint = serve(vec![
            model("m-Q4_K_M.gguf", 50),
            model("m-TQ2_0.gguf", 100),
            model("m-f16.gguf", 900),
        ]);
        for endpoint in [endpoint.as_str(), NOWHERE] {
            // The file is not a model, which is detected after the download.
            let output = run(&["inspect", "hf:own/model"], home.path(), endpoint);
            assert!(refusal(&output).contains("m-TQ2_0.gguf"), "{}", stderr(&output));
        }
        let snapshot = home.path().join("hub/models--own--model/snapshots").join(COMMIT);
        assert_eq!(fs::read_dir(snapshot).unwrap().count(), 1);
        let endpoint = serve(vec![model("m-Q4_K_M.gguf", 50), model("m-TQ2_0.gguf", 100)]);
        let other = tempfile::tempdir().unwrap();
        let output = run(&["inspect", "hf:own/model"], other.path(), &endpoint);
        let text = stderr(&output);
        let start =
            "downloading own/model: m-TQ2_0.gguf (100 B, TQ2_0; needs about 160.0 MiB of memory, ";
        assert!(text.starts_with(start), "{text}");
        let end = " are free; the only ternary file; the other is m-Q4_K_M.gguf)";
        assert!(text.contains(end), "{text}");
    }

    #[test]
    fn missing_files_of_a_model_are_downloaded() {
        let home = tempfile::tempdir().unwrap();
        let endpoint = serve(golden());
        let part = run(&["pull", "own/model", "--include", "*.json", "-q"], home.path(), &endpoint);
        assert!(part.status.success(), "{}", stderr(&part));
        for args in
            [&["run", "x", "-m", "own/model", "--offline"][..], &["pull", "own/model", "--offline"]]
        {
            let offline = run(args, home.path(), NOWHERE);
            let text = refusal(&offline);
            assert!(text.contains("own/model is not complete in"), "{text}");
            assert!(text.contains("model.safetensors missing"), "{text}");
        }
        // The model has no tokenizer, which is detected after the download.
        let whole = run(&["tokenize", "x", "-m", "own/model"], home.path(), &endpoint);
        assert!(stderr(&whole).starts_with("downloading own/model"), "{}", stderr(&whole));
        assert!(refusal(&whole).contains("no tokenizer"), "{}", stderr(&whole));
        let verified = run(&["verify", "own/model"], home.path(), NOWHERE);
        assert!(verified.status.success(), "{}", stderr(&verified));
    }

    #[test]
    fn file_commands_download_only_names_with_prefix() {
        let home = tempfile::tempdir().unwrap();
        let endpoint = serve(golden());
        for args in [
            &["inspect", "own/model"][..],
            &["inspect", "--diff", "own/model", "own/model"],
            &["verify", "own/model"],
            &["convert", "own/model", "out.gguf"],
            &["compare", "own/model", "own/model", "--file", "x"],
        ] {
            let output = run(args, home.path(), &endpoint);
            let text = refusal(&output);
            for words in ["no such file or folder", "write hf:own/model", "bitnet pull own/model"] {
                assert!(text.contains(words), "{args:?}: {words}: {text}");
            }
        }
        assert!(!home.path().join("hub").exists());
    }

    #[test]
    fn unsupported_types_are_downloaded_only_by_name() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| (name.to_owned(), vec![7_u8; 50]);
        let endpoint = serve(vec![file("m-Q4_K_M.gguf"), file("m-Q5_K_M.gguf")]);
        let output = run(&["run", "x", "-m", "own/model"], home.path(), &endpoint);
        let text = refusal(&output);
        assert!(
            text.contains("unsupported types") && text.contains("own/model:m-Q5_K_M.gguf"),
            "{text}"
        );
        assert!(!home.path().join("hub/models--own--model/snapshots").exists());
        let named = run(&["run", "x", "-m", "own/model:Q4_K_M"], home.path(), &endpoint);
        assert!(refusal(&named).contains("m-Q4_K_M.gguf"), "{}", stderr(&named));
        let snapshot = home.path().join("hub/models--own--model/snapshots").join(COMMIT);
        assert_eq!(fs::read_dir(snapshot).unwrap().count(), 1);
    }

    #[test]
    fn invalid_options_are_reported_before_a_download() {
        let home = tempfile::tempdir().unwrap();
        let endpoint = serve(golden());
        for option in ["--chat-template", "--calibration"] {
            let args = ["run", "x", "-m", "own/model", option, "no/such.file"];
            let output = run(&args, home.path(), &endpoint);
            assert!(refusal(&output).contains("no/such.file"), "{}", stderr(&output));
        }
        assert!(!home.path().join("hub").exists());
    }

    #[test]
    fn a_path_that_exists_wins() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("own/model");
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in golden() {
            fs::write(folder.join(name), bytes).unwrap();
        }
        let output = run(&["inspect", "own/model", "--json"], home.path(), NOWHERE);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}
