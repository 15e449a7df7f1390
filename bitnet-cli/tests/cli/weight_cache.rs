//! The disk cache of prepared weights: second start, `bitnet cache`, `--no-cache`.

#[path = "../../../bitnet-inference/tests/models/large_head.rs"]
mod large_head;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use bitnet_cpu::CpuOptions;
use bitnet_inference::{LoadOptions, Model, ModelSource, PreparedCache, backend_by_name};
use tempfile::TempDir;

use crate::program::{bitnet, stderr, stdout};

/// Caches the weights and the head of a model, regardless of preparation time.
fn keep(model: &Path, folder: &Path) {
    let mut cache = PreparedCache::new(folder);
    cache.worth = Duration::ZERO;
    let options = LoadOptions { cache: Some(cache), ..LoadOptions::default() };
    let backend = backend_by_name("cpu", CpuOptions::default()).unwrap();
    let source = ModelSource::Path(model);
    let model = Model::load_with(source, &options, Arc::clone(&backend), &mut |_, _| {}).unwrap();
    assert!(model.decoder().prepare_top_logits().unwrap());
}

fn run(model: &Path, cache: &Path, more: &[&str]) -> Output {
    let model = model.to_str().unwrap();
    let text = ["run", "-m", model, "Once upon a time", "-n", "4", "--temp", "0", "--ignore-eos"];
    let output = bitnet(&[&text[..], more].concat()).env("BITNET_CACHE", cache).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[test]
fn cached_heads_are_used_listed_and_removed() {
    let folder = TempDir::new().unwrap();
    let (model, cache) = (folder.path().join("model.gguf"), folder.path().join("cache"));
    large_head::write(&model, false);
    let fresh = run(&model, &cache, &["--no-cache"]);
    assert!(!cache.exists());
    keep(&model, &cache);
    let head = std::fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("head"))
        .unwrap();

    let cached = run(&model, &cache, &[]);
    assert_eq!(stdout(&cached), stdout(&fresh));
    assert!(!stderr(&cached).contains("cached") && !stderr(&cached).contains("caching"));

    let mut bytes = std::fs::read(&head).unwrap();
    let sound = bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&head, &bytes).unwrap();
    let without = run(&model, &cache, &["--no-cache"]);
    assert_eq!((stdout(&without), stderr(&without).contains("not used")), (stdout(&fresh), false));
    let repaired = run(&model, &cache, &[]);
    assert_eq!(stdout(&repaired), stdout(&fresh));
    assert!(stderr(&repaired).contains("not used"), "{}", stderr(&repaired));
    assert_eq!(std::fs::read(&head).unwrap(), sound);

    let list = bitnet(&["cache", "list", "--json"]).env("BITNET_CACHE", &cache).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["files"].as_array().map(Vec::len), Some(2), "{list}");
    let ask = |action| bitnet(&["cache", action]).env("BITNET_CACHE", &cache).output().unwrap();
    let list = ask("list");
    assert!(stdout(&list).contains(head.to_str().unwrap()), "{}", stdout(&list));
    assert!(stdout(&list).contains("cached: 2 files"), "{}", stdout(&list));
    assert!(stdout(&ask("clear")).contains("removed: 2 files"));
    assert!(!head.exists());
    assert!(stdout(&ask("list")).contains("cached: 0 files"));
}
