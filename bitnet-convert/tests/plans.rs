//! Errors found by the plan: settings that the target can't store, and unsupported shapes.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod small_model;

use std::path::Path;

use bitnet_convert::{ConvertOptions, Target, convert, inspect};
use serde_json::json;
use small_model::SmallModel;

/// Returns the error of plan and conversion, which must be equal and leave no files.
fn refused(input: &Path, output: &Path, options: &ConvertOptions) -> String {
    let planned = inspect(input, output, options).unwrap_err().to_string();
    let error = convert(input, output, options, &mut |_| true).unwrap_err().to_string();
    assert_eq!(planned, error);
    let left = std::fs::read_dir(output.parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    error
}

#[test]
fn activations_that_llama_cpp_ignores_are_errors() {
    let work = tempfile::tempdir().unwrap();
    for (act, name) in [("relu2", "ReLU"), ("gelu_pytorch_tanh", "GELU")] {
        let config = json!({"hidden_act": act});
        let folder = SmallModel { config, ..SmallModel::default() }.write(work.path(), act);
        let error = refused(&folder, &work.path().join("x.gguf"), &ConvertOptions::default());
        assert!(error.contains(&format!("its activation is {name}")), "{error}");
        assert!(error.contains("SiLU") && error.contains("--to hf or hf-dense"), "{error}");
        assert!(!error.contains("ModelConfig") && !error.contains('{'), "{error}");
        // Folders have a field for it.
        let dense = ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() };
        inspect(&folder, &work.path().join("folder"), &dense).unwrap();
    }
}

#[test]
fn two_epsilons_need_a_field() {
    let work = tempfile::tempdir().unwrap();
    let quantization = json!({
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online", "use_rms_norm": true,
        "rms_norm_eps": 1e-6,
    });
    let config = json!({"quantization_config": quantization});
    let model = SmallModel { config, input_norms: true, ..SmallModel::default() };
    let folder = model.write(work.path(), "m");
    let (file, packed) = (work.path().join("m.gguf"), work.path().join("packed"));
    convert(&folder, &file, &ConvertOptions::default(), &mut |_| true).unwrap();
    convert(&file, &packed, &ConvertOptions::default(), &mut |_| true).unwrap();
    let dense = ConvertOptions { target: Some(Target::Dense), ..ConvertOptions::default() };
    let error = refused(&file, &work.path().join("dense"), &dense);
    assert!(error.contains("epsilon") && error.contains("--to hf"), "{error}");
}

#[test]
fn narrow_tensors_fall_back_with_the_rule() {
    let work = tempfile::tempdir().unwrap();
    let model = SmallModel { intermediate: 160, ..SmallModel::default() };
    let folder = model.write(work.path(), "m");
    let all = [None, Some("tq2_0"), Some("q2_0-g128"), Some("i2_s")];
    for linear in all {
        let activations = (linear != Some("q2_0-g128") && linear.is_some())
            .then_some(bitnet_core::backend::ActivationPrecision::Float);
        let load = bitnet_inference::LoadOptions { activations, ..Default::default() };
        let options = ConvertOptions {
            linear: linear.map(|name| name.parse().unwrap()),
            load,
            ..ConvertOptions::default()
        };
        let output = work.path().join(format!("{}.gguf", linear.unwrap_or("own")));
        let planned = inspect(&folder, &output, &options).unwrap();
        let report = convert(&folder, &output, &options, &mut |_| true).unwrap();
        assert_eq!(planned.remarks, report.remarks);
        let fallen: Vec<&str> = report
            .tensors
            .iter()
            .filter(|tensor| tensor.role == "linear" && tensor.to == "F16")
            .map(|tensor| tensor.name.as_str())
            .collect();
        assert_eq!(fallen, ["blk.0.ffn_down.weight"], "{linear:?}");
        let remark = report.remarks.iter().find(|remark| remark.contains("down_proj")).unwrap();
        assert!(remark.contains("multiple of") && remark.contains("f16"), "{remark}");
    }
    // A type requested by name is used; if it does not support the shape, it is an error.
    let overrides = |name: &str| ConvertOptions {
        overrides: vec![("blk.0.ffn_down".into(), name.parse().unwrap())],
        ..ConvertOptions::default()
    };
    let report = inspect(&folder, &work.path().join("f32.gguf"), &overrides("f32")).unwrap();
    let down = report.tensors.iter().find(|tensor| tensor.name == "blk.0.ffn_down.weight").unwrap();
    assert_eq!(down.to, "F32");
    assert!(
        report.remarks.iter().all(|remark| !remark.contains("down_proj")),
        "{:?}",
        report.remarks
    );
    let error = refused(&folder, &work.path().join("q.gguf"), &overrides("q2_0-g128"));
    assert!(error.contains("multiple of 128"), "{error}");
}

#[test]
fn unknown_extensions_are_rejected_first() {
    for name in ["x.onnx", "x.bin", "x.pt", "x.safetensors", "x.ggml"] {
        let error =
            inspect(Path::new("no-such-model"), Path::new(name), &ConvertOptions::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("are not written"), "{error}");
    }
}

#[test]
fn decoders_without_gguf_equivalent_are_errors() {
    let mut vocab = serde_json::Map::new();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let texts = ["<unk>", "<s>", "</s>", "▁", "a", "e", "o"].map(str::to_owned);
    for (id, text) in texts.into_iter().chain(bytes).enumerate() {
        vocab.insert(text, id.into());
    }
    let tokenizer = |strip: bool| {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if strip {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [],
            },
        })
    };
    let work = tempfile::tempdir().unwrap();
    let model = |name, strip| {
        let files = vec![("tokenizer.json", tokenizer(strip))];
        SmallModel { files, ..SmallModel::default() }.write(work.path(), name)
    };
    let output = work.path().join("model.gguf");
    inspect(&model("stripped", true), &output, &ConvertOptions::default()).unwrap();
    // GGUF readers drop the space of add_space_prefix; this decoder keeps it.
    let error = refused(&model("whole", false), &output, &ConvertOptions::default());
    assert!(error.contains("would be decoded as"), "{error}");
}
