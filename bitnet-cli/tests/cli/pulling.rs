//! `bitnet pull` from a hub on loopback, and `hf:` names of cached models.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::program::{bitnet, stderr, stdout};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Returns the golden folder of a Hugging Face model.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/bitnet-2b-packed")
}

pub(crate) fn golden_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the program with `home` as its hub cache, isolated from the user's environment.
pub(crate) fn with_home(args: &[&str], home: &Path) -> Command {
    let mut command = bitnet(args);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env_remove(name);
    }
    for name in [
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "TRANSFORMERS_OFFLINE",
        "SSL_CERT_FILE",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HF_HUB_DISABLE_SYMLINKS",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home);
    command
}

pub(crate) fn refusal(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stdout(output), "");
    stderr(output)
}

#[test]
fn pulled_models_run_by_name() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hub/models--own--model");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    for file in golden_files() {
        fs::copy(&file, snapshot.join(file.file_name().unwrap())).unwrap();
    }
    let inspect = |model: &str| {
        let output = with_home(&["inspect", "--json", "-m", model], home.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        value["tensors"].clone()
    };
    assert_eq!(inspect("hf:own/model"), inspect(golden().to_str().unwrap()));
    let missing =
        with_home(&["inspect", "hf:own/other", "--offline"], home.path()).output().unwrap();
    assert!(refusal(&missing).contains("own/other is not in"), "{}", stderr(&missing));
    let wrong = with_home(&["inspect", "hf:../x"], home.path()).output().unwrap();
    assert!(refusal(&wrong).contains("is not a model name"), "{}", stderr(&wrong));
}

#[cfg(not(feature = "hub"))]
#[test]
fn pull_says_how_to_get_downloads() {
    crate::program::refused_in_a_line(&["pull", "own/model"], &["--features hub"]);
}

