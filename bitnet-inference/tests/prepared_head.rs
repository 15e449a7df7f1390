//! A prepared head in the weight cache: the same tokens and logits with and without it, and nothing that is damaged,
//! foreign or out of date is ever used.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

#[path = "models/large_head.rs"]
mod large_head;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bitnet_core::backend::top_logits::LogitQuery;
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_inference::models::HeadMode;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{
    GenerateOptions, LoadOptions, Model, ModelSource, Notice, PreparedCache, choose_batch,
};
use tempfile::TempDir;

/// What the cached file of a head has in its name.
const HEAD: &str = "planes-of-the-head";

/// Two models of the same shape.
static MODELS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| large_head::write(&folder.path().join("one.gguf"), false));
        scope.spawn(|| large_head::write(&folder.path().join("other.gguf"), true));
    });
    folder
});

fn one() -> PathBuf {
    MODELS.path().join("one.gguf")
}

/// A cache that keeps everything, and what it said.
struct Cache {
    folder: TempDir,
    cache: PreparedCache,
    said: Arc<Mutex<Vec<String>>>,
}

impl Cache {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut cache = PreparedCache::new(folder.path());
        cache.worth = Duration::ZERO;
        let said = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&said);
        cache.notice = Notice::new(move |text| list.lock().unwrap().push(text.to_owned()));
        Self { folder, cache, said }
    }

    fn load(&self, path: &Path, head: HeadMode) -> Model {
        load(path, head, Some(&self.cache))
    }

    /// The files of heads.
    fn heads(&self) -> Vec<PathBuf> {
        let files = self.cache.files().unwrap().into_iter().map(|(path, _)| path);
        files.filter(|path| path.to_string_lossy().contains(HEAD)).collect()
    }

    /// What it said since it was last asked.
    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap())
    }

    /// Writes a text, so that the head is prepared and its file written, and forgets what was said.
    fn keep(&self, path: &Path, head: HeadMode) -> PathBuf {
        let before = self.heads();
        written(&self.load(path, head), 3);
        self.said();
        let after = self.heads();
        after.into_iter().find(|path| !before.contains(path)).unwrap()
    }
}

fn load(path: &Path, head: HeadMode, cache: Option<&PreparedCache>) -> Model {
    let options = LoadOptions { head, cache: cache.cloned(), ..LoadOptions::default() };
    let backend = CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap();
    Model::load_with(ModelSource::Path(path), &options, Arc::new(backend), &mut |_, _| {}).unwrap()
}

/// A text of `tokens` tokens.
fn written(model: &Model, tokens: usize) -> Vec<u32> {
    let prompt = model.encode_prompt("Once upon a time").unwrap();
    let options =
        GenerateOptions { max_tokens: tokens, ignore_end: true, ..GenerateOptions::default() };
    let mut session = model.session(Some(64)).unwrap();
    let generation = session.generate(&prompt, &options).unwrap();
    generation.filter_map(|token| token.unwrap().id).collect()
}

/// That the largest logits are those of the whole head, bit for bit, at each of `questions` positions.
fn check_logits(model: &Model, questions: usize) {
    let mut session = model.session(Some(64)).unwrap();
    session.extend(&model.encode_prompt("Tom had a").unwrap()).unwrap();
    for question in 0..questions {
        let extra_tokens = [5, large_head::ROWS as u32 - 1];
        let query = LogitQuery { count: 10, extra_tokens: extra_tokens.to_vec() };
        let found = session.top_logits(query).unwrap().unwrap();
        let all = session.logits().unwrap();
        assert_eq!(found.extra_tokens.iter().map(|t| t.token).collect::<Vec<_>>(), extra_tokens);
        for t in found.top.iter().chain(&found.extra_tokens) {
            let logit = all[t.token as usize];
            assert_eq!(t.logit.to_bits(), logit.to_bits(), "question {question}");
        }
        let least = found.top.last().unwrap().logit;
        assert_eq!(all.iter().filter(|&&l| l >= least).count(), found.top.len());
        session.extend(&[found.top[0].token]).unwrap();
    }
}

fn questions(model: &Model) -> u64 {
    model.decoder().backend().traffic().unwrap().head.queries
}

