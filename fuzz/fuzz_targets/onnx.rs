//! Any bytes as an ONNX file beside the settings of a golden one: an error, or a model that processes two tokens; never a
//! panic.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bitnet_formats::OnnxModel;
use bitnet_inference::{LoadOptions, Model, ModelSource, backend_by_name};
use libfuzzer_sys::fuzz_target;

/// The settings of the model.
const CONFIG: &[u8] = include_bytes!("../../tests/golden/onnx/onnx-llama-q2/config.json");

static BACKEND: LazyLock<Arc<dyn bitnet_core::backend::Backend>> = LazyLock::new(|| {
    backend_by_name("reference", Default::default()).expect("the reference is always there")
});

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("bitnet-fuzz-onnx-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("the temporary folder can be written");
    std::fs::write(place.join("config.json"), CONFIG).expect("so can its files");
    place
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = OnnxModel::from_bytes(bytes.to_vec(), "fuzz.onnx") {
        for tensor in model.initializers() {
            let expected = tensor.data_type.bytes_for(tensor.elements());
            if let (Ok(data), Some(expected)) = (model.data(tensor), expected) {
                assert_eq!(data.len(), expected, "{}", tensor.name);
            }
        }
    }
    let path = PLACE.join("model.onnx");
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let options = LoadOptions::default();
    let loaded =
        Model::load_with(ModelSource::Path(&path), &options, BACKEND.clone(), &mut |_, _| {});
    if let Ok(model) = loaded
        && let Ok(mut session) = model.session(Some(2))
        && let Ok(logits) = session.extend(&[0, 47]).and_then(|session| session.logits())
    {
        assert_eq!(logits.len(), model.config().vocab_size);
    }
});
