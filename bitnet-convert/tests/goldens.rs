//! Every golden checkpoint through the converter and back: trits, logits and bytes stay what they are.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Fidelity, Report, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource};
use serde_json::Value;

/// A golden checkpoint.
struct Case {
    name: String,
    path: PathBuf,
    load: LoadOptions,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let mut out: Vec<Case> = std::fs::read_dir(&root)
        .expect("the golden files are part of the repository")
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("meta.json").exists())
        .map(|folder| {
            let meta: Value =
                serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
            let layout = meta["i2s_layout"].as_str().map(|l| l.parse().unwrap());
            let load = LoadOptions {
                i2s_layout: layout.unwrap_or_default(),
                kv: KvType::F32,
                ..LoadOptions::default()
            };
            let name = meta["case"].as_str().unwrap().to_owned();
            let file = (meta["format"] == "gguf").then(|| meta["file"].as_str().unwrap());
            Case { name, path: file.map_or(folder.clone(), |file| folder.join(file)), load }
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(out.len() >= 19, "the golden checkpoints are missing");
    out
}

fn options(case: &Case) -> ConvertOptions {
    ConvertOptions { load: case.load.clone(), threads: Some(2), ..ConvertOptions::default() }
}

fn logits(path: &Path, load: &LoadOptions) -> Vec<f32> {
    let backend = Arc::new(ReferenceBackend);
    let model = Model::load_with(ModelSource::Path(path), load, backend, &mut |_, _| {})
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut session = model.session(Some(16)).unwrap();
    let tokens: Vec<u32> = (1..9).map(|i| i * 7 % model.config().vocab_size as u32).collect();
    let mut out = Vec::new();
    session.feed_all(&tokens, &mut |_, logits| out.extend_from_slice(logits)).unwrap();
    out
}

/// Layouts of I2_S are not in a file: what was converted has the canonical one.
fn canonical(load: &LoadOptions) -> LoadOptions {
    LoadOptions { i2s_layout: Default::default(), ..load.clone() }
}

fn assert_same_logits(name: &str, source: &[f32], converted: &[f32]) {
    let largest = source.iter().fold(0f32, |m, v| m.max(v.abs()));
    let distance = source.iter().zip(converted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    // Rows of query and key heads in another order are added in another order.
    assert!(distance <= 2e-6 * largest, "{name}: logits up to {largest} differ by {distance}");
}

fn all_exact(report: &Report) -> bool {
    report.tensors.iter().all(|tensor| tensor.fidelity == Some(Fidelity::Exact))
}

#[test]
fn every_checkpoint_becomes_a_gguf_file_that_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let output = folder.path().join(format!("{}.gguf", case.name));
        let report = match convert(&case.path, &output, &options(&case), &mut |_| true) {
            Ok(report) => report,
            Err(error) => {
                // Norms of two epsilons have no keys in a GGUF file.
                let expected = case.name == "llama-rmsnorm-packed";
                assert!(
                    expected && error.to_string().contains("epsilon"),
                    "{}: {error}",
                    case.name
                );
                continue;
            }
        };
        let online = case.name.contains("online") || case.name.contains("1bitllm");
        assert_eq!(all_exact(&report), !online, "{}: only masters lose anything", case.name);
        let source = logits(&case.path, &case.load);
        assert_same_logits(&case.name, &source, &logits(&output, &canonical(&case.load)));
        assert_eq!(report.bytes, std::fs::metadata(&output).unwrap().len());
        // What came out goes through again without a change, byte for byte.
        let again = folder.path().join("again.gguf");
        let load = canonical(&case.load);
        convert(
            &output,
            &again,
            &ConvertOptions { load, overwrite: true, ..options(&case) },
            &mut |_| true,
        )
        .unwrap_or_else(|error| panic!("{} again: {error}", case.name));
        assert_eq!(
            std::fs::read(&output).unwrap(),
            std::fs::read(&again).unwrap(),
            "{}",
            case.name
        );
    }
}

#[test]
fn every_checkpoint_with_inputs_of_8_bits_becomes_a_packed_folder_that_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut converted = 0;
    for case in cases() {
        let output = folder.path().join(&case.name);
        let options = ConvertOptions { target: Some(Target::HuggingFace), ..options(&case) };
        match convert(&case.path, &output, &options, &mut |_| true) {
            Ok(_) => {
                let source = logits(&case.path, &case.load);
                assert_same_logits(&case.name, &source, &logits(&output, &case.load));
                converted += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("hf-dense"), "{}: {text}", case.name);
                assert!(!output.exists(), "{}", case.name);
            }
        }
    }
    assert!(converted >= 12, "{converted} were converted");
}
