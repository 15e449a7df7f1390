//! Qwen3.5 models beyond the goldens of single prompts: the text part of a model that also sees, long prompts, and the
//! memory of the recurrent state.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::memory::Purpose;
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorSpec, write};
use bitnet_inference::{KvType, LoadOptions, Model, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load(path: &Path) -> Model {
    let backend = Arc::new(CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap());
    let options = LoadOptions { kv: KvType::F32, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap()
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session(Some(tokens.len())).unwrap().extend(tokens).unwrap().logits().unwrap()
}

/// The golden folder as transformers saves a `Qwen3_5ForConditionalGeneration`: the settings of the text part in
/// `text_config`, its tensors under `model.language_model.`, and tensors of a vision tower beside them.
fn with_vision(folder: &TempDir) -> PathBuf {
    let source = golden("qwen35-ternary-dense");
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut text: Value = serde_json::from_str(&text).unwrap();
    text.as_object_mut().unwrap().remove("architectures");
    let config = json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "image_token_id": 248_056,
        "video_token_id": 248_057,
        "vision_start_token_id": 248_053,
        "vision_end_token_id": 248_054,
        "tie_word_embeddings": false,
        "vision_config": { "depth": 1, "hidden_size": 16, "model_type": "qwen3_5" },
        "text_config": text,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = SafeTensors::open(&source.join("model.safetensors")).unwrap();
    let renamed = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    };
    let mut all: Vec<(TensorSpec, Vec<u8>)> = tensors
        .tensors()
        .map(|tensor| {
            let (name, dtype) = (renamed(&tensor.name), tensor.dtype);
            (TensorSpec { name, dtype, shape: tensor.shape.clone() }, tensor.data.to_vec())
        })
        .collect();
    let name = "model.visual.patch_embed.proj.weight".to_owned();
    all.push((TensorSpec { name, dtype: Dtype::F32, shape: vec![2, 2] }, vec![0; 16]));
    let specs: Vec<TensorSpec> = all.iter().map(|(spec, _)| spec.clone()).collect();
    write(&folder.path().join("model.safetensors"), &specs, &[], |spec, sink| {
        sink.write_all(&all.iter().find(|(own, _)| own.name == spec.name).unwrap().1)
    })
    .unwrap();
    folder.path().to_owned()
}

#[test]
fn the_text_part_of_a_model_that_sees_is_the_model() {
    let folder = TempDir::new().unwrap();
    let (text, sees) = (load(&golden("qwen35-ternary-dense")), load(&with_vision(&folder)));
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 260).collect();
    assert_eq!(logits(&sees, &tokens), logits(&text, &tokens));
    assert_eq!(sees.facts().architecture, "Qwen3_5ForConditionalGeneration");
    assert_eq!(sees.facts().unused_tensors, ["model.visual.patch_embed.proj.weight"]);
}

#[test]
fn recurrent_state_is_in_the_pool_under_its_purpose_and_leaves_with_the_session() {
    let model = load(&golden("gguf-qwen35-pq2_0").join("model.gguf"));
    let live = || {
        let stats = model.memory_stats();
        let held = stats.purposes.iter().find(|held| held.purpose == Purpose::KvCache).unwrap();
        held.live
    };
    assert_eq!(live(), 0);
    let mut session = model.session(Some(200)).unwrap();
    session.extend(&[1; 20]).unwrap();
    let chunk = model.config().recurrent.as_ref().unwrap().shape.chunk_bytes().unwrap() as u64;
    let pages = session.cache().page_bytes() as u64;
    assert!(live() >= pages + chunk, "{} of {pages} and {chunk}", live());
    // Chunks do not pile up: two are kept, one is spare, and four that a prompt ends in.
    for token in 0..100 {
        session.extend(&[token]).unwrap();
    }
    assert!(live() <= 2 * pages + 8 * chunk, "{} of {pages} and {chunk}", live());
    drop(session);
    assert_eq!(live(), 0);
}

#[test]
fn logits_after_4096_tokens_are_those_of_transformers_however_they_are_read() {
    let folder = golden("gguf-qwen35-pq2_0");
    let expected = SafeTensors::open(&folder.join("long.safetensors")).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        expected.find(name).unwrap().data.as_chunks::<4>().0.to_vec()
    };
    let tokens: Vec<u32> = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    let truth: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
    let noise = f32::from_le_bytes(words("noise")[0]);
    assert_eq!(tokens.len(), 4096);
    let model = load(&folder.join("model.gguf"));
    let mut session = model.session(Some(4096)).unwrap();
    let mut found = Vec::new();
    let (first, last) = tokens.split_at(4092);
    session.extend(first).unwrap();
    session.extend_with_logits(last, |_, logits| found.extend_from_slice(logits)).unwrap();
    let error = found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error <= 3.0 * noise, "{error} of {noise}");

    // In parts of other sizes, and one at a time at the end.
    let mut session = model.session(Some(4096)).unwrap();
    for part in tokens[..4000].chunks(77) {
        session.extend(part).unwrap();
    }
    for token in &tokens[4000..] {
        session.extend(&[*token]).unwrap();
    }
    let width = found.len() / 4;
    assert_eq!(session.logits().unwrap(), found[3 * width..]);
    // Taken back into the last chunk, and read again.
    session.truncate(4090);
    session.extend(&tokens[4090..]).unwrap();
    assert_eq!(session.logits().unwrap(), found[3 * width..]);
}
