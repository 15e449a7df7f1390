//! Interrupted, damaged and repeated conversions: the final name never has a
//! wrong result, and the bytes are always equal.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_convert::{Budget, ConvertOptions, Error, Report, Stage, Target, convert};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// Returns options with one thread, so that a conversion stops at a defined step.
fn options() -> ConvertOptions {
    ConvertOptions { threads: Some(1), ..ConvertOptions::default() }
}

fn whole(input: &Path, output: &Path, options: &ConvertOptions) -> Report {
    convert(input, output, options, &mut |_| true).unwrap()
}

fn partial_of(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap().to_string_lossy().into_owned();
    output.with_file_name(format!(".{name}.partial"))
}

/// Stops after `steps` calls of the progress function.
fn stop_after(input: &Path, output: &Path, steps: usize) -> Result<Report, Error> {
    let mut calls = 0;
    convert(input, output, &options(), &mut |_| {
        calls += 1;
        calls <= steps
    })
}

#[test]
fn stopped_conversions_resume_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bitnet-2b-online", "llama-bitlinear-packed"] {
        let input = golden(name);
        let straight = folder.path().join("straight.gguf");
        let steps =
            whole(&input, &straight, &ConvertOptions { overwrite: true, ..options() }).steps;
        let output = folder.path().join("stopped.gguf");
        let mut resumed = 0;
        for stop in 0..steps {
            match stop_after(&input, &output, stop) {
                Err(Error::Stopped { partial }) => {
                    assert_eq!(partial, partial_of(&output));
                    assert!(!output.exists() && partial.exists());
                }
                Ok(report) => {
                    resumed = report.resumed;
                    break;
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
        if !output.exists() {
            resumed = whole(&input, &output, &options()).resumed;
        }
        assert!(resumed > 0, "{name}: nothing was taken from the stopped runs");
        assert_eq!(fs::read(&straight).unwrap(), fs::read(&output).unwrap(), "{name}");
        assert!(!partial_of(&output).exists());
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn damaged_partial_results_are_converted_again() {
    let folder = tempfile::tempdir().unwrap();
    let input = golden("bitnet-2b-packed");
    let straight = folder.path().join("straight.gguf");
    whole(&input, &straight, &options());
    let expected = fs::read(&straight).unwrap();
    let output = folder.path().join("damaged.gguf");
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 5] = [
        ("a byte of the data", |partial| {
            let file = partial.join("files/damaged.gguf");
            let mut bytes = fs::read(&file).unwrap();
            bytes.iter_mut().rev().step_by(257).for_each(|byte| *byte ^= 0x55);
            fs::write(&file, bytes).unwrap();
        }),
        ("the file cut short", |partial| {
            fs::OpenOptions::new()
                .write(true)
                .open(partial.join("files/damaged.gguf"))
                .unwrap()
                .set_len(1000)
                .unwrap();
        }),
        ("the journal cut within a line", |partial| {
            let journal = partial.join("journal");
            let bytes = fs::read(&journal).unwrap();
            fs::write(&journal, &bytes[..bytes.len() - 40]).unwrap();
        }),
        ("a journal of nonsense", |partial| {
            fs::write(partial.join("journal"), b"\xff\xfe{\"format\":1}\n[[[[").unwrap();
        }),
        ("the file gone", |partial| {
            fs::remove_file(partial.join("files/damaged.gguf")).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let stopped = stop_after(&input, &output, 12);
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{what}: {stopped:?}");
        damage(&partial_of(&output));
        whole(&input, &output, &options());
        assert!(fs::read(&output).unwrap() == expected, "{what}");
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn other_options_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let input = golden("bitnet-2b-packed");
    let output = folder.path().join("model.gguf");
    assert!(stop_after(&input, &output, 10).is_err());
    let embedding = Some("q8_0".parse().unwrap());
    let report = whole(&input, &output, &ConvertOptions { embedding, ..options() });
    assert_eq!(report.resumed, 0);
    let straight = folder.path().join("straight.gguf");
    whole(&input, &straight, &ConvertOptions { embedding, ..options() });
    assert!(fs::read(&straight).unwrap() == fs::read(&output).unwrap());
}

#[test]
fn existing_results_stay_without_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let input = golden("bitnet-2b-packed");
    let file = folder.path().join("model.gguf");
    fs::write(&file, b"before").unwrap();
    let error = convert(&input, &file, &options(), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("--overwrite"), "{error}");
    let replacing = ConvertOptions { overwrite: true, ..options() };
    // Stopped during verification: the old result remains.
    let stopped = convert(&input, &file, &replacing, &mut |p| p.stage == Stage::Converting);
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
    assert_eq!(fs::read(&file).unwrap(), b"before");
    whole(&input, &file, &replacing);
    assert_eq!(&fs::read(&file).unwrap()[..4], b"GGUF");
}

#[test]
fn changes_of_the_model_are_rejected_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let storage = |name: &str| Some(name.parse().unwrap());
    let refused = |input: &str, output: &str, options: &ConvertOptions| {
        let output = folder.path().join(output);
        let error = convert(&golden(input), &output, options, &mut |_| true).unwrap_err();
        assert!(!output.exists());
        error.to_string()
    };
    // Weight-only layers would be read as layers with 8-bit activations.
    let error = refused(
        "qwen3-ternary-dense",
        "a.gguf",
        &ConvertOptions { linear: storage("i2_s"), ..options() },
    );
    assert!(
        error.contains("--activations") && error.contains("q_proj") | error.contains("attn_q"),
        "{error}"
    );
    let error = refused(
        "qwen3-ternary-dense",
        "a",
        &ConvertOptions { target: Some(Target::HuggingFace), ..options() },
    );
    assert!(error.contains("hf-dense"), "{error}");
    // Embedding tables are never quantised to trits.
    let error = refused(
        "bitnet-2b-packed",
        "a.gguf",
        &ConvertOptions { embedding: storage("tq2_0"), ..options() },
    );
    assert!(error.contains("embed") && error.contains("q8_0"), "{error}");
    // safetensors does not support block types.
    let options_hf = ConvertOptions {
        target: Some(Target::HuggingFace),
        embedding: storage("q8_0"),
        ..options()
    };
    let error = refused("bitnet-2b-packed", "a", &options_hf);
    assert!(error.contains("safetensors holds"), "{error}");
    let arch = ConvertOptions { architecture: Some("llama".into()), ..options() };
    assert!(refused("bitnet-2b-packed", "a.gguf", &arch).contains("bitnet-b1.58"));
    let named = ConvertOptions { target: Some(Target::Gguf), ..options() };
    assert!(refused("bitnet-2b-packed", "folder", &named).contains(".gguf"));
}

#[test]
fn patterns_select_types_of_single_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("mixed.gguf");
    let overrides = vec![
        ("blk.*.ffn_down".to_owned(), "f16".parse().unwrap()),
        ("token_embd".to_owned(), "q8_0".parse().unwrap()),
    ];
    let report =
        whole(&golden("bitnet-2b-packed"), &output, &ConvertOptions { overrides, ..options() });
    for tensor in &report.tensors {
        let expected = match tensor.name.as_str() {
            name if name.ends_with("ffn_down.weight") => "F16",
            "token_embd.weight" => "Q8_0",
            name if name.contains("norm") => "F32",
            _ => "I2_S",
        };
        assert_eq!(tensor.to, expected, "{}", tensor.name);
    }
}

#[test]
fn a_budget_chooses_types_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let input = golden("bitnet-2b-packed");
    let run = |name: &str, budget| {
        let options = ConvertOptions { budget: Some(budget), ..options() };
        whole(&input, &folder.path().join(name), &options)
    };
    let matrices = |report: &Report| -> u64 {
        report.tensors.iter().filter(|t| t.role != "vector").map(|t| t.bytes).sum()
    };
    let embedding =
        |report: &Report| report.tensors.iter().find(|t| t.role == "embedding").unwrap().clone();
    let own = whole(&input, &folder.path().join("own.gguf"), &options());
    let (all, own_embedding) = (matrices(&own), embedding(&own));
    let roomy = run("roomy.gguf", Budget::Bytes(all));
    assert_eq!(embedding(&roomy).to, own_embedding.to, "what fits stays as it is");
    let tight = run("tight.gguf", Budget::Bytes(all - own_embedding.bytes / 4));
    assert!(matrices(&tight) <= all - own_embedding.bytes / 4);
    assert_eq!(embedding(&tight).to, "Q8_0", "the best that fits");
    let exact = run("exact.gguf", Budget::Decibels(120.0));
    assert_eq!(embedding(&exact).to, own_embedding.to, "nothing smaller is that good");
    let coarse = run("coarse.gguf", Budget::Decibels(15.0));
    assert_eq!(embedding(&coarse).to, "Q4_0", "the smallest that is good enough");
    let options = ConvertOptions { budget: Some(Budget::Bytes(100)), ..options() };
    let error = convert(&input, &folder.path().join("no.gguf"), &options, &mut |_| true);
    assert!(error.unwrap_err().to_string().contains("budget"));
}

#[test]
fn split_results_are_read_and_joined() {
    let folder = tempfile::tempdir().unwrap();
    let input = golden("bitnet-2b-packed");
    let straight = folder.path().join("straight.gguf");
    whole(&input, &straight, &options());
    let split = ConvertOptions { split: Some(20_000), ..options() };
    let report = whole(&input, &folder.path().join("parts.gguf"), &split);
    assert!(report.files.len() > 2, "{:?}", report.files);
    let first = folder.path().join(&report.files[0]);
    assert_eq!(report.files[0], format!("parts-00001-of-{:05}.gguf", report.files.len()));
    assert!(report.files.iter().all(|name| folder.path().join(name).exists()));
    let joined = folder.path().join("joined.gguf");
    whole(&first, &joined, &options());
    assert!(fs::read(&straight).unwrap() == fs::read(&joined).unwrap());
    let again = convert(&input, &folder.path().join("parts.gguf"), &split, &mut |_| true);
    assert!(again.unwrap_err().to_string().contains("parts-00001"));

    let shards = folder.path().join("shards");
    let report = whole(&input, &shards, &split);
    assert!(report.files.len() > 2 && shards.join("model.safetensors.index.json").exists());
    let rejoined = folder.path().join("rejoined.gguf");
    whole(&shards, &rejoined, &options());
    assert!(data_of(&straight) == data_of(&rejoined));
}

/// Returns the bytes of all tensors, because files from folders with other names differ in metadata.
fn data_of(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = bitnet_formats::GgufFile::open(path).unwrap();
    file.tensors().iter().map(|t| (t.name.clone(), file.data(t).unwrap().to_vec())).collect()
}