#[test]
fn a_cached_head_gives_the_same_tokens_and_logits() {
    let expected = written(&load(&one(), HeadMode::Full, None), 24);
    assert_eq!(written(&load(&one(), HeadMode::Refined, None), 24), expected);
    for mode in [HeadMode::Refined, HeadMode::Certain] {
        let cache = Cache::new();
        let first = cache.load(&one(), mode);
        assert_eq!(written(&first, 24), expected);
        assert_eq!(questions(&first), 23, "the first is answered by all rows");
        check_logits(&first, 4);
        drop(first);
        assert_eq!(cache.heads().len(), 1);
        assert!(cache.said().iter().all(|text| text.starts_with("caching")));

        let second = cache.load(&one(), mode);
        check_logits(&second, 4);
        assert_eq!(questions(&second), 4, "the first one, too, is answered by the cached head");
        assert_eq!(written(&second, 24), expected);
        assert!(second.decoder().prepare_top_logits().unwrap());
        drop(second);
        assert_eq!(cache.said(), [""; 0]);
    }
}

/// Samplers that need the largest logit, the largest few with those of other tokens, and all of them.
fn samplers() -> Vec<SamplerConfig> {
    let sampled = SamplerConfig { temperature: 0.9, seed: 3, ..SamplerConfig::default() };
    vec![
        SamplerConfig::default(),
        SamplerConfig { top_k: 20, ..sampled.clone() },
        sampled.clone(),
        SamplerConfig { top_k: 5, repetition_penalty: 1.3, ..sampled.clone() },
        SamplerConfig { logit_bias: vec![(7, 4.0)], ..SamplerConfig::default() },
        SamplerConfig { min_p: 0.05, ..sampled },
    ]
}

#[test]
fn sessions_that_choose_together_choose_what_each_chooses_alone() {
    let texts = ["Once upon a time", "Tom had a", "The", "One day"];
    for mode in [HeadMode::Refined, HeadMode::Full] {
        let model = load(&one(), mode, None);
        let vocabulary = model.config().vocab_size;
        let mut sessions = Vec::new();
        for index in 0..20 {
            let mut session = model.session(Some(64)).unwrap();
            session.extend(&model.encode_prompt(texts[index % texts.len()]).unwrap()).unwrap();
            sessions.push(session);
        }
        let sampler = |index: usize| {
            Sampler::new(samplers().swap_remove(index % samplers().len()), vocabulary).unwrap()
        };
        let mut together: Vec<_> = (0..sessions.len()).map(sampler).collect();
        let mut alone = together.clone();
        for step in 0..4 {
            let mut items: Vec<_> = sessions.iter().zip(&mut together).collect();
            let chosen = choose_batch(&mut items).unwrap();
            for (index, (session, sampler)) in sessions.iter_mut().zip(&mut alone).enumerate() {
                let expected = session.choose(sampler).unwrap();
                assert_eq!(*chosen[index].as_ref().unwrap(), expected, "{mode}, {step}, {index}");
                session.extend(&[expected]).unwrap();
            }
        }
    }
}

#[test]
fn a_session_that_can_choose_nothing_fails_alone() {
    let model = load(&one(), HeadMode::Refined, None);
    let vocabulary = model.config().vocab_size;
    let mut read = model.session(Some(8)).unwrap();
    read.extend(&[1, 2]).unwrap();
    let forbidden = (0..vocabulary as u32).map(|token| (token, f32::NEG_INFINITY)).collect();
    let nothing = SamplerConfig { logit_bias: forbidden, ..SamplerConfig::default() };
    let mut samplers =
        [nothing, SamplerConfig::default()].map(|config| Sampler::new(config, vocabulary).unwrap());
    let mut items: Vec<_> = samplers.iter_mut().map(|sampler| (&read, sampler)).collect();
    let chosen = choose_batch(&mut items).unwrap();
    assert!(chosen[0].is_err());
    assert_eq!(*chosen[1].as_ref().unwrap(), read.choose(&mut samplers[1]).unwrap());

    let other = load(&MODELS.path().join("other.gguf"), HeadMode::Full, None);
    let unread = model.session(Some(8)).unwrap();
    let mut foreign = other.session(Some(8)).unwrap();
    foreign.extend(&[1]).unwrap();
    for session in [&unread, &foreign] {
        let [a, b] = &mut samplers;
        assert!(choose_batch(&mut [(&read, a), (session, b)]).is_err());
    }
    assert!(choose_batch(&mut []).unwrap().is_empty());
}

#[test]
fn the_first_query_prepares_and_caches_nothing() {
    let cache = Cache::new();
    let model = cache.load(&one(), HeadMode::Refined);
    check_logits(&model, 1);
    assert_eq!(questions(&model), 0);
    drop(model);
    assert_eq!(written(&cache.load(&one(), HeadMode::Refined), 1).len(), 1);
    assert!(cache.heads().is_empty());
    assert!(!cache.cache.files().unwrap().is_empty(), "the weights are cached");

    let model = cache.load(&one(), HeadMode::Refined);
    assert!(model.decoder().prepare_top_logits().unwrap());
    check_logits(&model, 1);
    assert_eq!(questions(&model), 1);
    drop(model);
    assert_eq!(cache.heads().len(), 1);
}

