//! Damaged MLX folders and adapters: errors that name the tensor or the field, never a panic.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_convert::{ConvertOptions, Target, convert};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_formats::SafeTensors;
use bitnet_formats::safetensors::{Dtype, TensorSpec, write};
use bitnet_inference::loader::StoredWeight;
use bitnet_inference::{LoadOptions, Model, ModelFiles, ModelSource};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// A tensor that can be changed.
#[derive(Debug, Clone)]
struct Tensor {
    spec: TensorSpec,
    bytes: Vec<u8>,
}

fn read(folder: &Path) -> Vec<Tensor> {
    let tensors = SafeTensors::open(folder).unwrap();
    let tensor = |view: bitnet_formats::safetensors::TensorView| Tensor {
        spec: TensorSpec { name: view.name.clone(), dtype: view.dtype, shape: view.shape.clone() },
        bytes: view.data.to_vec(),
    };
    tensors.tensors().map(tensor).collect()
}

fn write_to(folder: &Path, name: &str, tensors: &[Tensor]) {
    let specs: Vec<TensorSpec> = tensors.iter().map(|tensor| tensor.spec.clone()).collect();
    write(&folder.join(name), &specs, &[], |spec, sink| {
        let tensor = tensors.iter().find(|tensor| tensor.spec.name == spec.name).unwrap();
        sink.write_all(&tensor.bytes)
    })
    .unwrap();
}

#[test]
fn damaged_mlx_folders_name_the_tensor() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("mlx");
    let options = ConvertOptions { target: Some(Target::Mlx), ..ConvertOptions::default() };
    convert(&golden("qwen3-ternary-dense"), &folder, &options, &mut |_| true).unwrap();
    let (whole, config) = (read(&folder), fs::read_to_string(folder.join("config.json")).unwrap());
    let load = || Model::load(ModelSource::Path(&folder)).map(drop);
    load().unwrap();

    type Damage = fn(&mut Vec<Tensor>);
    fn at(tensors: &[Tensor], name: &str) -> usize {
        tensors.iter().position(|tensor| tensor.spec.name.ends_with(name)).unwrap()
    }
    let damages: [(&str, &str, Damage); 7] = [
        ("no scales", "q_proj.scales", |tensors| {
            tensors.remove(at(tensors, "q_proj.scales"));
        }),
        ("no biases", "q_proj.biases", |tensors| {
            tensors.remove(at(tensors, "q_proj.biases"));
        }),
        ("scales of integers", "q_proj.scales", |tensors| {
            let index = at(tensors, "q_proj.scales");
            tensors[index].spec.dtype =
                if tensors[index].spec.dtype == Dtype::F32 { Dtype::I32 } else { Dtype::I16 };
        }),
        ("too few scales", "q_proj.scales", |tensors| {
            let index = at(tensors, "q_proj.scales");
            tensors[index].spec.shape[0] -= 1;
            let bytes: usize = tensors[index].spec.shape.iter().product::<usize>()
                * tensors[index].spec.dtype.size();
            tensors[index].bytes.truncate(bytes);
        }),
        ("biases of another size", "q_proj.weight", |tensors| {
            let index = at(tensors, "q_proj.biases");
            tensors[index].bytes.fill(0);
        }),
        ("a scale that is no number", "q_proj.weight", |tensors| {
            let index = at(tensors, "q_proj.scales");
            tensors[index].bytes[..4].fill(0xFF);
        }),
        ("codes of another shape", "q_proj.weight", |tensors| {
            let index = at(tensors, "q_proj.weight");
            tensors[index].spec.shape.reverse();
        }),
    ];
    for (what, named, damage) in damages {
        let mut tensors = whole.clone();
        damage(&mut tensors);
        write_to(&folder, "model.safetensors", &tensors);
        let error = load().unwrap_err().to_string();
        assert!(error.contains(named), "{what}: {error}");
    }
    write_to(&folder, "model.safetensors", &whole);
    for (from, to, named) in [
        ("\"bits\": 2", "\"bits\": 4", "quantization"),
        ("\"mode\": \"affine\"", "\"mode\": \"mxfp4\"", "quantization"),
        ("\"quantization\"", "\"other\"", "quantization"),
    ] {
        assert!(config.contains(from), "{config}");
        fs::write(folder.join("config.json"), config.replace(from, to)).unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains(named), "{to}: {error}");
    }
}

