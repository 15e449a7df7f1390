//! Adapters have the order of folders: merged into a model of either order of heads, they give one model.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};

use bitnet_convert::{ConvertOptions, convert};
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorSpec, write};
use tempfile::TempDir;

const RANK: usize = 2;

/// Layers of `qwen35-ternary-dense` with rows and columns: heads are in the rows of some and in the columns of others.
const LAYERS: [(&str, &str, usize, usize); 5] = [
    ("model.layers.0.linear_attn.in_proj_qkv", "blk.0.attn_qkv", 256, 128),
    ("model.layers.0.linear_attn.in_proj_z", "blk.0.attn_gate", 128, 128),
    ("model.layers.2.linear_attn.in_proj_b", "blk.2.ssm_beta", 4, 128),
    ("model.layers.2.linear_attn.out_proj", "blk.2.ssm_out", 128, 128),
    ("model.layers.1.self_attn.q_proj", "blk.1.attn_q", 256, 128),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// Number `index` of a matrix of the adapter.
fn number(index: usize) -> f32 {
    (index * 37 % 101) as f32 / 512.0 - 0.1
}

fn adapter(place: &TempDir) -> PathBuf {
    let folder = place.path().join("adapter");
    std::fs::create_dir(&folder).unwrap();
    let mut specs = Vec::new();
    for (layer, _, rows, cols) in LAYERS {
        for (which, shape) in [("A", vec![RANK, cols]), ("B", vec![rows, RANK])] {
            let name = format!("base_model.model.{layer}.lora_{which}.weight");
            specs.push(TensorSpec { name, dtype: Dtype::F32, shape });
        }
    }
    write(&folder.join("adapter_model.safetensors"), &specs, &[], |spec, sink| {
        let count = spec.shape.iter().product();
        (0..count).try_for_each(|index| sink.write_all(&number(index).to_le_bytes()))
    })
    .unwrap();
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}"#;
    std::fs::write(folder.join("adapter_config.json"), config).unwrap();
    folder
}

#[test]
fn merged_models_are_the_same_from_folders_and_files() {
    let place = TempDir::new().unwrap();
    let adapter = adapter(&place);
    let dense = "f32".parse().unwrap();
    let options = ConvertOptions {
        linear: Some(dense),
        overrides: vec![("blk.*.ssm_beta".into(), dense)],
        adapters: vec![(adapter, 1.0)],
        ..ConvertOptions::default()
    };
    let sources = ["qwen35-ternary-dense", "gguf-qwen35-pq2_0/model.gguf"].map(golden);
    let results = ["a.gguf", "b.gguf"].map(|name| place.path().join(name));
    for (source, result) in sources.iter().zip(&results) {
        convert(source, result, &options, &mut |_| true).unwrap();
    }
    let [a, b] = results.map(|path| GgufFile::open(&path).unwrap());
    let folder = SafeTensors::open(&sources[0]).unwrap();
    for (layer, stem, rows, cols) in LAYERS {
        let name = format!("{stem}.weight");
        let data = [&a, &b].map(|file| file.data(file.find(&name).unwrap()).unwrap());
        assert!(*data[0] == *data[1], "{name}");
        // The sum over rows and columns does not depend on their order.
        let sum = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
        let found = data[0].as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
        let base = folder.tensor(&format!("{layer}.weight")).unwrap();
        let base: Vec<f64> = (base.data.as_chunks::<2>().0.iter())
            .map(|b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)))
            .collect();
        let merged = (0..rows * cols).map(|index| {
            let (row, col) = (index / cols, index % cols);
            let product = |k| f64::from(number(row * RANK + k)) * f64::from(number(k * cols + col));
            base[index] + 2.0 * (0..RANK).map(product).sum::<f64>()
        });
        let (found, meant) = (sum(&mut { found }), sum(&mut { merged }));
        assert!((found - meant).abs() < 1e-5 * meant, "{name}: {found} {meant}");
    }
}
