//! Batches give the bits that each sequence has alone, with every type of cache; what sessions promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::sync::Arc;

use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuOptions, proven_levels};
use bitnet_inference::sampler::{Sampler, SamplerConfig, greedy};
use bitnet_inference::{
    BatchItem, BatchLogits, FinishReason, GenerateOptions, KvType, LoadOptions, LogitRows, Model,
    ModelSource, PREFILL_CHUNK, Progress, Session, backend_by_name, extend_batch,
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
    let mut logits = session.extend(prompt).unwrap().logits().unwrap();
    let mut out = Vec::new();
    for _ in 0..steps {
        let token = greedy(&logits).unwrap();
        logits = session.extend(&[token]).unwrap().logits().unwrap();
        out.push((token, bits(&logits)));
    }
    out
}

/// Reads one more token into each session, in one pass: the logits after each.
fn advance(sessions: &mut [Session], tokens: &[u32]) -> Vec<Vec<f32>> {
    let logits = LogitRows::Last;
    let mut items: Vec<_> = sessions
        .iter_mut()
        .zip(tokens.chunks(1))
        .map(|(session, tokens)| BatchItem { session, tokens, logits })
        .collect();
    let logits = extend_batch(&mut items).unwrap();
    (0..tokens.len()).map(|index| logits.of(index).unwrap().next().unwrap().to_vec()).collect()
}

