//! Round trips of every golden checkpoint: trits, logits and bytes are preserved.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Fidelity, Report, Target, convert};
use bitnet_core::backend::ActivationPrecision;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::gguf::{GgmlType, GgufFile};
use bitnet_inference::loader::StoredWeight;
use bitnet_inference::{KvType, LoadOptions, Model, ModelFiles, ModelSource};
use bitnet_quant::loss::loss_of_trits;
use serde_json::Value;

/// A golden checkpoint.
struct Case {
    name: String,
    path: PathBuf,
    load: LoadOptions,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut out: Vec<Case> = ["models", "onnx"]
        .iter()
        .flat_map(|kind| std::fs::read_dir(root.join(kind)).expect("a part of the repository"))
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("meta.json").exists())
        // Models with recurrent layers, scaled ones, mixtures and those for embeddings have tests of their own (`hybrid.rs`,
        // `mixture.rs`, `embeddings.rs`).
        .filter(|folder| {
            !["qwen35", "minicpm", "maple", "gemma3", "embedding"]
                .iter()
                .any(|name| folder.to_string_lossy().contains(name))
        })
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
            let file = meta["file"].as_str();
            Case { name, path: file.map_or(folder.clone(), |file| folder.join(file)), load }
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(out.len() >= 21, "the golden checkpoints are missing");
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
    session.extend_with_logits(&tokens, |_, logits| out.extend_from_slice(logits)).unwrap();
    out
}

/// Files do not state the layout of I2_S; converted files have the canonical one.
fn canonical(load: &LoadOptions) -> LoadOptions {
    LoadOptions { i2s_layout: Default::default(), ..load.clone() }
}