#[test]
fn a_quickly_prepared_head_is_not_cached() {
    let mut cache = Cache::new();
    cache.cache.worth = Duration::from_secs(3600);
    written(&cache.load(&one(), HeadMode::Refined), 3);
    assert!(cache.cache.files().unwrap().is_empty());
    cache.cache.worth = Duration::ZERO;
    written(&cache.load(&one(), HeadMode::Full), 3);
    assert!(cache.heads().is_empty());
}

#[test]
fn damaged_files_are_reported_and_replaced() {
    let expected = written(&load(&one(), HeadMode::Full, None), 6);
    let cache = Cache::new();
    let file = cache.keep(&one(), HeadMode::Refined);
    let sound = std::fs::read(&file).unwrap();
    let len = sound.len();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let damaged = [0, 9, 17, 70, len / 4, len / 2, len / 4 * 3].map(flipped);
    let shorter = [0, 10, 64, len / 2, len - 1].map(|kept| sound[..kept].to_vec());
    for (index, bytes) in damaged.into_iter().chain(shorter).enumerate() {
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(written(&cache.load(&one(), HeadMode::Refined), 6), expected, "{index}");
        let said = cache.said();
        assert!(said.len() == 2 && said[0].contains("not used"), "{index}: {said:?}");
        assert_eq!(std::fs::read(&file).unwrap(), sound, "{index}");
    }
    // One token has no use for a new file.
    std::fs::write(&file, flipped(len / 2)).unwrap();
    assert_eq!(written(&cache.load(&one(), HeadMode::Refined), 1), expected[..1]);
    let said = cache.said();
    assert!(said.len() == 1 && said[0].contains("not used"), "{said:?}");
}

#[test]
fn sections_of_the_right_checksum_and_the_wrong_content_are_refused() {
    use bitnet_formats::sections::{SectionFile, write};
    let expected = written(&load(&one(), HeadMode::Full, None), 6);
    let cache = Cache::new();
    let file = cache.keep(&one(), HeadMode::Refined);
    let sound = SectionFile::open(&file).unwrap();
    let names: Vec<String> = sound.names("").map(str::to_owned).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in &names {
        for left_out in [true, false] {
            let sections: Vec<(String, Vec<u8>)> = names
                .iter()
                .filter(|n| !left_out || *n != name)
                .map(|n| (n.clone(), sound.section(n).unwrap().unwrap().to_vec()))
                .map(|(n, bytes)| {
                    let from = usize::from(n == *name);
                    (n, bytes[from..].to_vec())
                })
                .collect();
            let borrowed: Vec<_> = sections.iter().map(|(n, b)| (n.clone(), &b[..])).collect();
            write(&file, sound.key(), &borrowed).unwrap();
            assert_eq!(written(&cache.load(&one(), HeadMode::Refined), 6), expected, "{name}");
            let said = cache.said();
            assert!(said.len() == 2 && said[0].contains("not used"), "{name}: {said:?}");
        }
    }
}

#[test]
fn the_head_of_another_mode_or_model_is_not_used() {
    let cache = Cache::new();
    let refined = cache.keep(&one(), HeadMode::Refined);
    let certain = cache.keep(&one(), HeadMode::Certain);
    let other = cache.keep(&MODELS.path().join("other.gguf"), HeadMode::Refined);
    let expected = written(&load(&one(), HeadMode::Full, None), 6);
    let sound = std::fs::read(&refined).unwrap();
    for foreign in [certain, other] {
        std::fs::copy(&foreign, &refined).unwrap();
        assert_eq!(written(&cache.load(&one(), HeadMode::Refined), 6), expected);
        let said = cache.said();
        assert!(said.len() == 2 && said[0].contains("not used"), "{said:?}");
        assert_eq!(std::fs::read(&refined).unwrap(), sound);
    }
    assert_eq!(cache.heads().len(), 3);
    let entries = std::fs::read_dir(cache.folder.path()).unwrap().count();
    assert_eq!(entries, 5, "two of weights, three of heads, and no temporary file");
    assert_eq!(cache.cache.clear().unwrap().len(), 5);
    assert!(cache.cache.files().unwrap().is_empty());
}