fn together(model: &Model, prompts: &[Vec<u32>], steps: usize) -> Vec<Vec<(u32, Vec<u32>)>> {
    let mut sessions: Vec<Session> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| model.session(Some(prompt.len() + steps + index)).unwrap())
        .collect();
    let mut logits: Vec<_> = sessions
        .iter_mut()
        .zip(prompts)
        .map(|(s, prompt)| s.extend(prompt).unwrap().logits().unwrap())
        .collect();
    let mut out = vec![Vec::new(); prompts.len()];
    for _ in 0..steps {
        let tokens: Vec<u32> = logits.iter().map(|logits| greedy(logits).unwrap()).collect();
        logits = advance(&mut sessions, &tokens);
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
fn batched_decoding_equals_each_sequence_alone() {
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

/// Every number of streams around the sizes of the kernels' tiles, on every instruction set of this machine.
#[test]
fn streams_equal_each_sequence_alone_on_all_levels() {
    const STEPS: usize = 12;
    let reference = model_at(KvType::F16, 1, Some(IsaLevel::Scalar));
    let prompts = prompts(&reference, 17);
    let expected: Vec<_> = prompts.iter().map(|prompt| alone(&reference, prompt, STEPS)).collect();
    for (isa, right) in proven_levels() {
        assert!(right, "{isa:?}");
        let model = model_at(KvType::F16, 2, Some(isa));
        for count in (1..=9).chain([16, 17]) {
            let found = together(&model, &prompts[..count], STEPS);
            assert!(found[..] == expected[..count], "{isa:?}, {count} streams");
        }
    }
}

/// 256 tokens and every bit of their logits, whatever the processor does at once: every instruction set of this
/// machine, one to three threads, alone and beside others, all logits or the likeliest only.
#[test]
fn text_is_the_same_on_all_levels_and_thread_counts() {
    const STEPS: usize = 256;
    let likeliest = |model: &Model, prompt: &[u32]| -> Vec<u32> {
        let mut session = model.session(Some(prompt.len() + STEPS)).unwrap();
        let mut sampler =
            Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
        let mut next = prompt.to_vec();
        let mut out = Vec::new();
        for _ in 0..STEPS {
            session.extend(&next).unwrap();
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
        let whole =
            bits(&one.session(Some(200)).unwrap().extend(&prompt).unwrap().logits().unwrap());
        for threads in [1, 3] {
            let model = model(kv, threads);
            for piece in [1, 7, 200] {
                let mut session = model.session(Some(200)).unwrap();
                let mut logits = Vec::new();
                for tokens in prompt.chunks(piece) {
                    logits = session.extend(tokens).unwrap().logits().unwrap();
                }
                assert!(bits(&logits) == whole, "{kv}, {threads} threads, pieces of {piece}");
            }
        }
    }
}

#[test]
fn unfit_batches_are_refused_and_no_session_changes() {
    let (model, other) = (model(KvType::F16, 1), model(KvType::F16, 1));
    let mut a = model.session(Some(2)).unwrap();
    let mut b = model.session(Some(1)).unwrap();
    let mut c = other.session(Some(2)).unwrap();
    fn run(items: Vec<(&mut Session, &[u32], LogitRows<'_>)>) -> Result<BatchLogits, String> {
        let item = |(session, tokens, logits)| BatchItem { session, tokens, logits };
        let mut items: Vec<_> = items.into_iter().map(item).collect();
        extend_batch(&mut items).map_err(|error| error.to_string())
    }
    let last = LogitRows::Last;
    assert!(run(vec![]).unwrap().of(0).is_err());
    assert!(run(vec![(&mut a, &[], last)]).is_err(), "no tokens");
    assert!(run(vec![(&mut a, &[1], LogitRows::At(&[1]))]).is_err(), "a token that is not there");
    assert!(run(vec![(&mut a, &[1], last), (&mut c, &[2], last)]).is_err(), "two models");
    assert!(run(vec![(&mut a, &[1], last), (&mut b, &[u32::MAX], last)]).is_err(), "no such token");
    run(vec![(&mut a, &[1], last), (&mut b, &[2], last)]).unwrap();
    let full = run(vec![(&mut a, &[1], last), (&mut b, &[2], last)]).unwrap_err();
    assert!(full.contains("context"), "{full}");
    assert_eq!((a.tokens(), a.cache().len(), b.tokens()), (&[1][..], 1, &[2][..]));
}

/// Logits after each token of a prompt that is read alone.
fn rows(model: &Model, prompt: &[u32]) -> Vec<Vec<u32>> {
    let mut session = model.session(Some(prompt.len())).unwrap();
    let mut rows = Vec::new();
    session.extend_with_logits(prompt, |_, row| rows.push(bits(row))).unwrap();
    assert_eq!(&bits(&session.logits().unwrap()), rows.last().unwrap());
    rows
}

#[test]
fn mixed_prefill_and_decode_equals_each_alone_bit_for_bit() {
    for kv in [KvType::F32, KvType::F16, KvType::Int8] {
        let model = model(kv, 2);
        let prompt = |seed: u32, len: u32| -> Vec<u32> {
            (0..len).map(|index| 10 + (index * 7 + seed * 31) % 300).collect()
        };
        let prompts = [prompt(1, 40), prompt(2, 21), prompt(3, 1), prompt(4, 17), prompt(5, 300)];
        // What each has read before the batch: a part of a prompt, nothing, or all but its last token.
        let before = [13, 20, 0, 0, 299];
        let wanted = [LogitRows::At(&[0, 5, 3]), LogitRows::Last, LogitRows::All, LogitRows::None];
        let expected: Vec<_> = prompts.iter().map(|prompt| rows(&model, prompt)).collect();
        for shift in 0..wanted.len() {
            let mut sessions: Vec<_> =
                prompts.iter().map(|p| model.session(Some(p.len() + 1)).unwrap()).collect();
            for ((session, prompt), before) in sessions.iter_mut().zip(&prompts).zip(before) {
                if before > 0 {
                    session.extend(&prompt[..before]).unwrap();
                }
            }
            let choice = |index: usize| match wanted[(index + shift) % wanted.len()] {
                // Shorter items have no sixth token.
                LogitRows::At(_) if prompts[index].len() - before[index] < 6 => LogitRows::At(&[0]),
                rows => rows,
            };
            let mut items: Vec<_> = sessions
                .iter_mut()
                .enumerate()
                .map(|(index, session)| BatchItem {
                    session,
                    tokens: &prompts[index][before[index]..],
                    logits: choice(index),
                })
                .collect();
            let logits = extend_batch(&mut items).unwrap();
            for index in 0..prompts.len() {
                let first = before[index];
                let all: Vec<usize> = (0..prompts[index].len() - first).collect();
                let rows: &[usize] = match choice(index) {
                    LogitRows::None => &[],
                    LogitRows::Last => &all[all.len() - 1..],
                    LogitRows::All => &all,
                    LogitRows::At(rows) => rows,
                };
                let found: Vec<_> = logits.of(index).unwrap().map(bits).collect();
                let expected: Vec<_> =
                    rows.iter().map(|row| expected[index][first + row].clone()).collect();
                assert!(found == expected, "{kv}, item {index}, shift {shift}");
            }
            for (session, (prompt, expected)) in sessions.iter().zip(prompts.iter().zip(&expected))
            {
                assert_eq!(session.tokens(), prompt);
                assert!(bits(&session.logits().unwrap()) == *expected.last().unwrap(), "{kv}");
            }
        }
    }
}

#[test]
fn a_dropped_generation_leaves_the_session_usable() {
    let model = model(KvType::F16, 2);
    let prompt = model.encode_prompt("Once upon a time").unwrap();
    let options = GenerateOptions { ignore_end: true, max_tokens: 12, ..Default::default() };
    let write = |session: &mut Session, prompt: &[u32], count: usize| -> Vec<u32> {
        let generation = session.generate(prompt, &options).unwrap();
        generation.take(count).map(|token| token.unwrap().id.unwrap()).collect()
    };
    let whole = write(&mut model.session(None).unwrap(), &prompt, 12);
    let mut session = model.session(None).unwrap();
    for count in [0, 1, 5] {
        assert_eq!(write(&mut session, &prompt, count), whole[..count]);
    }
    assert!(session.tokens().starts_with(&prompt));
    let longer = [&prompt[..], &whole[..5]].concat();
    assert_eq!(write(&mut session, &longer, 7), whole[5..], "it goes on from another prompt");
    let mut generation = session.generate(&prompt, &options).unwrap().cancel_when(|| true);
    assert_eq!(generation.by_ref().count(), 1, "a token is shown before the next is refused");
    assert_eq!(generation.finish().finish, FinishReason::Cancelled);
    let logits = session.set_tokens(&prompt).unwrap().logits().unwrap();
    let alone = model.session(None).unwrap().extend(&prompt).unwrap().logits().unwrap();
    assert_eq!(bits(&logits), bits(&alone));
}

#[test]
fn prefill_stops_between_chunks_and_goes_on() {
    let model = model(KvType::F16, 2);
    let prompt: Vec<u32> = (0..600).map(|i| 10 + i * 7 % 300).collect();
    let mut session = model.session(Some(600)).unwrap();
    let first = session.prefill(&prompt).unwrap().next().unwrap().unwrap();
    assert_eq!(first, Progress { done: PREFILL_CHUNK, total: 600 });
    assert!(session.logits().is_err(), "the last token was not read");
    assert_eq!(session.tokens(), &prompt[..PREFILL_CHUNK]);
    let logits = session.set_tokens(&prompt).unwrap().logits().unwrap();
    let mut alone = model.session(Some(600)).unwrap();
    assert_eq!(bits(&logits), bits(&alone.extend(&prompt).unwrap().logits().unwrap()));
}

#[test]
fn sessions_and_models_move_between_threads() {
    fn is_task<T: Send + 'static>(value: T) -> T {
        value
    }
    let model = is_task(Arc::new(model(KvType::F16, 1)));
    let prompt = model.encode_prompt("Once upon a time").unwrap();
    let expected = alone(&model, &prompt, 8);
    let mut session = is_task(model.session(Some(64)).unwrap());
    session.extend(&prompt[..2]).unwrap();
    drop(model);
    let (token, logits) = std::thread::spawn(move || {
        let logits = session.set_tokens(&prompt).unwrap().logits().unwrap();
        let token = greedy(&logits).unwrap();
        (token, session.extend(&[token]).unwrap().logits().unwrap())
    })
    .join()
    .unwrap();
    assert!((token, bits(&logits)) == expected[0]);
}
