//! Sequences that advance together write what each writes alone, with every type of cache.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuOptions, proven_levels};
use bitnet_inference::sampler::{Sampler, SamplerConfig, greedy};
use bitnet_inference::{
    KvType, LoadOptions, Model, ModelSource, Session, advance_together, backend_by_name,
};

fn model(kv: KvType, threads: usize) -> Model {
    model_at(kv, threads, None)
}

fn model_at(kv: KvType, threads: usize, isa: Option<IsaLevel>) -> Model {
    let backend = backend_by_name("cpu", CpuOptions { threads: Some(threads), isa }).unwrap();
    let options = LoadOptions { kv, ..LoadOptions::default() };
    Model::load_with(ModelSource::Embedded, &options, backend, &mut |_, _| {}).unwrap()
}

/// Prompts of different lengths.
fn prompts(model: &Model, count: usize) -> Vec<Vec<u32>> {
    let texts = ["Once upon a time", "Once upon a time, there was a", "One day, a small", "The"];
    let whole = |index: usize| {
        let mut tokens = model.encode_prompt(texts[index % texts.len()]).unwrap();
        tokens.truncate(tokens.len() - usize::from(index % 3 == 2 && tokens.len() > 2));
        tokens
    };
    (0..count).map(whole).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Tokens and logits after each, written greedily alone.
fn alone(model: &Model, prompt: &[u32], steps: usize) -> Vec<(u32, Vec<u32>)> {
    let mut session = model.session(Some(prompt.len() + steps)).unwrap();
    let mut logits = session.feed(prompt).unwrap();
    let mut out = Vec::new();
    for _ in 0..steps {
        let token = greedy(&logits).unwrap();
        logits = session.feed(&[token]).unwrap();
        out.push((token, bits(&logits)));
    }
    out
}

fn together(model: &Model, prompts: &[Vec<u32>], steps: usize) -> Vec<Vec<(u32, Vec<u32>)>> {
    let mut sessions: Vec<Session<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| model.session(Some(prompt.len() + steps + index)).unwrap())
        .collect();
    let mut logits: Vec<_> =
        sessions.iter_mut().zip(prompts).map(|(s, prompt)| s.feed(prompt).unwrap()).collect();
    let mut out = vec![Vec::new(); prompts.len()];
    for _ in 0..steps {
        let tokens: Vec<u32> = logits.iter().map(|logits| greedy(logits).unwrap()).collect();
        let mut all: Vec<_> = sessions.iter_mut().collect();
        logits = advance_together(&mut all, &tokens).unwrap();
        for ((out, token), logits) in out.iter_mut().zip(tokens).zip(&logits) {
            out.push((token, bits(logits)));
        }
    }
    for (session, prompt) in sessions.iter().zip(prompts) {
        assert_eq!(session.tokens().len(), prompt.len() + steps);
    }
    out
}

#[test]
fn sequences_that_advance_together_write_what_each_writes_alone() {
    for kv in [KvType::F32, KvType::F16, KvType::Int8] {
        let model = model(kv, 2);
        let prompts = prompts(&model, 32);
        let expected: Vec<_> = prompts.iter().map(|prompt| alone(&model, prompt, 64)).collect();
        for count in [1, 2, 3, 5, 8, 16, 32] {
            let found = together(&model, &prompts[..count], 64);
            assert!(found[..] == expected[..count], "{kv}, {count} sequences");
        }
    }
}

/// 256 tokens and every bit of their logits, whatever the processor does at once: every instruction set of this
/// machine, one to three threads, alone and beside others, all logits or the likeliest only.
#[test]
fn what_is_written_depends_on_no_machine() {
    const STEPS: usize = 256;
    let likeliest = |model: &Model, prompt: &[u32]| -> Vec<u32> {
        let mut session = model.session(Some(prompt.len() + STEPS)).unwrap();
        let mut sampler =
            Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
        let mut next = prompt.to_vec();
        let mut out = Vec::new();
        for _ in 0..STEPS {
            assert!(session.read(&next, &mut |_, _| true).unwrap());
            next = vec![session.choose(&mut sampler).unwrap()];
            out.extend(&next);
        }
        out
    };
    let reference = model_at(KvType::F16, 1, Some(IsaLevel::Scalar));
    let prompts = prompts(&reference, 2);
    let expected: Vec<_> = prompts.iter().map(|prompt| alone(&reference, prompt, STEPS)).collect();
    for (isa, right) in proven_levels() {
        assert!(right, "{isa:?}");
        for threads in [1, 3] {
            let model = model_at(KvType::F16, threads, Some(isa));
            assert!(together(&model, &prompts, STEPS) == expected, "{isa:?}, {threads} threads");
            for (prompt, expected) in prompts.iter().zip(&expected) {
                let tokens: Vec<_> = expected.iter().map(|(token, _)| *token).collect();
                assert!(likeliest(&model, prompt) == tokens, "{isa:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn reading_in_pieces_equals_reading_at_once_on_any_number_of_threads() {
    for kv in [KvType::F32, KvType::F16, KvType::Int8] {
        let one = model(kv, 1);
        let prompt: Vec<u32> = (0..200).map(|i| 10 + i * 7 % 300).collect();
        let whole = bits(&one.session(Some(200)).unwrap().feed(&prompt).unwrap());
        for threads in [1, 3] {
            let model = model(kv, threads);
            for piece in [1, 7, 200] {
                let mut session = model.session(Some(200)).unwrap();
                let mut logits = Vec::new();
                for tokens in prompt.chunks(piece) {
                    logits = session.feed(tokens).unwrap();
                }
                assert!(bits(&logits) == whole, "{kv}, {threads} threads, pieces of {piece}");
            }
        }
    }
}

#[test]
fn what_does_not_belong_together_is_refused_and_nothing_moves() {
    let (model, other) = (model(KvType::F16, 1), model(KvType::F16, 1));
    let mut a = model.session(Some(2)).unwrap();
    let mut b = model.session(Some(1)).unwrap();
    let mut c = other.session(Some(2)).unwrap();
    assert!(advance_together(&mut [], &[]).unwrap().is_empty());
    assert!(advance_together(&mut [&mut a], &[1, 2]).is_err());
    assert!(advance_together(&mut [&mut a, &mut c], &[1, 2]).is_err());
    assert!(advance_together(&mut [&mut a, &mut b], &[1, u32::MAX]).is_err());
    advance_together(&mut [&mut a, &mut b], &[1, 2]).unwrap();
    let error = advance_together(&mut [&mut a, &mut b], &[1, 2]).unwrap_err();
    assert!(error.to_string().contains("context"), "{error}");
    assert_eq!((a.tokens(), a.cache().len(), b.tokens()), (&[1][..], 1, &[2][..]));
}
