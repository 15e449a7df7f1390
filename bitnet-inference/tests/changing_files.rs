//! Model and cache files that change while a model runs: an error before the next logits, or no effect at all.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_formats::Error as FormatError;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{
    BatchItem, GenerateOptions, InferenceError, LoadOptions, LogitRows, Model, ModelFiles,
    ModelSource, PreparedCache, extend_batch,
};

const TOKENS: [u32; 4] = [1, 40, 50, 60];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

/// A file last written to an hour ago, so that writing to it now shows in its time, however coarse that is.
fn old_copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    set_old(to);
}

fn set_old(path: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(path).unwrap().set_modified(hour_ago).unwrap();
}

fn gguf(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    old_copy(&golden("gguf-bitnet-b158-i2s").join("model.gguf"), &path);
    path
}

fn load(path: &Path, cache: Option<PreparedCache>) -> Model {
    let options = LoadOptions { cache, ..LoadOptions::default() };
    let backend = CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap();
    Model::load_with(ModelSource::Path(path), &options, Arc::new(backend), &mut |_, _| {}).unwrap()
}

/// A change to a file and the word of the error that says what has changed.
type Change = (&'static str, fn(&Path), &'static str);

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

fn set_len(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn len(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

/// Changes in place. Systems other than Unix refuse to cut a file that is mapped.
fn changes() -> Vec<Change> {
    let mut changes: Vec<Change> = vec![
        ("one byte", |path| overwrite(path, len(path) / 2, &[0x5a]), "written to"),
        ("all bytes", |path| overwrite(path, 0, &vec![7; len(path) as usize]), "written to"),
        ("longer", |path| set_len(path, len(path) + 4096), "bytes and has"),
    ];
    if cfg!(unix) {
        changes.push(("empty", |path| set_len(path, 0), "truncated to 0 of"));
        changes.push(("half", |path| set_len(path, len(path) / 2), "truncated to"));
    }
    changes
}

/// That an error is the typed one, and names the file and what has changed.
fn assert_changed(error: &InferenceError, path: &Path, word: &str, case: &str) {
    let typed = matches!(
        error,
        InferenceError::Format(FormatError::Changed { .. } | FormatError::Truncated { .. })
    );
    let message = error.to_string();
    assert!(typed, "{case}: {error:?}");
    assert!(message.contains(&path.display().to_string()), "{case}: {message}");
    assert!(message.contains(word), "{case}: {message}");
}

#[test]
fn every_result_after_a_change_is_an_error_that_names_the_file() {
    for (case, change, word) in changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = gguf(folder.path());
        let model = load(&path, None);
        let [mut fed, mut scored, mut chosen, mut observed] =
            [(); 4].map(|()| model.session(Some(64)).unwrap());
        for session in [&mut fed, &mut scored, &mut chosen, &mut observed] {
            session.extend(&TOKENS).unwrap();
        }
        change(&path);
        let named = |error: InferenceError| assert_changed(&error, &path, word, case);
        // The logits of what was read before the change come from a head that is read after it.
        named(fed.logits().unwrap_err());
        let mut sampler =
            Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
        named(chosen.choose(&mut sampler).unwrap_err());
        named(fed.extend(&[5]).unwrap_err());
        named(scored.extend_with_logits(&[5, 6], |_, _| panic!("{case}: logits")).unwrap_err());
        named(observed.extend_observed(&[5], &mut |_, _| Ok(())).unwrap_err());
        let item = BatchItem { session: &mut scored, tokens: &[5], logits: LogitRows::Last };
        named(extend_batch(&mut [item]).unwrap_err());
        assert_eq!(fed.tokens(), TOKENS, "{case}: a sequence stays what it was");
    }
}

#[test]
fn text_ends_with_an_error_at_the_token_after_a_change() {
    for (case, change, word) in changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = gguf(folder.path());
        let model = load(&path, None);
        let options =
            GenerateOptions { max_tokens: 24, ignore_end: true, ..GenerateOptions::default() };
        let write = |change_after: usize| {
            let mut pieces = Vec::new();
            let mut session = model.session(Some(64)).unwrap();
            let mut generation = session.generate(&TOKENS, &options).unwrap();
            let result = generation.by_ref().try_for_each(|token| {
                pieces.push(token?.text);
                if pieces.len() == change_after {
                    change(&path);
                }
                Ok(())
            });
            (result.map(|()| generation.finish()), pieces)
        };
        let (whole, expected) = write(usize::MAX);
        assert_eq!(whole.unwrap().tokens.len(), 24, "{case}");
        let (cut, pieces) = write(5);
        assert_changed(&cut.unwrap_err(), &path, word, case);
        assert_eq!(pieces, expected[..5], "{case}: nothing is written after the change");
    }
}

