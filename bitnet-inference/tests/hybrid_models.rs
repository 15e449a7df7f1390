//! Models with recurrent layers and rotated weights: cut and read again without a trace, and refused by the name of the key where their settings are not understood.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter, Value};
use bitnet_inference::{InferenceError, LoadOptions, Model, ModelSource};
use tempfile::TempDir;

const ROTATED: &str = "gguf-qwen35-rotated";
const PLAIN: &str = "gguf-qwen35-pq2_0";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    let options = CpuOptions { threads: Some(2), isa: None };
    let backend = Arc::new(CpuBackend::new(options).unwrap());
    Model::load_with(ModelSource::Path(path), &LoadOptions::default(), backend, &mut |_, _| {})
}

/// A text of `len` tokens.
fn tokens(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + 11) % 260).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The logits after `text`, read at once.
fn fresh(model: &Model, text: &[u32]) -> Vec<u32> {
    let mut session = model.session(None).unwrap();
    bits(&session.extend(text).unwrap().logits().unwrap())
}

#[test]
fn a_text_that_is_cut_and_read_again_equals_a_fresh_one() {
    let model = load(&golden(ROTATED).join("model.gguf")).unwrap();
    let text = tokens(90);
    for (read, cut) in
        [(90, 89), (90, 88), (90, 70), (90, 64), (90, 63), (90, 5), (40, 39), (16, 15)]
    {
        let mut session = model.session(None).unwrap();
        session.extend(&text[..read]).unwrap();
        for token in 0..20 {
            session.extend(&[token]).unwrap();
        }
        let mut other = text[..cut].to_vec();
        other.extend([7, 8, 9]);
        session.set_tokens(&other).unwrap();
        assert_eq!(session.tokens(), other);
        let got = bits(&session.logits().unwrap());
        assert!(got == fresh(&model, &other), "{read} tokens cut at {cut}");
    }
}

#[test]
fn the_end_of_a_prompt_can_be_returned_to() {
    let model = load(&golden(PLAIN).join("model.gguf")).unwrap();
    let mut session = model.session(None).unwrap();
    session.extend(&tokens(75)).unwrap();
    for token in 0..60 {
        session.extend(&[token]).unwrap();
    }
    assert_eq!(session.truncate(75), 75, "an answer is dropped");
    for token in 0..60 {
        session.extend(&[token]).unwrap();
    }
    assert_eq!(session.truncate(74), 74, "and the last token of the question is read again");
    session.extend(&tokens(75)[74..]).unwrap();
    assert!(bits(&session.logits().unwrap()) == fresh(&model, &tokens(75)));
    assert_eq!(session.truncate(20), 0, "no state is kept within the question");
}

