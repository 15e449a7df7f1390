//! Models with recurrent layers, layers that draft tokens, and scaled streams: folders and GGUF files say the same.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Difference, Storage, Target, convert, diff};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::safetensors::{Dtype, SafeTensors};
use bitnet_inference::{KvType, LoadOptions, Model, ModelFiles, ModelSource};
use serde_json::Value;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn to_gguf(storage: &str) -> ConvertOptions {
    let storage: Storage = storage.parse().unwrap();
    ConvertOptions { linear: Some(storage), ..ConvertOptions::default() }
}

fn to_folder() -> ConvertOptions {
    ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() }
}

fn logits(path: &Path) -> Vec<u32> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    let model =
        Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap();
    let mut session = model.session(None).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 31 % 260).collect();
    let logits = session.extend(&tokens).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// Asserts that tensors of `a` are in `b`, byte for byte; returns their number.
fn same_tensors(a: &Path, b: &Path, is_meant: impl Fn(&str) -> bool) -> usize {
    let [a, b] = [a, b].map(|path| GgufFile::open(path).unwrap());
    let mut count = 0;
    for tensor in a.tensors().iter().filter(|tensor| is_meant(&tensor.name)) {
        let other = b.find(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
        assert_eq!((tensor.ggml_type, &tensor.dims), (other.ggml_type, &other.dims));
        assert!(*a.data(tensor).unwrap() == *b.data(other).unwrap(), "{}", tensor.name);
        count += 1;
    }
    count
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.find(name).unwrap_or_else(|| panic!("{name}"));
    match tensor.dtype {
        Dtype::Bf16 => {
            let halves = tensor.data.as_chunks::<2>().0.iter();
            halves.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
        }
        _ => tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Asserts that the model at `path` gives the logits that transformers gives with a golden folder, within the noise of
/// float32.
fn gives_logits_of(path: &Path, golden: &Path) {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    let options = LoadOptions { kv: KvType::F32, ..options };
    let model =
        Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {}).unwrap();
    let truth = SafeTensors::open(&golden.join("expected.safetensors")).unwrap();
    let noise = &json(&golden.join("meta.json"))["noise"]["per_prompt"];
    for (prompt, noise) in noise.as_array().unwrap().iter().enumerate() {
        let tokens = truth.find(&format!("prompt.{prompt}.tokens")).unwrap();
        let tokens: Vec<u32> =
            tokens.data.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let expected = floats(&truth, &format!("prompt.{prompt}.logits"));
        let mut session = model.session(None).unwrap();
        let logits = session.extend(&tokens).unwrap().logits().unwrap();
        let last = &expected[expected.len() - logits.len()..];
        let error = logits.iter().zip(last).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let noise = noise.as_f64().unwrap() as f32;
        assert!(error <= 3.0 * noise, "prompt {prompt}: {error} of {noise}");
    }
}

/// Whether two rates of decay are as near as two libraries' exponentials of one number.
fn is_near(a: &f32, b: &f32) -> bool {
    (a - b).abs() <= 2e-6 * a.abs().max(1.0)
}

#[test]
fn a_folder_becomes_the_gguf_file_of_its_golden_twin() {
    let place = TempDir::new().unwrap();
    let written = place.path().join("model.gguf");
    let source = golden("qwen35-ternary-dense");
    convert(&source, &written, &to_gguf("pq2_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&written), logits(&source));
    gives_logits_of(&written, &source);
    // The twin was written by a script of its own, whose library rounds exponentials otherwise.
    let twin = golden("gguf-qwen35-pq2_0").join("model.gguf");
    let rates = same_tensors(&twin, &written, |name| !name.ends_with("ssm_a"));
    let [twin, written] = [twin, written].map(|path| GgufFile::open(&path).unwrap());
    assert_eq!((rates + 2, twin.tensors().len()), (written.tensors().len(), rates + 2));
    for layer in [0, 2] {
        let rates = |file: &GgufFile| -> Vec<f32> {
            let data = file.data(file.find(&format!("blk.{layer}.ssm_a")).unwrap()).unwrap();
            data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let (meant, found) = (rates(&twin), rates(&written));
        assert!(meant.iter().zip(&found).all(|(a, b)| is_near(a, b)), "{meant:?} {found:?}");
    }
    for (key, value) in twin.metadata().iter().filter(|(key, _)| key.starts_with("qwen35.")) {
        // The interval says the same as the list.
        if key != "qwen35.attention.recurrent_layers" {
            let other = written.metadata().value(key).unwrap();
            assert_eq!(format!("{other:?}"), format!("{:?}", Some(value)), "{key}");
        }
    }
}

#[test]
fn a_file_becomes_the_folder_of_its_golden_twin_and_comes_back() {
    let place = TempDir::new().unwrap();
    let [folder, back] = ["folder", "back.gguf"].map(|name| place.path().join(name));
    let source = golden("gguf-qwen35-pq2_0").join("model.gguf");
    convert(&source, &folder, &to_folder(), &mut |_| true).unwrap();
    let twin = golden("qwen35-ternary-dense");
    gives_logits_of(&folder, &twin);
    let [meant, found] =
        [&twin, &folder].map(|path| SafeTensors::open(&path.join("model.safetensors")).unwrap());
    assert_eq!(meant.names().count(), found.names().count());
    for tensor in meant.tensors() {
        let name = &tensor.name;
        let other = found.find(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(other.shape, tensor.shape, "{name}");
        let (meant, found) = (floats(&meant, name), floats(&found, name));
        if name.ends_with("A_log") {
            assert!(meant.iter().zip(&found).all(|(a, b)| is_near(a, b)), "{meant:?} {found:?}");
        } else {
            assert_eq!(found, meant, "{name}");
        }
    }
    let (meant, found) = (json(&twin.join("config.json")), json(&folder.join("config.json")));
    let free =
        ["torch_dtype", "initializer_range", "use_cache", "attention_dropout", "bos_token_id"];
    for field in meant.as_object().unwrap().keys() {
        if !free.contains(&field.as_str()) {
            assert_eq!(found[field], meant[field], "{field}");
        }
    }
    convert(&folder, &back, &to_gguf("pq2_0"), &mut |_| true).unwrap();
    same_tensors(&source, &back, |name| !name.ends_with("ssm_a"));
    assert_eq!(logits(&back), logits(&folder));
}

#[test]
fn a_model_that_also_sees_becomes_its_text_part() {
    let place = TempDir::new().unwrap();
    let [source, file, folder] =
        ["source", "model.gguf", "folder"].map(|name| place.path().join(name));
    let plain = golden("qwen35-ternary-dense");
    std::fs::create_dir(&source).unwrap();
    std::fs::copy(plain.join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let mut text = json(&plain.join("config.json"));
    let fields = text.as_object_mut().unwrap();
    fields.remove("architectures");
    let whole = serde_json::json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text,
        "vision_config": {"depth": 2}, "image_token_id": 7, "tie_word_embeddings": false,
    });
    std::fs::write(source.join("config.json"), whole.to_string()).unwrap();
    convert(&source, &file, &to_gguf("pq2_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&file), logits(&plain));
    let report = convert(&source, &folder, &to_folder(), &mut |_| true).unwrap();
    assert!(report.remarks.iter().any(|remark| remark.contains("text part")), "{report:?}");
    assert_eq!(logits(&folder), logits(&plain));
    let config = json(&folder.join("config.json"));
    assert_eq!(config["architectures"][0], "Qwen3_5ForCausalLM");
    assert_eq!(config["model_type"], "qwen3_5_text");
    assert_eq!(config.get("vision_config"), None);
    // Vectors that are read in another form stay as they are.
    let [before, after] = [&plain, &folder].map(|path| path.join("model.safetensors"));
    let [before, after] = [before, after].map(|path| SafeTensors::open(&path).unwrap());
    for tensor in before.tensors() {
        let other = after.find(&tensor.name).unwrap();
        assert_eq!((other.dtype, &other.shape), (tensor.dtype, &tensor.shape), "{}", tensor.name);
        assert!(*other.data == *tensor.data, "{}", tensor.name);
    }
}

#[test]
fn differences_are_told_in_a_common_order() {
    let [folder, file] = ["qwen35-ternary-dense", "gguf-qwen35-pq2_0/model.gguf"].map(|name| {
        ModelFiles::open(ModelSource::Path(&golden(name)), &LoadOptions::default()).unwrap()
    });
    for (first, second) in [(&folder, &file), (&file, &folder)] {
        for tensor in diff(first, second, 1, &mut |_, _| {}).unwrap() {
            match tensor.difference {
                Difference::Equal => {}
                // The two goldens' libraries round exponentials otherwise.
                Difference::Numbers { loss, .. } if tensor.name.ends_with("ssm_a") => {
                    assert!(loss.max_error < 1e-6, "{}: {loss:?}", tensor.name);
                }
                other => panic!("{}: {other:?}", tensor.name),
            }
        }
    }
}

#[test]
fn scaled_streams_survive_both_ways() {
    let place = TempDir::new().unwrap();
    let [folder, there, back] =
        ["folder", "there.gguf", "back.gguf"].map(|name| place.path().join(name));
    let (source, twin) =
        (golden("minicpm-ternary-dense"), golden("gguf-minicpm-pq2_0").join("model.gguf"));
    convert(&source, &there, &to_gguf("pq2_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&there), logits(&source));
    let all = same_tensors(&twin, &there, |_| true);
    assert_eq!(all, GgufFile::open(&there).unwrap().tensors().len());
    convert(&there, &folder, &to_folder(), &mut |_| true).unwrap();
    assert_eq!(logits(&folder), logits(&source));
    gives_logits_of(&folder, &source);
    let (meant, found) = (json(&source.join("config.json")), json(&folder.join("config.json")));
    for field in ["scale_emb", "scale_depth", "dim_model_base", "rope_scaling", "model_type"] {
        assert_eq!(found[field], meant[field], "{field}");
    }
    convert(&folder, &back, &to_gguf("pq2_0"), &mut |_| true).unwrap();
    same_tensors(&there, &back, |name| !name.starts_with("token_embd"));
    assert_eq!(logits(&back), logits(&source));
}
