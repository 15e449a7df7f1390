//! Maple: a token gets the same bits whatever is read with it, and in every storage; what is missing or impossible is
//! refused by the name of its key or tensor.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::gguf::{GgufFile, GgufWriter, Value};
use bitnet_inference::models::FeedForward;
use bitnet_inference::{InferenceError, KvType, LoadOptions, Model, ModelSource};
use tempfile::TempDir;

fn golden() -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    models.join("gguf-maple-q2_0/model.gguf")
}

fn load_on(path: &Path, backend: Arc<dyn Backend>) -> Result<Model, InferenceError> {
    Model::load_with(ModelSource::Path(path), &LoadOptions::default(), backend, &mut |_, _| {})
}

fn load(path: &Path) -> Result<Model, InferenceError> {
    load_on(path, Arc::new(ReferenceBackend))
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i + 31 * i) % 260).collect()
}

/// The bits of the hidden states after `pieces` of the tokens, read one after another.
fn states(model: &Model, tokens: &[u32], piece: usize) -> Vec<u32> {
    let decoder = model.decoder();
    let mut cache = decoder.new_cache(tokens.len(), KvType::F16).unwrap();
    let mut bits = Vec::new();
    for tokens in tokens.chunks(piece) {
        let h = decoder.forward(tokens, &mut cache).unwrap();
        bits.extend(h.f32().unwrap().iter().map(|x| x.to_bits()));
    }
    bits
}

#[test]
fn tokens_get_the_same_bits_whatever_is_read_with_them() {
    let tokens = tokens(150);
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::new(ReferenceBackend)];
    for isa in IsaLevel::available() {
        for threads in [1, 3] {
            let options = CpuOptions { threads: Some(threads), isa: Some(isa) };
            backends.push(Arc::new(CpuBackend::new(options).unwrap()));
        }
    }
    let mut of_level = Vec::new();
    for backend in backends {
        let name = backend.describe();
        let model = load_on(&golden(), backend).unwrap();
        // The slow twin: token by token.
        let alone = states(&model, &tokens, 1);
        for piece in [2, 7, 64, 150] {
            assert!(states(&model, &tokens, piece) == alone, "{name}: pieces of {piece}");
        }
        of_level.push(alone);
    }
    // The number of threads changes nothing either.
    for pair in of_level[1..].chunks_exact(2) {
        assert!(pair[0] == pair[1]);
    }
}

#[test]
fn windows_hide_what_is_before_them() {
    // Layers 0 and 2 see 7 positions and layer 1 sees all: the model depends on its first token.
    let model = load(&golden()).unwrap();
    let local = model.config().local.clone().unwrap();
    assert_eq!((local.positions, &local.layers[..]), (7, &[true, false, true][..]));
    let (mut a, count) = (tokens(40), 40);
    let before = states(&model, &a, count);
    a[0] += 1;
    assert_ne!(states(&model, &a, count).split_off(39 * 64), before[39 * 64..]);
    // Without the layer that sees all, it does not.
    let place = TempDir::new().unwrap();
    let pattern = Some(Key::Bools("maple.attention.sliding_window_pattern", vec![true; 3]));
    let model = load(&changed(&place, pattern, None)).unwrap();
    let after = states(&model, &a, count).split_off(39 * 64);
    a[0] -= 1;
    assert_eq!(states(&model, &a, count).split_off(39 * 64), after);
    // A token reaches 6 positions further in each of three layers.
    a[39 - 18] += 1;
    assert_ne!(states(&model, &a, count).split_off(39 * 64), after);
    a[39 - 18] -= 1;
    a[39 - 19] += 1;
    assert_eq!(states(&model, &a, count).split_off(39 * 64), after);
}

#[test]
fn one_token_costs_the_experts_that_it_uses() {
    let model = load(&golden()).unwrap();
    let cost = model.decoder().token_cost(KvType::F16).unwrap();
    let (attention, expert) = (64 * (64 + 32 + 32 + 64), 3 * 64 * 64);
    assert_eq!(cost.ternary_macs, 3 * (attention + 2 * expert));
    assert_eq!(cost.dense_macs, 3 * 5 * 64 + 264 * 64);
    let norms = 3 * (2 * 64 + 2 * 16) + 64;
    let tables = 2 * 264 * 64 + 3 * 5 * 64;
    assert_eq!(cost.parameters, 3 * (attention + 5 * expert) + tables + norms);
}

