//! The layer that drafts tokens (multi-token prediction): its logits against transformers, its text against that without
//! it, and files that do not fit refused by name.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::gguf::{GgufFile, GgufWriter, Value};
use bitnet_formats::safetensors::SafeTensors;
use bitnet_inference::sampler::SamplerConfig;
use bitnet_inference::{
    DraftMode, DraftSource, GenerateOptions, InferenceError, KvType, LoadOptions, Model,
    ModelSource,
};
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/gguf-qwen35-pq2_0")
}

/// The layer, or what transformers computes with it.
fn layer_file(extension: &str) -> PathBuf {
    folder().join("../../drafts/gguf-qwen35-mtp").with_extension(extension)
}

fn load_on(
    path: &Path,
    draft: DraftSource,
    backend: Arc<dyn Backend>,
) -> Result<Model, InferenceError> {
    let options = LoadOptions { draft, kv: KvType::F32, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {})
}

fn load(path: &Path, draft: DraftSource) -> Result<Model, InferenceError> {
    let options = CpuOptions { threads: Some(2), isa: None };
    load_on(path, draft, Arc::new(CpuBackend::new(options).unwrap()))
}

fn second_file() -> DraftSource {
    DraftSource::File(layer_file("gguf"))
}

/// One file with the model and the layer, and with other keys.
fn joined(place: &TempDir, put: &[(&str, Value<'static>)]) -> PathBuf {
    let files = [folder().join("model.gguf"), layer_file("gguf")];
    let files = files.map(|path| GgufFile::open(&path).unwrap());
    let own =
        [("qwen35.block_count", Value::U32(4)), ("qwen35.nextn_predict_layers", Value::U32(1))];
    let put: Vec<_> = own.iter().chain(put).copied().collect();
    let mut writer = GgufWriter::new();
    let is_kept = |key: &str| put.iter().all(|(other, _)| *other != key);
    writer.copy_metadata(files[0].metadata(), is_kept).unwrap();
    put.iter().for_each(|(key, value)| writer.put(key, *value).unwrap());
    let of_layer = files[1].tensors().iter().filter(|tensor| tensor.name.starts_with("blk.3."));
    for tensor in files[0].tensors().iter().chain(of_layer) {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    let path = place.path().join("joined.gguf");
    writer
        .write(&path, |pending, sink| {
            let found = files.iter().find_map(|file| Some((file, file.find(&pending.name)?)));
            let (file, tensor) = found.unwrap();
            sink.write_all(&file.data(tensor).unwrap())
        })
        .unwrap();
    path
}

#[test]
fn logits_of_drafts_are_those_of_transformers() {
    let expected = SafeTensors::open(&layer_file("safetensors")).unwrap();
    let floats = |key: &str| -> Vec<f32> {
        let numbers = expected.find(key).unwrap().data;
        numbers.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(ReferenceBackend)];
    for isa in IsaLevel::available() {
        let options = CpuOptions { threads: Some(2), isa: Some(isa) };
        backends.push(Arc::new(CpuBackend::new(options).unwrap()));
    }
    for backend in backends {
        let model = load_on(&folder().join("model.gguf"), second_file(), backend).unwrap();
        let decoder = model.decoder();
        for (prompt, noise) in floats("noise").into_iter().enumerate() {
            let tokens = expected.find(&format!("prompt.{prompt}.tokens")).unwrap();
            let tokens: Vec<u32> =
                tokens.data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
            let mut cache = decoder.new_cache(tokens.len(), KvType::F32).unwrap();
            let states = decoder.normed(&decoder.forward(&tokens, &mut cache).unwrap()).unwrap();
            let pairs = tokens.len() - 1;
            let states = states.narrow(0, 0..pairs).unwrap();
            // In parts of several sizes.
            let mut cache = decoder.new_draft_cache(tokens.len(), KvType::F32).unwrap();
            let mut logits = Vec::new();
            let mut first = 0;
            for part in [1, 2, 20, pairs] {
                let rows = first..(first + part).min(pairs);
                if rows.is_empty() {
                    continue;
                }
                let before = states.narrow(0, rows.clone()).unwrap();
                let read = &tokens[rows.start + 1..rows.end + 1];
                let after = decoder.draft_states(read, &before, &mut cache).unwrap();
                let found = decoder.logits_of_normed(after).unwrap();
                logits.extend_from_slice(found.f32().unwrap());
                first = rows.end;
            }
            let truth = floats(&format!("prompt.{prompt}.logits"));
            assert_eq!(logits.len(), truth.len());
            let error = logits.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error <= 3.0 * noise, "prompt {prompt}: {error} of {noise}");
        }
    }
}

/// Options that write 60 tokens.
fn options(sampler: SamplerConfig, draft: DraftMode) -> GenerateOptions {
    GenerateOptions { sampler, draft, max_tokens: 60, ignore_end: true, ..Default::default() }
}

#[test]
fn text_with_a_layer_that_drafts_equals_text_without() {
    let place = TempDir::new().unwrap();
    let joined = joined(&place, &[]);
    let plain = load(&folder().join("model.gguf"), DraftSource::None).unwrap();
    let in_two = load(&folder().join("model.gguf"), second_file()).unwrap();
    let in_one = load(&joined, DraftSource::Own).unwrap();
    let greedy = SamplerConfig::default();
    let drawn = SamplerConfig { temperature: 0.8, top_k: 20, seed: 3, ..greedy.clone() };
    // So large a bias forces some tokens on model and drafts alike.
    let biased = SamplerConfig { logit_bias: vec![(7, 40.0), (9, 40.0)], ..drawn.clone() };
    for sampler in [greedy, drawn, biased.clone()] {
        let write = |model: &Model, mode| {
            let options = options(sampler.clone(), mode);
            let mut session = model.session(Some(256)).unwrap();
            let mut written = Vec::new();
            // A second turn goes back to the middle of the first.
            for prompt in [vec![1, 2, 3, 70, 90, 4], vec![1, 2, 3, 70, 5, 8, 13]] {
                let mut generation = session.generate(&prompt, &options).unwrap();
                generation.by_ref().for_each(|token| drop(token.unwrap()));
                written.push(generation.finish());
            }
            let tokens: Vec<_> = written.iter().map(|written| written.tokens.clone()).collect();
            let drafts: Vec<_> = written.iter().map(|written| written.drafts).collect();
            (tokens, session.tokens().to_vec(), drafts)
        };
        let (expected, sequence, _) = write(&plain, DraftMode::Off);
        for model in [&in_two, &in_one] {
            let (tokens, own_sequence, drafts) = write(model, DraftMode::Mtp);
            assert_eq!((tokens, own_sequence), (expected.clone(), sequence.clone()));
            assert!(drafts.iter().all(|drafts| drafts.drafted > 0), "{drafts:?}");
            if sampler == biased {
                // How many are drafted depends on the time that steps take.
                let accepted: usize = drafts.iter().map(|drafts| drafts.accepted).sum();
                assert!(accepted > 0, "{drafts:?}");
            }
        }
    }
}

#[test]
fn a_layer_is_read_only_where_it_is_wanted() {
    let place = TempDir::new().unwrap();
    let joined = joined(&place, &[]);
    let without = load(&joined, DraftSource::None).unwrap();
    assert!(without.decoder().draft.is_none());
    let unused = &without.facts().unused_tensors;
    assert!(unused.iter().any(|name| name == "blk.3.nextn.eh_proj.weight"), "{unused:?}");
    let with = load(&joined, DraftSource::Own).unwrap();
    assert!(with.decoder().draft.is_some());
    assert_eq!(with.facts().unused_tensors, [""; 0]);
    let none = load(&folder().join("model.gguf"), DraftSource::Own).unwrap();
    assert!(none.decoder().draft.is_none());
}

#[test]
fn layers_that_do_not_fit_are_refused_by_name() {
    let place = TempDir::new().unwrap();
    let refused = |path: &Path, draft, named: &str| {
        let error = load(path, draft).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    };
    let joined_with = |put: &[(&str, Value<'static>)]| joined(&place, put);
    // A file without such a layer, and one for another model.
    let model = folder().join("model.gguf");
    refused(&model, DraftSource::File(model.clone()), "nextn_predict_layers");
    let other = folder().join("../gguf-qwen3-pq2_0/model.gguf");
    refused(&model, DraftSource::File(other), "general.architecture");
    let narrow = joined_with(&[("qwen35.rope.dimension_count", Value::U32(16))]);
    refused(&model, DraftSource::File(narrow), "rope.dimension_count");
    refused(&model, DraftSource::File(place.path().join("none.gguf")), "none.gguf");
    // The file of the layer alone is no model.
    refused(&layer_file("gguf"), DraftSource::Own, "blk.0.");
}