/// What is changed in a copy of a good file.
#[derive(Default)]
struct Change<'a> {
    put: Vec<(&'a str, Value<'a>)>,
    put_numbers: Option<(&'a str, &'a [i32])>,
    put_names: Option<(&'a str, &'a [&'a str])>,
    drop_key: Option<&'a str>,
    add_tensor: Option<&'a str>,
}

fn changed(folder: &TempDir, name: &str, change: &Change<'_>) -> PathBuf {
    let source = GgufFile::open(&golden(name).join("model.gguf")).unwrap();
    let mut writer = GgufWriter::new();
    let replaced = |key: &str| {
        change.put.iter().any(|(name, _)| *name == key)
            || change.put_numbers.is_some_and(|(name, _)| name == key)
            || change.put_names.is_some_and(|(name, _)| name == key)
            || change.drop_key == Some(key)
    };
    writer.copy_metadata(source.metadata(), |key| !replaced(key)).unwrap();
    change.put.iter().for_each(|(key, value)| writer.put(key, *value).unwrap());
    if let Some((key, numbers)) = change.put_numbers {
        writer.put_i32s(key, numbers).unwrap();
    }
    if let Some((key, names)) = change.put_names {
        writer.put_strings(key, names).unwrap();
    }
    for tensor in source.tensors() {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    if let Some(name) = change.add_tensor {
        writer.add_tensor(name, &[16], GgmlType::F32).unwrap();
    }
    let path = folder.path().join("changed.gguf");
    writer
        .write(&path, |pending, sink| match source.find(&pending.name) {
            Some(tensor) => sink.write_all(&source.data(tensor).unwrap()),
            None => sink.write_all(&[0; 64]),
        })
        .unwrap();
    path
}

/// Checks that the changed file is refused with a message that names `key`.
fn assert_refused(name: &str, change: &Change<'_>, key: &str) {
    let folder = TempDir::new().unwrap();
    let path = changed(&folder, name, change);
    let message = load(&path).err().unwrap_or_else(|| panic!("{key}: loaded")).to_string();
    assert!(message.contains("changed.gguf") && message.contains(key), "{key}: {message}");
}

#[test]
fn a_rotation_that_is_not_understood_is_refused_by_its_key() {
    let put = |key, value| Change { put: vec![(key, value)], ..Change::default() };
    let cases = [
        ("prism.hadamard.version", Value::U32(2)),
        ("prism.hadamard.transform", Value::String("dct")),
        ("prism.hadamard.axis", Value::String("output")),
        ("prism.hadamard.block_size", Value::U32(0)),
        ("prism.hadamard.block_size", Value::U32(48)),
        ("prism.hadamard.block_size", Value::U32(256)),
        ("prism.hadamard.sign_mode", Value::String("random")),
        ("prism.hadamard.order", Value::String("sequency")),
        ("prism.scaling.version", Value::U32(1)),
    ];
    for (key, value) in cases {
        assert_refused(ROTATED, &put(key, value), key);
    }
    for key in [
        "version",
        "transform",
        "block_size",
        "axis",
        "sign_mode",
        "sign_widths",
        "sign_values",
        "weight_names",
    ] {
        let key = &format!("prism.hadamard.{key}");
        assert_refused(ROTATED, &Change { drop_key: Some(key), ..Change::default() }, key);
    }
    let numbers: [(&str, &[i32], &str); 5] = [
        ("sign_widths", &[64, 64], "sign_widths"),
        ("sign_widths", &[64], "sign_values"),
        ("sign_widths", &[256], "sign_values"),
        ("sign_widths", &[-128], "sign_values"),
        ("sign_values", &[0; 128], "sign_values"),
    ];
    for (key, numbers, named) in numbers {
        let key = &format!("prism.hadamard.{key}");
        let change = Change { put_numbers: Some((key, numbers)), ..Change::default() };
        assert_refused(ROTATED, &change, &format!("prism.hadamard.{named}"));
    }
    for (key, name) in [
        ("prism.hadamard.weight_names", "blk.0.attn_norm.weight"),
        ("prism.hadamard.weight_names", "blk.9.ffn_up.weight"),
        ("prism.hadamard.inverse_weight_names", "output.weight"),
    ] {
        let change = Change { put_names: Some((key, &[name])), ..Change::default() };
        assert_refused(ROTATED, &change, key);
    }
    // Any architecture, not only the one whose files are known to have the keys.
    let change = put("prism.hadamard.version", Value::U32(1));
    assert_refused("gguf-qwen3-pq2_0", &change, "prism.hadamard.transform");
}

#[test]
fn impossible_recurrent_layers_are_refused_by_their_key() {
    for (key, value) in [
        ("qwen35.ssm.conv_kernel", 0),
        ("qwen35.ssm.state_size", 0),
        ("qwen35.ssm.inner_size", 0),
        ("qwen35.ssm.time_step_rank", u32::MAX),
        ("qwen35.ssm.group_count", 3),
        ("qwen35.rope.dimension_count", 33),
        ("qwen35.nextn_predict_layers", 3),
    ] {
        let change = Change { put: vec![(key, Value::U32(value))], ..Change::default() };
        let named = if key.ends_with("nextn_predict_layers") { "block_count" } else { key };
        let named = if key.ends_with("time_step_rank") { "time_step_rank" } else { named };
        assert_refused(PLAIN, &change, named);
    }
    for key in ["ssm.conv_kernel", "ssm.inner_size", "ssm.group_count"] {
        let key = &format!("qwen35.{key}");
        assert_refused(PLAIN, &Change { drop_key: Some(key), ..Change::default() }, key);
    }
    // A state of other sizes than its tensors.
    let change =
        Change { put: vec![("qwen35.ssm.state_size", Value::U32(16))], ..Change::default() };
    assert_refused(PLAIN, &change, "ssm_conv1d");
    let change =
        Change { put: vec![("qwen35.ssm.conv_kernel", Value::U32(17))], ..Change::default() };
    assert_refused(PLAIN, &change, "recurrent layers");
}

#[test]
fn layers_that_draft_tokens_are_left_out() {
    let folder = TempDir::new().unwrap();
    let change = Change {
        put: vec![
            ("qwen35.block_count", Value::U32(4)),
            ("qwen35.nextn_predict_layers", Value::U32(1)),
        ],
        add_tensor: Some("blk.3.nextn.enorm.weight"),
        ..Change::default()
    };
    let with_drafts = load(&changed(&folder, PLAIN, &change)).unwrap();
    assert_eq!(with_drafts.facts().unused_tensors, ["blk.3.nextn.enorm.weight"]);
    let without = load(&golden(PLAIN).join("model.gguf")).unwrap();
    assert!(fresh(&with_drafts, &tokens(20)) == fresh(&without, &tokens(20)));
    let stray = Change { add_tensor: Some("blk.3.nextn.enorm.weight"), ..Change::default() };
    assert_refused(PLAIN, &stray, "blk.3");
}