#[cfg(feature = "hub")]
pub(crate) mod downloads {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Returns a hub with one repository, `own/model`, without checksums.
    pub(crate) fn serve(files: Vec<(String, Vec<u8>)>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that disconnects early has all it needs.
                let _ = answer(&mut stream.unwrap(), &files);
            }
        });
        address
    }

    fn answer(stream: &mut TcpStream, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap()?;
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let words: Vec<&str> = first.split(' ').collect();
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
            .collect();
        let description = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        let name = words[1].rsplit('/').next().unwrap_or_default();
        let file = files.iter().position(|(file, _)| file == name);
        let (status, etag, body) =
            match (words[1].starts_with("/api/models/own/model/revision/main"), file) {
                (true, _) => (200, 0, description.as_bytes()),
                (false, Some(file)) => (200, file, files[file].1.as_slice()),
                (false, None) => (404, 0, &[][..]),
            };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} x\r\nConnection: close\r\nETag: \"e{etag}\"\r\nContent-Length: {length}\r\n\r\n"
        )?;
        if words[0] == "GET" {
            stream.write_all(body)?;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        std::io::copy(stream, &mut std::io::sink()).map(drop)
    }

    fn pull(args: &[&str], home: &Path, endpoint: &str) -> Output {
        with_home(&[&["pull"], args].concat(), home).env("HF_ENDPOINT", endpoint).output().unwrap()
    }

    #[test]
    fn a_model_is_pulled_and_runs() {
        let home = tempfile::tempdir().unwrap();
        let mut files: Vec<_> = golden_files()
            .into_iter()
            .map(|path| {
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
            })
            .collect();
        files.push(("notes.txt".to_owned(), b"not needed".to_vec()));
        let endpoint = serve(files);
        let pulled = pull(&["own/model"], home.path(), &endpoint);
        assert!(pulled.status.success(), "{}", stderr(&pulled));
        let path = Path::new(stdout(&pulled).trim_end());
        assert!(path.ends_with(format!("models--own--model/snapshots/{COMMIT}")), "{path:?}");
        assert!(!path.join("notes.txt").exists());
        assert!(stderr(&pulled).contains("model.safetensors: "), "{}", stderr(&pulled));
        let verify = with_home(&["verify", "-m", "hf:own/model"], home.path()).output().unwrap();
        assert!(verify.status.success(), "{}", stderr(&verify));

        let again = pull(&["own/model", "--json", "--quiet"], home.path(), &endpoint);
        assert_eq!(stderr(&again), "");
        let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(report["path"], path.to_str().unwrap());
        assert!(
            report["files"].as_array().unwrap().iter().all(|file| file["state"] == "present"),
            "{report}"
        );

        let offline = with_home(&["pull", "own/model"], home.path())
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        assert_eq!(stdout(&offline), stdout(&pulled));
        let note = pull(&["own/model", "--include", "*.txt", "-q"], home.path(), &endpoint);
        assert_eq!(stdout(&note), stdout(&pulled));
        assert_eq!(fs::read(path.join("notes.txt")).unwrap(), b"not needed");
    }

    #[test]
    fn different_models_are_listed() {
        let home = tempfile::tempdir().unwrap();
        let model = |name: &str, length| (name.to_owned(), vec![7_u8; length]);
        let endpoint = serve(vec![
            model("m-TQ1_0.gguf", 1 << 20),
            model("n-TQ2_0.gguf", 5),
            model("\u{1b}[2J.txt", 1),
        ]);
        for command in [&["pull", "own/model"][..], &["run", "x", "-m", "own/model"]] {
            let several =
                with_home(command, home.path()).env("HF_ENDPOINT", &endpoint).output().unwrap();
            let text = refusal(&several);
            for word in [
                "own/model:m-TQ1_0.gguf",
                "own/model:n-TQ2_0.gguf",
                "1.0 MiB",
                "own/model has 2 models",
            ] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        let list = pull(&["own/model", "--list"], home.path(), &endpoint);
        assert!(
            stdout(&list).contains("1.0 MiB  m-TQ1_0.gguf") && stdout(&list).contains("in 3 files")
        );
        assert!(!stdout(&list).contains('\u{1b}'));
        let one = pull(&["own/model:tq2_0"], home.path(), &endpoint);
        assert!(stdout(&one).trim_end().ends_with("n-TQ2_0.gguf"), "{}", stderr(&one));
        let said = "downloading own/model:tq2_0: n-TQ2_0.gguf (5 B, TQ2_0; needs about ";
        assert!(stderr(&one).contains(said), "{}", stderr(&one));
        let missing = pull(&["own/model:m-TQ3_0.gguf"], home.path(), &endpoint);
        assert!(refusal(&missing).contains("no file \"m-TQ3_0.gguf\""), "{}", stderr(&missing));
        let both = pull(&["own/model:x", "--include", "y"], home.path(), &endpoint);
        assert!(refusal(&both).contains("omit"), "{}", stderr(&both));
        let gone = pull(&["own/other"], home.path(), &endpoint);
        assert!(refusal(&gone).contains("own/other is not on http"), "{}", stderr(&gone));
    }
    #[test]
    fn a_model_in_several_types_is_pulled_in_the_best() {
        let home = tempfile::tempdir().unwrap();
        let model = |name: &str, length| (name.to_owned(), vec![7_u8; length]);
        let endpoint = serve(vec![
            model("Ternary-Bonsai-8B-F16.gguf", 900),
            model("Ternary-Bonsai-8B-PQ2_0.gguf", 100),
            model("Ternary-Bonsai-8B-Q2_0.gguf", 100),
            model("Ternary-Bonsai-8B-Q2_0_g64.gguf", 110),
            model("Ternary-Bonsai-8B-mmproj-F16.gguf", 10),
        ]);
        let list = pull(&["own/model", "--list", "--json"], home.path(), &endpoint);
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        let pulled = pull(&["own/model", "--json"], home.path(), &endpoint);
        let text = stderr(&pulled);
        let report: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
        let selected = &report["selected"];
        assert_eq!(selected["file"], "Ternary-Bonsai-8B-PQ2_0.gguf", "{text}");
        for field in ["file", "bytes", "memory_bytes", "reason", "others"] {
            assert_eq!(selected[field], list["selected"][field], "{field}");
        }
        assert_eq!((&selected["storage"], &selected["fits"]), (&"PQ2_0".into(), &true.into()));
        assert_eq!(selected["others"].as_array().unwrap().len(), 3);
        assert!(selected["memory_bytes"].as_u64().unwrap() > 100);
        let line = text.lines().next().unwrap();
        assert!(line.contains(selected["reason"].as_str().unwrap()), "{line}");
        assert!(
            line.contains("(100 B, PQ2_0; needs about ") && line.contains(" are free; "),
            "{line}"
        );
        assert!(report["path"].as_str().unwrap().ends_with("PQ2_0.gguf"));
    }

    /// A GGUF file whose header has these keys, followed by zeros.
    fn header(architecture: &str, length: usize) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(text("general.architecture"));
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(text(architecture));
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn the_header_of_a_large_file_is_read_before_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let large = header("hunyuan-dense", 129 << 20);
        let endpoint = serve(vec![("m-TQ2_0.gguf".to_owned(), large)]);
        for command in [&["pull", "own/model"][..], &["run", "x", "-m", "own/model"]] {
            let output =
                with_home(command, home.path()).env("HF_ENDPOINT", &endpoint).output().unwrap();
            let text = refusal(&output);
            assert!(text.contains("hunyuan-dense"), "{text}");
            assert!(text.contains("anyway: bitnet pull own/model:m-TQ2_0.gguf)"), "{text}");
        }
        assert!(!home.path().join("hub/models--own--model/blobs").exists());
        // Another program may read what this one does not.
        let named = pull(&["own/model:TQ2_0"], home.path(), &endpoint);
        assert!(named.status.success(), "{}", stderr(&named));
        let warning = "warning: this program can't run it: ";
        assert!(stderr(&named).contains(warning), "{}", stderr(&named));
    }

    #[test]
    fn the_settings_of_a_folder_are_read_before_its_weights() {
        let home = tempfile::tempdir().unwrap();
        let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
            "num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":128,"vocab_size":100,
            "rms_norm_eps":1e-5,"max_position_embeddings":256,"quantization_config":{"quant_method":"awq","bits":4}}"#;
        let endpoint = serve(vec![
            ("config.json".to_owned(), config.into()),
            ("model.safetensors".to_owned(), vec![7; 1000]),
        ]);
        let run = with_home(&["run", "x", "-m", "own/model"], home.path())
            .env("HF_ENDPOINT", &endpoint)
            .output()
            .unwrap();
        let text = refusal(&run);
        assert!(text.contains("awq") && text.contains("own/model was not downloaded"), "{text}");
        assert!(!home.path().join("hub/models--own--model/blobs").exists());
        let all = pull(&["own/model", "--include", "*"], home.path(), &endpoint);
        assert!(all.status.success(), "{}", stderr(&all));
    }
}
