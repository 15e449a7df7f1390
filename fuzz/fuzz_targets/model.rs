//! Any bytes as a whole model: an error or a model that processes two tokens, never a panic.
#![no_main]

use std::sync::{Arc, LazyLock};

use bitnet_inference::{DraftSource, LoadOptions, Model, ModelSource, backend_by_name};
use libfuzzer_sys::fuzz_target;

static BACKEND: LazyLock<Arc<dyn bitnet_core::backend::Backend>> = LazyLock::new(|| {
    backend_by_name("reference", Default::default()).expect("the reference is always there")
});

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("bitnet-fuzz-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let options = LoadOptions { draft: DraftSource::Own, ..LoadOptions::default() };
    let loaded =
        Model::load_with(ModelSource::Path(&path), &options, BACKEND.clone(), &mut |_, _| {});
    std::fs::remove_file(&path).expect("the file was written");
    let Ok(model) = loaded else { return };
    let Ok(mut session) = model.session(Some(2)) else { return };
    let last = model.config().vocab_size as u32 - 1;
    if let Ok(logits) = session.extend(&[0, last]).and_then(|session| session.logits()) {
        assert_eq!(logits.len(), model.config().vocab_size);
    }
});
