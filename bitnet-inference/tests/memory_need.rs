//! What the header says about memory, beside what loading takes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_cpu::CpuOptions;
use bitnet_inference::{KvType, LoadOptions, MemoryNeed, Model, ModelSource, backend_in_pool};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models")
}

/// The need of a model, and a pool that holds it.
fn loaded(path: &Path, options: &LoadOptions) -> (MemoryNeed, Model, HybridMemoryPool) {
    let source = ModelSource::Path(path);
    let need = MemoryNeed::of(source, options).unwrap();
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
    let backend =
        backend_in_pool("cpu", CpuOptions { threads: Some(1), isa: None }, &pool).unwrap();
    let options = LoadOptions { pool: Some(pool.clone()), ..options.clone() };
    let model = Model::load_with(source, &options, backend, &mut |_, _| {}).unwrap();
    (need, model, pool)
}

/// The model file, or the folder of a golden model.
fn path_of(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let gguf = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"));
    gguf.unwrap_or_else(|| folder.to_owned())
}

#[test]
fn weights_are_those_of_the_loaded_model() {
    let mut checked = 0;
    for entry in std::fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let layout = name.rsplit('-').next().unwrap().parse();
        let options =
            LoadOptions { i2s_layout: layout.unwrap_or_default(), ..LoadOptions::default() };
        let (need, _model, pool) = loaded(&path_of(&folder), &options);
        let held = pool.get_metrics().total_allocated;
        // Ordinary numbers that are trits are prepared as such.
        assert!(held <= need.weights + need.in_place + 4096, "{name}: {held} held, {need:?}");
        if name.contains("dense") || name.contains("online") || need.in_place > need.weights {
            continue;
        }
        assert!(need.weights <= held + held / 5, "{name}: {held} held, {need:?}");
        checked += 1;
    }
    assert!(checked >= 12, "{checked} models");
}

#[test]
fn a_sequence_takes_what_is_said_for_its_context() {
    for name in ["gguf-qwen35-pq2_0", "gguf-qwen3-pq2_0", "gguf-bitnet-b158-i2s"] {
        for kv in [KvType::F16, KvType::Int8] {
            let options = LoadOptions { kv, ..LoadOptions::default() };
            let (need, model, pool) = loaded(&path_of(&golden().join(name)), &options);
            let before = pool.get_metrics().total_allocated;
            let mut session = model.session(Some(128)).unwrap();
            for _ in 0..4 {
                session.extend(&[1; 32]).unwrap();
            }
            let cache = session.cache();
            let keys = (cache.bytes_per_position() * cache.reserved()) as u64;
            let said = need.with_context(128) - need.weights - need.in_place - need.program;
            assert_eq!(said - need.states, keys, "{name}");
            let taken = pool.get_metrics().total_allocated - before;
            assert!(taken >= keys && need.states + keys + (1 << 20) >= taken, "{name}: {taken}");
        }
    }
}