#[test]
fn damaged_adapters_are_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    let adapter = work.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    let refused = || {
        let options = ConvertOptions {
            adapters: vec![(adapter.clone(), 1.0)],
            load: LoadOptions::default(),
            ..ConvertOptions::default()
        };
        let output = work.path().join("out.gguf");
        let error = convert(&golden("llama-online"), &output, &options, &mut |_| true).unwrap_err();
        assert!(!output.exists());
        error.to_string()
    };
    assert!(refused().contains("adapter_config.json"));
    let good = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2}"#;
    for (config, named) in [
        ("{", "JSON"),
        (r#"{"peft_type": "IA3", "r": 1, "lora_alpha": 2}"#, "peft_type"),
        (r#"{"peft_type": "LORA", "r": 0, "lora_alpha": 2}"#, "adapter_config.json: r"),
        (r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "use_dora": true}"#, "use_dora"),
        (
            r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "rank_pattern": {"q": 2}}"#,
            "rank_pattern",
        ),
    ] {
        fs::write(adapter.join("adapter_config.json"), config).unwrap();
        let error = refused();
        assert!(error.contains(named), "{config}: {error}");
    }
    fs::write(adapter.join("adapter_config.json"), good).unwrap();
    assert!(refused().contains("adapter_model.safetensors"));
    let tensor = |name: &str, shape: &[usize], value: f32| Tensor {
        spec: TensorSpec { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec() },
        bytes: value.to_le_bytes().repeat(shape.iter().product()),
    };
    let layer = "base_model.model.model.layers.0.self_attn.q_proj";
    let (down, up) = (format!("{layer}.lora_A.weight"), format!("{layer}.lora_B.weight"));
    for (tensors, named) in [
        (vec![], "adapts no layer"),
        (vec![tensor(&down, &[1, 128], 0.1)], "lora_B"),
        (vec![tensor(&down, &[1, 64], 0.1), tensor(&up, &[128, 1], 0.1)], "q_proj"),
        (vec![tensor(&down, &[2, 128], 0.1), tensor(&up, &[128, 1], 0.1)], "q_proj"),
        (vec![tensor(&down, &[4, 128], 0.1), tensor(&up, &[128, 4], 0.1)], "rank 4"),
        (vec![tensor(&down, &[1, 128], f32::NAN), tensor(&up, &[128, 1], 0.1)], "lora_A"),
        (vec![tensor("base_model.model.x.magnitude", &[1], 0.1)], "magnitude"),
        (
            vec![
                tensor("model.layers.9.mlp.up_proj.lora_A.weight", &[1, 128], 0.1),
                tensor("model.layers.9.mlp.up_proj.lora_B.weight", &[128, 1], 0.1),
            ],
            "layers.9",
        ),
    ] {
        write_to(&adapter, "adapter_model.safetensors", &tensors);
        let error = refused();
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn a_tensor_of_another_shape_than_the_settings_ask_for_is_refused_before_anything_is_written() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for name in ["llama-ternary-dense", "bitnet-2b-packed", "qwen3-ternary-dense"] {
        let tensors = read(&golden(name));
        write_to(&folder, "model.safetensors", &tensors);
        let config = fs::read(golden(name).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let rows = config["vocab_size"].as_u64().unwrap();
        for (vocab_size, fits) in
            [(rows - 34, false), (rows - 1, false), (rows, true), (rows + 5, false)]
        {
            let mut changed = config.clone();
            changed["vocab_size"] = vocab_size.into();
            fs::write(folder.join("config.json"), changed.to_string()).unwrap();
            for name in ["out.gguf", "out"].into_iter().take(if fits { 1 } else { 2 }) {
                let output = work.path().join(name);
                let converted =
                    convert(&folder, &output, &ConvertOptions::default(), &mut |_| true);
                if fits {
                    converted.unwrap();
                    fs::remove_file(output).unwrap();
                } else {
                    let error = converted.unwrap_err().to_string();
                    let said = format!("model.embed_tokens.weight has shape [{rows}, ");
                    assert!(error.contains(&said), "{vocab_size}: {error}");
                    assert!(error.contains(&format!("ask for [{vocab_size}, ")), "{error}");
                }
            }
        }
        let left: Vec<_> =
            fs::read_dir(work.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["folder"], "{name}");
    }
}

#[test]
fn code_3_of_an_mlx_folder_is_a_weight_of_twice_its_scale() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("mlx");
    let options = ConvertOptions { target: Some(Target::Mlx), ..ConvertOptions::default() };
    convert(&golden("qwen3-ternary-dense"), &folder, &options, &mut |_| true).unwrap();
    let mut tensors = read(&folder);
    let index = tensors
        .iter()
        .position(|tensor| tensor.spec.name == "model.layers.0.self_attn.q_proj.weight")
        .unwrap();
    tensors[index].bytes[5] = 0xFF;
    write_to(&folder, "model.safetensors", &tensors);
    let doubled = |folder: &Path| {
        let files = ModelFiles::open(ModelSource::Path(folder), &LoadOptions::default()).unwrap();
        let c = files.config();
        let (pool, rows) = (HybridMemoryPool::new().unwrap(), c.heads * c.head_dim);
        let stored = files.linear("blk.0.attn_q", rows, c.hidden, &pool).unwrap().unwrap();
        let StoredWeight::Ternary(matrix) = stored.weight else { panic!() };
        let first: Vec<i8> = (18..25).map(|col| matrix.trit(0, col)).collect();
        (matrix.doubled(), first[2..6].to_vec())
    };
    assert_eq!(doubled(&folder), (4, vec![2; 4]));
    // Another MLX folder holds them as well.
    let copy = work.path().join("copy");
    convert(&folder, &copy, &options, &mut |_| true).unwrap();
    assert_eq!(doubled(&copy), (4, vec![2; 4]));
}
