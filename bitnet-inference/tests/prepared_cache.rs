//! Prepared weights in the weight cache: the same logits with and without them, and nothing that is damaged, foreign or
//! out of date is ever used.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_inference::{LoadOptions, Model, ModelSource, Notice, Pooling, PreparedCache};

fn golden() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let mut folders: Vec<_> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.retain(|folder| folder.join("meta.json").exists());
    folders.iter().map(|folder| model_in(folder)).collect()
}

/// The GGUF file of a golden folder, or the folder itself.
fn model_in(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let gguf = files.find(|path| path.extension().is_some_and(|e| e == "gguf"));
    gguf.unwrap_or_else(|| folder.to_owned())
}

/// A golden GGUF file that is stored as I2_S.
fn i2s() -> PathBuf {
    golden().into_iter().find(|path| path.to_string_lossy().contains("b158-i2s/")).unwrap()
}

/// A cache that keeps everything, and what it said.
fn cache(folder: &Path) -> (PreparedCache, Arc<Mutex<Vec<String>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut cache = PreparedCache::new(folder);
    cache.worth = Duration::ZERO;
    let list = Arc::clone(&said);
    cache.notice = Notice::new(move |text| list.lock().unwrap().push(text.to_owned()));
    (cache, said)
}

fn load(path: &Path, cache: Option<&PreparedCache>) -> Model {
    let options = LoadOptions { cache: cache.cloned(), ..LoadOptions::default() };
    let backend = CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap();
    Model::load_with(ModelSource::Path(path), &options, Arc::new(backend), &mut |_, _| {}).unwrap()
}

/// The logits after some tokens, or the state of a model without a head.
fn logits(model: &Model) -> Vec<f32> {
    let tokens: Vec<u32> = (0..9u32).map(|i| i % model.config().vocab_size as u32).collect();
    if !model.config().has_head {
        return model.embed_tokens(&[&tokens], Pooling::Last, false).unwrap().remove(0);
    }
    model.session(Some(16)).unwrap().extend(&tokens).unwrap().logits().unwrap()
}

/// Loads and closes the model, so that its file is written.
fn keep(path: &Path, cache: &PreparedCache) -> PathBuf {
    drop(load(path, Some(cache)));
    let files = cache.files().unwrap();
    assert_eq!(files.len(), 1, "{}", path.display());
    files[0].0.clone()
}

#[test]
fn cached_golden_models_have_the_same_logits_and_facts() {
    let mut cached = 0;
    for path in golden() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, said) = cache(folder.path());
        let fresh = load(&path, None);
        drop(load(&path, Some(&cache)));
        let written = said.lock().unwrap().len();
        let mapped = load(&path, Some(&cache));
        assert_eq!(logits(&mapped), logits(&fresh), "{}", path.display());
        assert_eq!(mapped.facts(), fresh.facts(), "{}", path.display());
        drop(mapped);
        // Nothing was written a second time and nothing was wrong.
        assert_eq!(said.lock().unwrap().len(), written, "{:?}", said.lock().unwrap());
        cached += cache.files().unwrap().len();
    }
    assert!(cached > 10, "{cached} models cached");
}

#[test]
fn damaged_files_are_reported_once_and_replaced() {
    let path = i2s();
    let expected = logits(&load(&path, None));
    let folder = tempfile::tempdir().unwrap();
    let (cache, said) = cache(folder.path());
    let file = keep(&path, &cache);
    let sound = std::fs::read(&file).unwrap();
    let len = sound.len();
    for at in [0, 9, 17, 40, 70, 400, len / 3, len / 2, len - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x04;
        std::fs::write(&file, &damaged).unwrap();
        said.lock().unwrap().clear();
        let model = load(&path, Some(&cache));
        assert_eq!(logits(&model), expected, "byte {at}");
        drop(model);
        let found = std::fs::read(&file).unwrap();
        if found != sound {
            // Zeros between sections are not read.
            assert_eq!(found, damaged, "byte {at}");
            assert!(said.lock().unwrap().is_empty());
        } else {
            let said = said.lock().unwrap();
            assert!(said.len() == 2 && said[0].contains("not used"), "byte {at}: {said:?}");
        }
    }
    for len in [0, 10, 64, len / 2, len - 1] {
        std::fs::write(&file, &sound[..len]).unwrap();
        assert_eq!(logits(&load(&path, Some(&cache))), expected, "{len} bytes");
        assert_eq!(std::fs::read(&file).unwrap(), sound, "{len} bytes");
    }
}