/// A key that is put in place of the file's.
enum Key<'a> {
    One(&'a str, Value<'a>),
    Bools(&'a str, Vec<bool>),
    Floats(&'a str, Vec<f32>),
    Without(&'a str),
}

impl Key<'_> {
    fn name(&self) -> &str {
        match self {
            Self::One(name, _)
            | Self::Bools(name, _)
            | Self::Floats(name, _)
            | Self::Without(name) => name,
        }
    }
}

/// What becomes of a tensor.
type Tensor<'a> = (&'a str, &'a dyn Fn(&mut Vec<u64>, &mut Vec<u8>));

/// The golden file with one key or one tensor changed.
fn changed(place: &TempDir, key: Option<Key<'_>>, tensor: Option<Tensor<'_>>) -> PathBuf {
    let source = GgufFile::open(&golden()).unwrap();
    let mut writer = GgufWriter::new();
    let replaced = key.as_ref().map(|key| key.name().to_owned());
    writer.copy_metadata(source.metadata(), |name| Some(name) != replaced.as_deref()).unwrap();
    match key {
        Some(Key::One(name, value)) => writer.put(name, value).unwrap(),
        Some(Key::Bools(name, values)) => writer.put_bools(name, &values).unwrap(),
        Some(Key::Floats(name, values)) => writer.put_f32s(name, &values).unwrap(),
        Some(Key::Without(_)) | None => {}
    }
    let mut all = Vec::new();
    for info in source.tensors() {
        let (mut dims, mut bytes) = (info.dims.clone(), source.data(info).unwrap().to_vec());
        if let Some((_, change)) = tensor.filter(|(name, _)| *name == info.name) {
            change(&mut dims, &mut bytes);
        }
        if !dims.is_empty() {
            writer.add_tensor(&info.name, &dims, info.ggml_type).unwrap();
            all.push((info.name.clone(), bytes));
        }
    }
    let path = place.path().join("changed.gguf");
    let bytes_of = |name: &str| &all.iter().find(|(other, _)| other == name).unwrap().1;
    writer.write(&path, |pending, sink| sink.write_all(bytes_of(&pending.name))).unwrap();
    path
}

fn refused(path: &Path, named: &str) {
    let error = load(path).err().unwrap_or_else(|| panic!("{named}: loaded")).to_string();
    assert!(error.contains("changed.gguf") && error.contains(named), "{named}: {error}");
}

#[test]
fn missing_and_impossible_keys_are_refused_by_name() {
    let place = TempDir::new().unwrap();
    for name in [
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "swiglu_clamp_exp",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
    ] {
        let name = format!("maple.{name}");
        refused(&changed(&place, Some(Key::Without(&name)), None), &name);
        refused(&changed(&place, Some(Key::One(&name, Value::String("many"))), None), &name);
    }
    let cases: [(&str, Value<'_>); 16] = [
        ("expert_count", Value::U32(0)),
        ("expert_count", Value::U32(u32::MAX)),
        ("expert_used_count", Value::U32(0)),
        ("expert_used_count", Value::U32(6)),
        ("expert_feed_forward_length", Value::U32(0)),
        ("swiglu_clamp_exp", Value::F32(f32::NAN)),
        ("swiglu_clamp_exp", Value::F32(-7.0)),
        ("attention.sliding_window", Value::U32(0)),
        ("attention.sliding_window", Value::U64(u64::MAX)),
        ("attention.sliding_window_pattern", Value::U32(4)),
        ("expert_gating_func", Value::U32(2)),
        ("expert_shared_count", Value::U32(1)),
        ("expert_weights_norm", Value::Bool(false)),
        ("expert_weights_scale", Value::F32(2.5)),
        ("leading_dense_block_count", Value::U32(1)),
        ("rope.dimension_count", Value::U32(0)),
    ];
    for (name, value) in cases {
        let name = format!("maple.{name}");
        refused(&changed(&place, Some(Key::One(&name, value)), None), &name);
    }
    let name = "maple.attention.sliding_window_pattern";
    refused(&changed(&place, Some(Key::Bools(name, vec![true; 2])), None), name);
    let name = "maple.swiglu_clamp_exp";
    refused(&changed(&place, Some(Key::Floats(name, vec![7.0; 2])), None), name);
    refused(&changed(&place, Some(Key::Floats(name, vec![7.0, 7.0, f32::INFINITY])), None), name);
}

#[test]
fn each_setting_changes_what_the_model_computes() {
    let place = TempDir::new().unwrap();
    let expected = states(&load(&golden()).unwrap(), &tokens(40), 40);
    let pattern = "maple.attention.sliding_window_pattern";
    for key in [
        Key::One("maple.attention.sliding_window", Value::U32(5)),
        Key::Bools(pattern, vec![true, true, false]),
        Key::One("maple.expert_used_count", Value::U32(3)),
        Key::One("maple.swiglu_clamp_exp", Value::F32(0.0)),
        Key::Floats("maple.swiglu_clamp_exp", vec![7.0, 6.0, 7.0]),
        Key::One("maple.rope.dimension_count", Value::U32(16)),
        Key::One("maple.rope.freq_base_swa", Value::F32(20000.0)),
    ] {
        let name = key.name().to_owned();
        let model = load(&changed(&place, Some(key), None)).unwrap();
        assert!(states(&model, &tokens(40), 40) != expected, "{name}");
    }
    // What has no reader changes nothing.
    let key = Key::One("maple.feed_forward_length", Value::U32(1));
    let model = load(&changed(&place, Some(key), None)).unwrap();
    assert!(states(&model, &tokens(40), 40) == expected);
}

#[test]
fn the_ways_to_say_the_rotated_part_of_a_head_are_one() {
    let place = TempDir::new().unwrap();
    let expected = states(&load(&golden()).unwrap(), &tokens(20), 20);
    // The authors' converter writes 0 for layers without a window, and the part for the others.
    let source = GgufFile::open(&golden()).unwrap();
    let mut writer = GgufWriter::new();
    writer.copy_metadata(source.metadata(), |key| key != "maple.rope.dimension_count").unwrap();
    writer.put("maple.rope.dimension_count", Value::U32(0)).unwrap();
    writer.put("maple.rope.dimension_count_swa", Value::U32(8)).unwrap();
    for tensor in source.tensors() {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).unwrap();
    }
    let path = place.path().join("authors.gguf");
    let bytes = |name: &str| source.data(source.find(name).unwrap()).unwrap();
    writer.write(&path, |pending, sink| sink.write_all(&bytes(&pending.name))).unwrap();
    let model = load(&path).unwrap();
    assert_eq!(model.config().rope_dim, 8);
    assert_eq!(states(&model, &tokens(20), 20), expected);
}

#[test]
fn tensors_of_experts_that_do_not_fit_are_refused_by_name() {
    let place = TempDir::new().unwrap();
    for name in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_inp"] {
        let name = format!("blk.1.{name}.weight");
        let gone = |dims: &mut Vec<u64>, _: &mut Vec<u8>| dims.clear();
        refused(&changed(&place, None, Some((&name, &gone))), &name);
        let fewer = |dims: &mut Vec<u64>, bytes: &mut Vec<u8>| {
            let experts = dims.last_mut().unwrap();
            bytes.truncate(bytes.len() / *experts as usize * (*experts - 1) as usize);
            *experts -= 1;
        };
        refused(&changed(&place, None, Some((&name, &fewer))), &name);
    }
    let name = "blk.0.ffn_down_exps.weight";
    // As many numbers, but two dimensions.
    let flat = |dims: &mut Vec<u64>, _: &mut Vec<u8>| *dims = vec![64, 5 * 64];
    refused(&changed(&place, None, Some((name, &flat))), name);
}

