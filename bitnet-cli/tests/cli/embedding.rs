//! `bitnet embed`, and models without a head in the other commands.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{json, ok, output, stderr, stdout};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn model() -> String {
    golden("gguf-gemma3-embedding-i2s").join("model.gguf").to_str().unwrap().to_owned()
}

/// The numbers of a line.
fn numbers(line: &str) -> Vec<f32> {
    line.split(' ').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn texts_from_arguments_and_files_become_vectors() {
    let model = model();
    let printed = ok(&["embed", "-m", &model, "a cat", "a dog"]);
    let vectors: Vec<_> = stdout(&printed).lines().map(numbers).collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128]);
    for vector in &vectors {
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts");
    std::fs::write(&file, "a cat\n\na dog\n").unwrap();
    let file = file.to_str().unwrap();
    let of_file = ok(&["embed", "-m", &model, "--input", file]);
    assert_eq!(stdout(&of_file), stdout(&printed));
    let prefixed = ok(&["embed", "-m", &model, "--prefix", "a ", "cat", "dog"]);
    assert_eq!(stdout(&prefixed), stdout(&printed));
    let long = ok(&["embed", "-m", &model, "--no-normalize", "a cat"]);
    let length = numbers(stdout(&long).trim()).iter().map(|x| x * x).sum::<f32>();
    assert!((length - 1.0).abs() > 0.1, "{length}");
}

#[test]
fn the_document_has_vectors_and_similarities() {
    let model = model();
    let args =
        ["embed", "-m", &model, "--json", "--similarity", "--pooling", "mean", "a cat", "a dog"];
    let value: Value = json(&args);
    assert_eq!((&value["pooling"], &value["normalized"]), (&"mean".into(), &true.into()));
    assert_eq!(value["dimensions"], 128);
    let second = &value["embeddings"][1];
    assert_eq!((&second["index"], &second["text"]), (&1.into(), &"a dog".into()));
    assert_eq!(second["embedding"].as_array().unwrap().len(), 128);
    assert!(second["tokens"].as_u64().unwrap() > 2);
    let table = &value["similarity"];
    assert!((table[0][0].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(table[0][1], table[1][0]);
    let printed =
        ok(&["embed", "-m", &model, "--similarity", "--pooling", "mean", "a cat", "a dog"]);
    let shown: Vec<_> = stdout(&printed).lines().map(numbers).collect();
    assert!((f64::from(shown[0][1]) - table[0][1].as_f64().unwrap()).abs() < 1e-4);
}

#[test]
fn any_model_makes_embeddings_and_long_texts_are_refused_unless_cut() {
    let printed = ok(&["embed", "Once upon a time"]);
    assert_eq!(stdout(&printed).lines().count(), 1);
    let model = model();
    let refused = output(&["embed", "-m", &model, "--max-tokens", "3", "a long text"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("3 available"), "{}", stderr(&refused));
    let cut = ok(&["embed", "-m", &model, "--max-tokens", "3", "--truncate", "a long text"]);
    assert!(stderr(&cut).contains("1 text cut"), "{}", stderr(&cut));
    for wrong in [
        &["embed", "-m", &model, "--input", "none.txt"][..],
        &["embed", "-m", &model, "--pooling", "max", "a"],
        &["embed", "-m", &model, "--prompt-name", "query", "a"],
    ] {
        assert_eq!(output(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn commands_that_write_text_refuse_a_model_without_a_head() {
    let model = model();
    for args in [&["run", "-m", &model, "a"][..], &["chat", "-m", &model], &["bench", "-m", &model]]
    {
        let refused = output(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", stdout(&refused));
        let message = stderr(&refused);
        assert!(
            message.contains("without a head") && message.contains("bitnet embed"),
            "{message}"
        );
    }
}

#[test]
fn verify_and_inspect_read_models_without_a_head() {
    for path in [model(), golden("qwen3-embedding").to_str().unwrap().to_owned()] {
        let verified = ok(&["verify", &path]);
        assert!(stdout(&verified).contains("states within the bound"), "{}", stdout(&verified));
        let value = json(&["inspect", &path, "--json"]);
        assert_eq!(value["config"]["has_head"], false);
        assert!(value["facts"]["pooling"].as_str().unwrap().starts_with("last"));
    }
}
