//! A model runs on a back end whose memory the host cannot read, with the bits of the host's, and copies logits alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::PathBuf;
use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::reference::ReferenceBackend;
use bitnet_inference::{
    BatchItem, KvType, LoadOptions, LogitRows, Model, ModelSource, Session, extend_batch,
};
use bitnet_testing::DeviceBackend;

fn load(name: &str, kv: KvType, backend: Arc<dyn Backend>) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name);
    let options = LoadOptions { kv, ..LoadOptions::default() };
    Model::load_with(ModelSource::Path(&path), &options, backend, &mut |_, _| {}).unwrap()
}

fn bits<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Vec<u32> {
    rows.into_iter().flatten().map(|x| x.to_bits()).collect()
}

fn logits(session: &mut Session, tokens: &[u32]) -> Vec<u32> {
    bits([&*session.extend(tokens).unwrap().logits().unwrap()])
}

/// A prompt over several pages of the cache, a fork that writes to a shared page, and a batch: all logits.
fn run(model: &Model) -> Vec<Vec<u32>> {
    let vocabulary = model.config().vocab_size as u32;
    let token = |i: u32| (i * 7 + 3) % vocabulary;
    let prompt: Vec<u32> = (0..150).map(token).collect();
    let mut first = model.session(Some(200)).unwrap();
    let mut results = vec![logits(&mut first, &prompt), logits(&mut first, &[1, 2])];
    let mut second = model.session(Some(200)).unwrap();
    results.push(logits(&mut second, &prompt[..70]));
    let mut items = [
        BatchItem { session: &mut first, tokens: &[4, 5, 6], logits: LogitRows::At(&[0, 2]) },
        BatchItem { session: &mut second, tokens: &[7], logits: LogitRows::Last },
    ];
    let batch = extend_batch(&mut items).unwrap();
    results.extend((0..2).map(|index| bits(batch.of(index).unwrap())));
    let decoder = model.decoder();
    let mut cache = decoder.new_cache(200, model.kv()).unwrap();
    decoder.forward(&prompt, &mut cache).unwrap();
    for cache in [&mut cache.fork(130), &mut cache] {
        let h = decoder.forward(&[3], cache).unwrap();
        results.push(bits([decoder.logits(&h).unwrap().f32().unwrap()]));
    }
    results
}

#[test]
fn a_model_in_device_memory_gives_the_bits_of_the_host() {
    let models = [
        ("bitnet-2b-packed", KvType::F16),
        ("llama-rmsnorm-packed", KvType::Int8),
        ("qwen2-ternary-dense", KvType::F32),
        ("qwen3-ternary-dense", KvType::F16),
    ];
    for (name, kv) in models {
        let device = Arc::new(DeviceBackend::default());
        let model = load(name, kv, Arc::clone(&device) as Arc<dyn Backend>);
        let host = run(&load(name, kv, Arc::new(ReferenceBackend)));
        device.take_copied();
        assert!(run(&model) == host, "{name}");
        let rows = 3 + 3 + 2;
        assert_eq!(device.unprepared(), 0, "{name}");
        assert_eq!(device.take_copied(), rows * model.config().vocab_size, "{name}");
    }
}
