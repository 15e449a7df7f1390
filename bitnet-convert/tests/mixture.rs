//! Mixtures of experts: GGUF types change and the model stays; what a target cannot say is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_convert::{ConvertOptions, Storage, Target, convert};
use bitnet_core::reference::ReferenceBackend;
use bitnet_formats::gguf::GgufFile;
use bitnet_inference::{LoadOptions, Model, ModelSource};
use tempfile::TempDir;

fn golden() -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    models.join("gguf-maple-q2_0/model.gguf")
}

fn to(linear: &str) -> ConvertOptions {
    let linear: Storage = linear.parse().unwrap();
    ConvertOptions { linear: Some(linear), target: Some(Target::Gguf), ..ConvertOptions::default() }
}

fn logits(path: &Path) -> Vec<u32> {
    let (options, backend) = (LoadOptions::default(), Arc::new(ReferenceBackend));
    let model = Model::load_with(ModelSource::Path(path), &options, backend, &mut |_, _| {});
    let tokens: Vec<u32> = (0..24).map(|i| i * 31 % 260).collect();
    let logits = model.unwrap().session(None).unwrap().extend(&tokens).unwrap().logits().unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

#[test]
fn stacks_of_experts_keep_their_values_and_dimensions_and_come_back_byte_for_byte() {
    let (folder, source) = (TempDir::new().unwrap(), golden());
    let [dense, back] = ["dense.gguf", "back.gguf"].map(|name| folder.path().join(name));
    convert(&source, &dense, &to("f16"), &mut |_| true).unwrap();
    let name = "blk.2.ffn_down_exps.weight";
    let (before, after) = (GgufFile::open(&source).unwrap(), GgufFile::open(&dense).unwrap());
    assert_eq!(after.find(name).unwrap().dims, [64, 64, 5]);
    assert_eq!(after.find(name).unwrap().dims, before.find(name).unwrap().dims);
    // Routers stay as they are.
    let router = |file: &GgufFile| {
        let tensor = file.find("blk.1.ffn_gate_inp.weight").unwrap();
        (tensor.ggml_type, file.data(tensor).unwrap().to_vec())
    };
    assert_eq!(router(&before), router(&after));
    assert_eq!(logits(&dense), logits(&source));
    convert(&dense, &back, &to("q2_0"), &mut |_| true).unwrap();
    assert_eq!(logits(&back), logits(&source));
    let back = GgufFile::open(&back).unwrap();
    for tensor in before.tensors() {
        let written = back.find(&tensor.name).unwrap();
        assert_eq!((written.ggml_type, &written.dims), (tensor.ggml_type, &tensor.dims));
        assert!(*back.data(written).unwrap() == *before.data(tensor).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn what_a_target_cannot_say_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let refused = |options: ConvertOptions, name: &str, words: [&str; 2]| {
        let output = folder.path().join(name);
        let error = convert(&golden(), &output, &options, &mut |_| true).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!output.exists());
    };
    for target in [Target::HuggingFace, Target::Dense, Target::Mlx] {
        let options = ConvertOptions { target: Some(target), ..ConvertOptions::default() };
        refused(options, "folder", ["mixtures of experts", "GGUF to GGUF"]);
    }
    refused(
        ConvertOptions { quantize: true, ..to("q2_0") },
        "quantized.gguf",
        ["mixtures of experts", "ternary"],
    );
    // Blocks of four rows.
    refused(to("iq2_bn_r4"), "blocks.gguf", ["ffn_gate_exps", "--type"]);
}