#[test]
fn sections_of_the_right_checksum_and_the_wrong_content_are_refused() {
    use bitnet_formats::sections::{SectionFile, write};
    let path = i2s();
    let expected = logits(&load(&path, None));
    let folder = tempfile::tempdir().unwrap();
    let (cache, _) = cache(folder.path());
    let file = keep(&path, &cache);
    let sound = SectionFile::open(&file).unwrap();
    let names: Vec<String> = sound.names("blk.0.attn_q/").map(str::to_owned).collect();
    assert!(names.len() >= 4, "{names:?}");
    let all: Vec<(String, Vec<u8>)> = sound
        .names("")
        .map(|name| (name.to_owned(), sound.section(name).unwrap().unwrap().to_vec()))
        .collect();
    for name in &names {
        for change in
            [|_: &[u8]| Vec::new(), |b: &[u8]| vec![0xff; b.len()], |b: &[u8]| b[1..].to_vec()]
        {
            let changed: Vec<_> = all
                .iter()
                .map(|(n, bytes)| {
                    (n.clone(), if n == name { change(bytes) } else { bytes.clone() })
                })
                .collect();
            let borrowed: Vec<_> =
                changed.iter().map(|(n, bytes)| (n.clone(), &bytes[..])).collect();
            write(&file, sound.key(), &borrowed).unwrap();
            assert_eq!(logits(&load(&path, Some(&cache))), expected, "{name}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_model_changed_in_place_is_not_read_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = std::fs::read(i2s()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    let (cache, said) = cache(&folder.path().join("cache"));
    // Changed a moment ago: another change might not show.
    drop(load(&path, Some(&cache)));
    assert!(cache.files().unwrap().is_empty() && said.lock().unwrap().is_empty());
    std::thread::sleep(Duration::from_millis(4100));
    let before = logits(&load(&path, Some(&cache)));
    assert_eq!(cache.files().unwrap().len(), 1);

    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let tensor = bitnet_formats::GgufFile::open(&path).unwrap();
    let tensor = tensor.tensor("blk.0.ffn_up.weight").unwrap().clone();
    for byte in &mut bytes[tensor.offset as usize..][..tensor.nbytes as usize - 32] {
        *byte = byte.rotate_left(2);
    }
    std::fs::write(&path, &bytes).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let now = logits(&load(&path, Some(&cache)));
    assert_ne!(now, before);
    assert_eq!(now, logits(&load(&path, None)));
}

#[test]
fn concurrent_starts_are_consistent() {
    let path = i2s();
    let expected = logits(&load(&path, None));
    let folder = tempfile::tempdir().unwrap();
    let (cache, said) = cache(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(logits(&load(&path, Some(&cache))), expected);
                }
            });
        }
    });
    assert_eq!(cache.files().unwrap().len(), 1);
    assert!(said.lock().unwrap().iter().all(|text| text.starts_with("caching")));
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 1, "no temporary file stays behind");
    assert_eq!(cache.clear().unwrap().len(), 1);
    assert!(cache.files().unwrap().is_empty());
}

#[test]
fn an_unwritable_folder_causes_a_warning() {
    let path = i2s();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file, no folder");
    std::fs::write(&file, b"x").unwrap();
    let (cache, said) = cache(&file.join("cache"));
    let model = load(&path, Some(&cache));
    assert_eq!(logits(&model), logits(&load(&path, None)));
    drop(model);
    let said = said.lock().unwrap();
    assert!(said.last().is_some_and(|text| text.contains("are not cached")), "{said:?}");
}
