//! Any bytes as a model folder and as an adapter's folder: an error, or a model that processes two tokens and a
//! verified conversion; never a panic.
//!
//! An input is six digits, as many bytes of `config.json`, and the rest of `model.safetensors`.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bitnet_convert::{ConvertOptions, Error, convert};
use bitnet_inference::{LoadOptions, Model, ModelSource, backend_by_name};
use libfuzzer_sys::fuzz_target;

/// The model for merging adapters.
const BASE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/llama-ternary-dense");

static BACKEND: LazyLock<Arc<dyn bitnet_core::backend::Backend>> = LazyLock::new(|| {
    backend_by_name("reference", Default::default()).expect("the reference is always there")
});

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("bitnet-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(place.join("folder")).expect("the temporary folder can be written");
    place
});

/// Splits the bytes into settings and weights.
fn halves(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, rest) = bytes.split_at_checked(6)?;
    let len = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
    rest.split_at_checked(len)
}

/// Converts, and fails if the verification fails.
fn converted(input: &Path, output: &str, options: &ConvertOptions) {
    let output = PLACE.join(output);
    let options = ConvertOptions { threads: Some(1), overwrite: true, ..options.clone() };
    if let Err(error @ Error::Unproven { .. }) = convert(input, &output, &options, &mut |_| true) {
        panic!("{error}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((config, weights)) = halves(bytes) else { return };
    let folder = PLACE.join("folder");
    for (name, bytes) in [
        ("config.json", config),
        ("adapter_config.json", config),
        ("model.safetensors", weights),
        ("adapter_model.safetensors", weights),
    ] {
        std::fs::write(folder.join(name), bytes).expect("the temporary folder can be written");
    }
    let options = LoadOptions::default();
    let loaded =
        Model::load_with(ModelSource::Path(&folder), &options, BACKEND.clone(), &mut |_, _| {});
    if let Ok(model) = loaded
        && let Ok(mut session) = model.session(Some(2))
        && let Ok(logits) = session
            .extend(&[0, model.config().vocab_size as u32 - 1])
            .and_then(|session| session.logits())
    {
        assert_eq!(logits.len(), model.config().vocab_size);
    }
    let options = ConvertOptions { quantize: true, ..ConvertOptions::default() };
    converted(&folder, "model.gguf", &options);
    let options = ConvertOptions { adapters: vec![(folder, 1.0)], ..options };
    converted(Path::new(BASE), "adapted", &options);
});
