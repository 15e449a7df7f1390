//! Drafts change when tokens are read, and nothing else: tokens, logits and sequences are those of a session that reads
//! one token at a time, bit for bit.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{
    DraftMode, GenerateOptions, InferenceError, LoadOptions, MAX_DRAFT, Model, ModelSource,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn load(source: ModelSource<'_>) -> Model {
    let options = CpuOptions { threads: Some(2), isa: None };
    let backend = Arc::new(CpuBackend::new(options).unwrap());
    Model::load_with(source, &LoadOptions::default(), backend, &mut |_, _| {}).unwrap()
}

/// A model with attention alone, one with recurrent layers, and one with a ternary head.
fn models() -> Vec<Model> {
    let paths = ["gguf-bitnet-tq2_0", "gguf-qwen35-pq2_0", "gguf-qwen35-rotated"];
    let paths = paths.map(|name| {
        let folder = golden(name);
        let meta = std::fs::read_to_string(folder.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
        folder.join(meta["file"].as_str().unwrap())
    });
    let mut models = vec![load(ModelSource::Embedded)];
    models.extend(paths.iter().map(|path| load(ModelSource::Path(path))));
    models
}

/// Samplers that need the largest logit, some of the largest, all, and those of earlier tokens.
fn samplers() -> Vec<SamplerConfig> {
    let greedy = SamplerConfig::default();
    let drawn = SamplerConfig { temperature: 0.9, seed: 7, ..greedy.clone() };
    vec![
        greedy.clone(),
        SamplerConfig { top_k: 8, ..drawn.clone() },
        SamplerConfig { top_p: 0.9, ..drawn.clone() },
        SamplerConfig { repetition_penalty: 1.3, frequency_penalty: 0.2, ..greedy },
        SamplerConfig { repetition_penalty: 1.3, top_k: 5, ..drawn },
    ]
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The first `count` tokens after `prompt`, and the logits after each token, read one at a time.
fn one_by_one(
    model: &Model,
    prompt: &[u32],
    config: &SamplerConfig,
    count: usize,
) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut sampler = Sampler::new(config.clone(), model.config().vocab_size).unwrap();
    let mut session = model.session(Some(256)).unwrap();
    session.extend(prompt).unwrap();
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    for _ in 0..count {
        logits.push(bits(&session.logits().unwrap()));
        tokens.push(session.choose(&mut sampler).unwrap());
        session.extend(&tokens[tokens.len() - 1..]).unwrap();
    }
    (tokens, logits)
}

#[test]
fn right_wrong_and_half_right_drafts_give_the_same_tokens_and_logits() {
    const COUNT: usize = 40;
    for model in models() {
        let vocab_size = model.config().vocab_size;
        let prompt: Vec<u32> =
            (0..23).map(|i| (i * 37 + 11) % vocab_size.min(260) as u32).collect();
        for config in samplers() {
            let (expected, logits) = one_by_one(&model, &prompt, &config, COUNT);
            for right in [0, 1, 3, 7, MAX_DRAFT] {
                let mut sampler = Sampler::new(config.clone(), vocab_size).unwrap();
                let mut session = model.session(Some(256)).unwrap();
                session.extend(&prompt).unwrap();
                let mut passes = 0;
                for index in 0..COUNT {
                    assert!(bits(&session.logits().unwrap()) == logits[index], "{config:?}");
                    let token = session.choose(&mut sampler).unwrap();
                    assert_eq!(token, expected[index], "{config:?}, {right} right, {index}");
                    if !session.accept(token).unwrap() {
                        let mut draft: Vec<u32> =
                            expected[index + 1..].iter().take(right).copied().collect();
                        let next = expected.get(index + 1 + right);
                        if let Some(next) = next.filter(|_| right < MAX_DRAFT) {
                            draft.push((next + 1) % vocab_size as u32);
                        }
                        session.extend_with_draft(token, &draft, &sampler).unwrap();
                        passes += 1;
                    }
                    assert_eq!(session.tokens()[prompt.len()..], expected[..=index]);
                }
                assert_eq!(passes, COUNT.div_ceil(right + 1));
            }
        }
    }
}

#[test]
fn text_with_drafts_equals_text_without() {
    for model in models() {
        let text = "Once upon a time there was a red fox. Once upon a time there was a red";
        let prompt = model.encode_prompt(text).unwrap();
        for sampler in samplers() {
            for max_tokens in [0, 1, 2, 90] {
                let options = GenerateOptions {
                    sampler: sampler.clone(),
                    max_tokens,
                    ignore_end: max_tokens == 90,
                    ..GenerateOptions::default()
                };
                let mut session = model.session(Some(150)).unwrap();
                let mut generation = session.generate(&prompt, &options).unwrap();
                let texts: Vec<_> = generation.by_ref().map(Result::unwrap).collect();
                let plain = generation.finish();
                let sequence = session.tokens().to_vec();

                let options = GenerateOptions { draft: DraftMode::NGram, ..options };
                let mut session = model.session(Some(150)).unwrap();
                let mut generation = session.generate(&prompt, &options).unwrap();
                let drafted_texts: Vec<_> = generation.by_ref().map(Result::unwrap).collect();
                let drafted = generation.finish();
                assert_eq!(drafted_texts, texts);
                assert_eq!((drafted.tokens, drafted.finish), (plain.tokens, plain.finish));
                assert_eq!(session.tokens(), sequence);
                assert_eq!(session.cache().len(), sequence.len());
                assert!(drafted.drafts.accepted <= drafted.drafts.drafted);
                assert_eq!(plain.drafts.drafted, 0);
            }
        }
    }
}

#[test]
fn a_text_that_repeats_itself_is_drafted() {
    let model = load(ModelSource::Embedded);
    let prompt = model.encode_prompt("Once upon a time").unwrap();
    // So large a bias repeats one token, whatever the model.
    let sampler = SamplerConfig { logit_bias: vec![(40, 1e6)], ..SamplerConfig::default() };
    let options = GenerateOptions {
        sampler,
        max_tokens: 100,
        ignore_end: true,
        draft: DraftMode::NGram,
        ..GenerateOptions::default()
    };
    let mut session = model.session(None).unwrap();
    let mut generation = session.generate(&prompt, &options).unwrap();
    assert_eq!(generation.by_ref().count(), 100);
    let written = generation.finish();
    assert_eq!(written.tokens, [40; 100]);
    assert_eq!(written.drafts.accepted, written.drafts.drafted, "each draft was right");
}

#[test]
fn what_was_read_ahead_does_not_outlive_other_reading() {
    for model in models() {
        let sampler = Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
        let read = |session: &mut bitnet_inference::Session| {
            session.extend(&[1, 5, 9]).unwrap();
            session.extend_with_draft(4, &[6, 7, 8], &sampler).unwrap();
        };
        let expected = {
            let mut session = model.session(Some(64)).unwrap();
            bits(&session.extend(&[1, 5, 9, 4, 2]).unwrap().logits().unwrap())
        };
        let mut session = model.session(Some(64)).unwrap();
        read(&mut session);
        assert_eq!(session.tokens(), [1, 5, 9, 4]);
        assert!(bits(&session.extend(&[2]).unwrap().logits().unwrap()) == expected);

        let mut session = model.session(Some(64)).unwrap();
        read(&mut session);
        assert!(!session.accept(2).unwrap());
        assert!(!session.accept(6).unwrap(), "a draft ends at the first token that differs");
        assert!(bits(&session.extend(&[2]).unwrap().logits().unwrap()) == expected);

        let mut session = model.session(Some(64)).unwrap();
        read(&mut session);
        assert!(session.accept(6).unwrap());
        assert_eq!(session.truncate(4), 4);
        assert!(bits(&session.extend(&[2]).unwrap().logits().unwrap()) == expected);
    }
}

#[test]
fn drafts_that_do_not_fit_leave_the_sequence_as_it_was() {
    let model = load(ModelSource::Embedded);
    let sampler = Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
    let mut session = model.session(Some(8)).unwrap();
    session.extend(&[1, 5, 9, 4]).unwrap();
    let full = session.extend_with_draft(2, &[3; 4], &sampler).unwrap_err();
    assert!(matches!(full, InferenceError::Resource { used: 9, limit: 8, .. }), "{full}");
    let long = session.extend_with_draft(2, &[3; MAX_DRAFT + 1], &sampler).unwrap_err();
    assert!(matches!(long, InferenceError::Parameter { parameter: "draft", .. }), "{long}");
    let unknown = session.extend_with_draft(2, &[u32::MAX], &sampler);
    assert!(unknown.is_err());
    assert_eq!((session.tokens(), session.cache().len()), (&[1, 5, 9, 4][..], 4));
    session.extend_with_draft(2, &[3; 3], &sampler).unwrap();
    assert_eq!(session.tokens().len(), 5);
}