fn assert_same_logits(name: &str, source: &[f32], converted: &[f32]) {
    let largest = source.iter().fold(0f32, |m, v| m.max(v.abs()));
    let distance = source.iter().zip(converted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    // Permuted rows of query and key heads are summed in another order.
    assert!(distance <= 2e-6 * largest, "{name}: logits up to {largest} differ by {distance}");
}

fn all_exact(report: &Report) -> bool {
    report.tensors.iter().all(|tensor| tensor.fidelity == Some(Fidelity::Exact))
}

#[test]
fn gguf_results_have_equal_logits() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let output = folder.path().join(format!("{}.gguf", case.name));
        let report = convert(&case.path, &output, &options(&case), &mut |_| true)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let online = case.name.contains("online") || case.name.contains("1bitllm");
        assert_eq!(all_exact(&report), !online, "{}: only masters lose anything", case.name);
        let source = logits(&case.path, &case.load);
        assert_same_logits(&case.name, &source, &logits(&output, &canonical(&case.load)));
        assert_eq!(report.bytes, std::fs::metadata(&output).unwrap().len());
        // Converting the result again changes no byte.
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

/// Targets for the ternary layers of a model: GGUF types, and folders.
const FORMS: [(Target, &str); 13] = [
    (Target::Gguf, "i2_s"),
    (Target::Gguf, "tq1_0"),
    (Target::Gguf, "tq2_0"),
    (Target::Gguf, "q2_0"),
    (Target::Gguf, "q2_0-g128"),
    (Target::Gguf, "pq2_0"),
    (Target::Gguf, "ptq1_0"),
    (Target::Gguf, "q1_0"),
    (Target::Gguf, "iq1_bn"),
    (Target::Gguf, "iq2_bn"),
    (Target::Gguf, "iq2_bn_r4"),
    (Target::HuggingFace, ""),
    (Target::Mlx, ""),
];

/// Returns the stored bytes of every ternary layer, and their decoded trits and scales.
fn ternary_layers(path: &Path, load: &LoadOptions) -> Vec<(Vec<u8>, TernaryMatrix)> {
    let files = ModelFiles::open(ModelSource::Path(path), load).unwrap();
    let pool = HybridMemoryPool::new().unwrap();
    let c = files.config();
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let shapes = [
        ("attn_q", q, c.hidden),
        ("attn_k", kv, c.hidden),
        ("attn_v", kv, c.hidden),
        ("attn_output", c.hidden, q),
        ("ffn_gate", c.intermediate, c.hidden),
        ("ffn_up", c.intermediate, c.hidden),
        ("ffn_down", c.hidden, c.intermediate),
    ];
    let stems = (0..c.layers).flat_map(|layer| {
        shapes.map(|(name, rows, cols)| (format!("blk.{layer}.{name}"), rows, cols))
    });
    stems
        .map(|(stem, rows, cols)| {
            let bytes = files.stored_bytes(&stem).unwrap().unwrap().region.to_vec();
            match files.linear(&stem, rows, cols, &pool).unwrap().unwrap().weight {
                StoredWeight::Ternary(matrix) => (bytes, matrix),
                StoredWeight::Dense { .. } => {
                    panic!("{}: {stem} is not ternary", path.display())
                }
            }
        })
        .collect()
}

/// Converts from each format through each other lossless one, and back.
#[test]
fn all_pairs_of_formats_round_trip() {
    for (name, activations, least) in [
        ("gguf-bitnet-tq2_0", ActivationPrecision::Int8, 121),
        ("gguf-llama-tq1_0", ActivationPrecision::Float, 100),
        ("gguf-qwen3-q2_0-g128", ActivationPrecision::Float, 25),
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let load = LoadOptions { activations: Some(activations), ..case.load.clone() };
        let folder = tempfile::tempdir().unwrap();
        let to = |from: &Path, (target, storage): (Target, &str), name: &str| {
            let extension = if target == Target::Gguf { ".gguf" } else { "" };
            let output = folder.path().join(format!("{name}{extension}"));
            let options = ConvertOptions {
                target: Some(target),
                linear: storage.parse().ok(),
                load: load.clone(),
                overwrite: true,
                ..options(&case)
            };
            let report = convert(from, &output, &options, &mut |_| true).ok()?;
            Some((output, all_exact(&report)))
        };
        let mut pairs = 0;
        for a in FORMS {
            let Some((first, _)) = to(&case.path, a, "first") else { continue };
            let before = ternary_layers(&first, &load);
            for b in FORMS {
                // A type with lower precision would change the scales, which is an error.
                let Some((between, true)) = to(&first, b, "between") else { continue };
                let (back, exact) = to(&between, a, "back").unwrap();
                let pair = format!("{name}: {a:?} through {b:?}");
                assert!(exact, "{pair}");
                assert!(ternary_layers(&back, &load) == before, "{pair}");
                if a.0 == Target::Gguf && b.0 == Target::Gguf {
                    assert!(
                        std::fs::read(&first).unwrap() == std::fs::read(&back).unwrap(),
                        "{pair}"
                    );
                }
                pairs += 1;
            }
        }
        assert!(pairs >= least, "{name}: {pairs} pairs");
    }
}

/// A format of two values stores a model without zeros, and refuses one with zeros by the name of the tensor.
#[test]
fn weights_without_zeros_round_trip_through_q1_0() {
    let folder = tempfile::tempdir().unwrap();
    let case = cases().into_iter().find(|case| case.name == "gguf-bitnet-tq2_0").unwrap();
    let to = |from: &Path, storage: &str, name: &str| {
        let output = folder.path().join(name);
        let options = ConvertOptions { linear: storage.parse().ok(), ..options(&case) };
        convert(from, &output, &options, &mut |_| true).map(|report| (output, all_exact(&report)))
    };
    let error = to(&case.path, "q1_0", "refused.gguf").unwrap_err().to_string();
    for part in ["blk.0.", "Q1_0", "row 0", "is 0", "another format"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!folder.path().join("refused.gguf").exists());

    // The same file with +1 in the place of each zero.
    let mut bytes = std::fs::read(&case.path).unwrap();
    for tensor in GgufFile::open(&case.path).unwrap().tensors() {
        if tensor.ggml_type != GgmlType::Tq2_0 {
            continue;
        }
        let stored = tensor.offset as usize..(tensor.offset + tensor.nbytes) as usize;
        for block in bytes[stored].chunks_exact_mut(66) {
            for byte in &mut block[..64] {
                let zeros = *byte & 0x55;
                *byte = (*byte & !zeros) | (zeros << 1);
            }
        }
    }
    let signs = folder.path().join("signs.gguf");
    std::fs::write(&signs, bytes).unwrap();
    let (first, exact) = to(&signs, "q1_0", "first.gguf").unwrap();
    assert!(exact);
    let types = |path: &Path| {
        let file = GgufFile::open(path).unwrap();
        file.tensors().iter().map(|tensor| tensor.ggml_type).collect::<Vec<_>>()
    };
    assert!(types(&first).contains(&GgmlType::Q1_0) && !types(&first).contains(&GgmlType::Tq2_0));
    let (kept, _) = to(&first, "", "kept.gguf").unwrap();
    assert!(std::fs::read(&first).unwrap() == std::fs::read(kept).unwrap());
    let (before, _) = to(&signs, "tq2_0", "before.gguf").unwrap();
    let (back, exact) = to(&first, "tq2_0", "back.gguf").unwrap();
    assert!(exact && std::fs::read(before).unwrap() == std::fs::read(back).unwrap());
    assert_same_logits("q1_0", &logits(&signs, &case.load), &logits(&first, &case.load));
}

/// Llama 3.1's RoPE scaling: settings in a folder, a tensor of factors in a GGUF file.
#[test]
fn frequency_factors_stay_in_gguf_files() {
    let folder = tempfile::tempdir().unwrap();
    let case = cases().into_iter().find(|case| case.name == "llama-rmsnorm-packed").unwrap();
    let file = folder.path().join("model.gguf");
    convert(&case.path, &file, &options(&case), &mut |_| true).unwrap();
    let model = ModelFiles::open(ModelSource::Path(&file), &case.load).unwrap();
    assert!(model.config().frequency_factors().is_some_and(|factors| factors.is_sorted()));
    let back = folder.path().join("back");
    let error = convert(&file, &back, &options(&case), &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("rope_freqs.weight"), "{error}");
}

/// The error of trits with scales rounded to half precision includes both steps.
#[test]
fn reported_error_equals_actual_error() {
    let folder = tempfile::tempdir().unwrap();
    let case = cases().into_iter().find(|case| case.name == "bitnet-2b-online").unwrap();
    let pool = HybridMemoryPool::new().unwrap();
    let stem = "blk.0.ffn_down";
    for (name, linear, tensor) in [
        ("a.gguf", "q2_0".parse().ok(), "blk.0.ffn_down.weight"),
        ("packed", None, "model.layers.0.mlp.down_proj.weight"),
    ] {
        let output = folder.path().join(name);
        let options = ConvertOptions { linear, ..options(&case) };
        let report = match convert(&case.path, &output, &options, &mut |_| true) {
            Ok(report) => report,
            Err(error) => panic!("{name}: {error}"),
        };
        let report = report.tensors.iter().find(|report| report.name == tensor).unwrap();
        let Some(Fidelity::Lossy(said)) = report.fidelity else {
            panic!("{tensor}: masters lose something")
        };
        let [rows, cols] = report.shape;
        let stored = |path: &Path| {
            let files = ModelFiles::open(ModelSource::Path(path), &case.load).unwrap();
            files.linear(stem, rows, cols, &pool).unwrap().unwrap().weight
        };
        let (StoredWeight::Dense { rows: masters, .. }, StoredWeight::Ternary(trits)) =
            (stored(&case.path), stored(&output))
        else {
            panic!("{tensor}: not masters, or not trits")
        };
        let found = loss_of_trits(&*masters, &trits).unwrap();
        assert_eq!(said.count, found.count, "{tensor}");
        assert!((said.mse - found.mse).abs() < 1e-6 * found.mse, "{said:?} {found:?}");
    }
}

#[test]
fn packed_folders_have_equal_logits() {
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

#[test]
fn weight_only_checkpoints_round_trip_through_mlx() {
    let folder = tempfile::tempdir().unwrap();
    let mut converted = 0;
    for case in cases() {
        let there = folder.path().join(format!("{}-mlx", case.name));
        let options_there = ConvertOptions { target: Some(Target::Mlx), ..options(&case) };
        if let Err(error) = convert(&case.path, &there, &options_there, &mut |_| true) {
            let text = error.to_string();
            let named =
                ["--activations", "--to hf", "scale"].iter().any(|word| text.contains(word));
            assert!(named, "{}: {text}", case.name);
            continue;
        }
        let source = logits(&case.path, &case.load);
        assert_same_logits(&case.name, &source, &logits(&there, &case.load));
        let back = folder.path().join(format!("{}-back.gguf", case.name));
        let report = convert(&there, &back, &options(&case), &mut |_| true).unwrap();
        assert!(all_exact(&report), "{}", case.name);
        assert_same_logits(&case.name, &source, &logits(&back, &canonical(&case.load)));
        converted += 1;
    }
    assert!(converted >= 3, "{converted} were converted");
}

/// Returns `W + scale B A` by definition, in the row order of Hugging Face.
#[test]
fn adapters_are_merged_into_masters() {
    use bitnet_formats::SafeTensors;
    use bitnet_formats::safetensors::{Dtype, TensorSpec, write};

    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/llama-online");
    let base = SafeTensors::open(&source).unwrap();
    let layer = "model.layers.0.self_attn.q_proj";
    let weight = base.tensor(&format!("{layer}.weight")).unwrap();
    let (rows, cols, rank) = (weight.shape[0], weight.shape[1], 2);
    let down: Vec<f32> = (0..rank * cols).map(|i| (i % 7) as f32 / 64.0 - 0.05).collect();
    let up: Vec<f32> = (0..rows * rank).map(|i| (i % 5) as f32 / 32.0 - 0.0625).collect();
    let specs: Vec<TensorSpec> = [("A", vec![rank, cols]), ("B", vec![rows, rank])]
        .map(|(which, shape)| TensorSpec {
            name: format!("base_model.model.{layer}.lora_{which}.weight"),
            dtype: Dtype::F32,
            shape,
        })
        .into();
    let path = adapter.join("adapter_model.safetensors");
    write(&path, &specs, &[], |spec, sink| {
        let numbers = if spec.name.contains("lora_A") { &down } else { &up };
        numbers.iter().try_for_each(|number| sink.write_all(&number.to_le_bytes()))
    })
    .unwrap();
    let config = adapter.join("adapter_config.json");
    std::fs::write(&config, r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none"}"#)
        .unwrap();

    let output = folder.path().join("merged");
    let options = ConvertOptions {
        target: Some(Target::Dense),
        linear: Some("f32".parse().unwrap()),
        adapters: vec![(adapter.clone(), 0.5)],
        ..ConvertOptions::default()
    };
    convert(&source, &output, &options, &mut |_| true).unwrap();
    let merged = SafeTensors::open(&output).unwrap();
    let merged = merged.tensor(&format!("{layer}.weight")).unwrap();
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let original: Vec<f32> = match weight.dtype {
        Dtype::Bf16 => {
            let bits = |b: &[u8]| u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16;
            weight.data.chunks(2).map(|b| f32::from_bits(bits(b))).collect()
        }
        _ => weight.data.chunks(4).map(number).collect(),
    };
    for (index, bytes) in merged.data.chunks(4).enumerate() {
        let (row, col) = (index / cols, index % cols);
        let added: f64 = (0..rank)
            .map(|k| f64::from(up[row * rank + k]) * f64::from(down[k * cols + col]))
            .sum();
        let expected = f64::from(original[index]) + 0.5 * 8.0 / 2.0 * added;
        assert!((f64::from(number(bytes)) - expected).abs() < 1e-6, "[{row}, {col}]");
    }
    // Adapters can't be added to ternary weights.
    let packed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/llama-bitlinear-packed");
    let options = ConvertOptions { adapters: vec![(adapter, 1.0)], ..ConvertOptions::default() };
    let error =
        convert(&packed, &folder.path().join("x.gguf"), &options, &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("masters"), "{error}");
}