#[test]
fn a_router_that_is_no_number_gives_an_error() {
    let place = TempDir::new().unwrap();
    for (wrong, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity")] {
        let spoil = move |_: &mut Vec<u64>, bytes: &mut Vec<u8>| {
            bytes[..4].copy_from_slice(&wrong.to_le_bytes());
        };
        let path = changed(&place, None, Some(("blk.1.ffn_gate_inp.weight", &spoil)));
        for backend in [
            Arc::new(ReferenceBackend) as Arc<dyn Backend>,
            Arc::new(CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap()),
        ] {
            let model = load_on(&path, backend).unwrap();
            let mut session = model.session(None).unwrap();
            let error = session.extend(&tokens(9)).unwrap().logits().unwrap_err();
            assert!(matches!(error, InferenceError::NonFiniteLogit { .. }), "{name}: {error}");
        }
    }
}

/// A model of the golden file's shapes, but for rows of 256 numbers, with its ternary layers in a storage.
fn widened(place: &TempDir, storage: &str) -> PathBuf {
    let storage: bitnet_quant::codec::Storage = storage.parse().unwrap();
    let bitnet_quant::codec::Storage::Ternary(ternary) = storage else { panic!("{storage}") };
    let ggml_type = bitnet_inference::loader::ggml_type_of(storage).unwrap();
    let source = GgufFile::open(&golden()).unwrap();
    let mut writer = GgufWriter::new();
    let changed =
        ["embedding_length", "expert_feed_forward_length"].map(|key| format!("maple.{key}"));
    writer.copy_metadata(source.metadata(), |key| !changed.iter().any(|name| name == key)).unwrap();
    changed.iter().for_each(|name| writer.put(name, Value::U32(256)).unwrap());
    let mut all = Vec::new();
    for tensor in source.tensors() {
        // Width 64 becomes 256 wherever it stands; heads keep theirs.
        let grow = |dim: u64| if dim == 64 { 256 } else { dim };
        let is_head_norm = tensor.name.contains("_q_norm") || tensor.name.contains("_k_norm");
        let mut dims: Vec<u64> = tensor.dims.iter().map(|&dim| grow(dim)).collect();
        if is_head_norm {
            dims.clone_from(&tensor.dims);
        }
        if tensor.name.contains("attn_q.") {
            dims[1] = 64;
        }
        if tensor.name.contains("attn_output.") {
            dims[0] = 64;
        }
        let count = dims.iter().product::<u64>() as usize;
        let seed = all.len();
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        let is_narrow = tensor.name.contains("attn_output.");
        if tensor.ggml_type.is_ternary() && !is_narrow {
            let (cols, rows) = (dims[0] as usize, count / dims[0] as usize);
            let trits: Vec<i8> = (0..count).map(|i| (number(i) * 1.4).round() as i8).collect();
            let (granularity, scales) = match storage.to_string().starts_with("i2_s") {
                true => (ScaleGranularity::Tensor, vec![0.125]),
                false => (
                    ScaleGranularity::Row,
                    (0..rows).map(|row| 2f32.powi(-(3 + (row % 4) as i32))).collect(),
                ),
            };
            let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales);
            all.push((
                tensor.name.clone(),
                dims,
                ggml_type,
                ternary.encode(&matrix.unwrap()).unwrap(),
            ));
        } else {
            let centre = if tensor.name.contains("norm") { 1.0 } else { 0.0 };
            let numbers = (0..count).map(|i| centre + 0.25 * number(i));
            let bytes = numbers.flat_map(f32::to_le_bytes).collect();
            all.push((tensor.name.clone(), dims, bitnet_formats::gguf::GgmlType::F32, bytes));
        }
    }
    for (name, dims, ggml_type, _) in &all {
        writer.add_tensor(name, dims, *ggml_type).unwrap();
    }
    let path = place.path().join(format!("{storage}.gguf"));
    let bytes_of = |name: &str| &all.iter().find(|(other, ..)| other == name).unwrap().3;
    writer.write(&path, |pending, sink| sink.write_all(bytes_of(&pending.name))).unwrap();
    path
}

#[test]
fn experts_of_every_storage_give_the_same_logits() {
    let place = TempDir::new().unwrap();
    let logits = |path: &Path| {
        let model = load(path).unwrap();
        let FeedForward::Mixture(mixture) = &model.decoder().layers[2].feed_forward else {
            panic!("a mixture")
        };
        assert_eq!(mixture.experts.len(), 5);
        model.session(None).unwrap().extend(&tokens(12)).unwrap().logits().unwrap()
    };
    let expected = logits(&widened(&place, "q2_0"));
    assert!(expected.iter().all(|x| x.is_finite()));
    for storage in ["tq1_0", "tq2_0", "pq2_0", "ptq1_0"] {
        assert_eq!(logits(&widened(&place, storage)), expected, "{storage}");
    }
    // Blocks that hold more than one row cannot be cut between experts.
    let error = load(&widened(&place, "i2_s")).unwrap_err().to_string();
    assert!(error.contains("ffn_gate_exps") && error.contains("I2_S"), "{error}");
}