#[test]
fn deleted_and_renamed_files_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let path = gguf(folder.path());
    let other = folder.path().join("other.gguf");
    let model = load(&path, None);
    let mut session = model.session(Some(64)).unwrap();
    let before = session.extend(&TOKENS).unwrap().logits().unwrap();
    let after = session.extend(&[9]).unwrap().logits().unwrap();
    let mut again = model.session(Some(64)).unwrap();
    assert_eq!(again.extend(&TOKENS).unwrap().logits().unwrap(), before);
    if cfg!(unix) {
        std::fs::write(&other, b"another file").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(
            again.extend(&[9]).unwrap().logits().unwrap(),
            after,
            "another file has taken the name"
        );
        std::fs::remove_file(&path).unwrap();
        let mut last = model.session(Some(64)).unwrap();
        assert_eq!(last.extend(&TOKENS).unwrap().logits().unwrap(), before, "the name is gone");
    }
}

#[test]
fn every_file_of_a_folder_is_watched() {
    let source = golden("bitnet-2b-online-f32");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut noticed = 0;
    for shard in shards {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "expected.safetensors" {
                old_copy(&entry.path(), &folder.path().join(entry.file_name()));
            }
        }
        let model = load(folder.path(), None);
        let mut session = model.session(Some(64)).unwrap();
        let expected = session.extend(&TOKENS).unwrap().logits().unwrap();
        let path = folder.path().join(shard);
        overwrite(&path, len(&path) - 8, &[1; 8]);
        let mut session = model.session(Some(64)).unwrap();
        match session.extend(&TOKENS).and_then(|session| session.logits()) {
            Err(error) => {
                assert_changed(&error, &path, "written to", shard);
                noticed += 1;
            }
            // No weight is read from the file any more: all of them were decoded.
            Ok(logits) => assert_eq!(logits, expected, "{shard}"),
        }
    }
    assert!(noticed > 0, "the embedding is read from its file");
}

#[test]
fn files_of_the_weight_cache_are_watched() {
    for (case, change, word) in changes() {
        let folder = tempfile::tempdir().unwrap();
        // Not a copy: weights of a file that was changed a moment ago are not cached.
        let path = golden("gguf-bitnet-b158-i2s").join("model.gguf");
        let mut cache = PreparedCache::new(folder.path());
        cache.worth = Duration::ZERO;
        drop(load(&path, Some(cache.clone())));
        let cached = cache.files().unwrap()[0].0.clone();
        set_old(&cached);
        let model = load(&path, Some(cache));
        let mut session = model.session(Some(64)).unwrap();
        session.extend(&TOKENS).unwrap().logits().unwrap();
        change(&cached);
        let error = session.extend(&[5]).unwrap_err();
        assert_changed(&error, &cached, word, case);
    }
}

#[test]
fn tensors_read_for_a_conversion_are_checked_by_the_files() {
    for (case, change, word) in changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = gguf(folder.path());
        let files = ModelFiles::open(ModelSource::Path(&path), &LoadOptions::default()).unwrap();
        files.check().unwrap();
        change(&path);
        assert_changed(&files.check().unwrap_err(), &path, word, case);
        let scanned = files.scan_weights(2, &mut |_, _| {});
        assert_changed(&scanned.unwrap_err(), &path, word, case);
    }
}
