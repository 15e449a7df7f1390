//! The engine against sessions that write alone: the same text, whatever else runs.
#![allow(clippy::unwrap_used, reason = "a test fails with what it did not expect")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_inference::engine::scheduler::StepLimits;
use bitnet_inference::engine::{Engine, EngineConfig, EngineError, Event, Request, Response};
use bitnet_inference::sampler::SamplerConfig;
use bitnet_inference::{DraftMode, FinishReason, GenerateOptions, KvType, Model};

fn model(kind: KvType) -> Arc<Model> {
    Arc::new(Model::builder().threads(2).kv(kind).embedded().unwrap())
}

fn start(model: &Arc<Model>, config: EngineConfig) -> Engine {
    Engine::start(Arc::clone(model), config).unwrap()
}

fn prompt(model: &Model, index: usize) -> Vec<u32> {
    const BEGINNINGS: [&str; 5] = [
        "Once upon a time",
        "Once upon a time, there was a little dog",
        "The sun",
        "Lily and Tom went to the park. They saw a big tree and",
        "One day a bird",
    ];
    model.encode_prompt(&BEGINNINGS[index % BEGINNINGS.len()].repeat(1 + index / 5 % 4)).unwrap()
}

fn options(index: usize, max_tokens: usize) -> GenerateOptions {
    let temperature = if index.is_multiple_of(3) { 0.0 } else { 0.8 };
    let top_k = if index.is_multiple_of(2) { 40 } else { 0 };
    let sampler =
        SamplerConfig { temperature, top_k, seed: index as u64, ..SamplerConfig::default() };
    GenerateOptions { sampler, max_tokens, ..GenerateOptions::default() }
}

/// What a session writes alone.
fn alone(model: &Model, prompt: &[u32], options: &GenerateOptions) -> (String, FinishReason) {
    let mut session = model.session(None).unwrap();
    let mut generation = session.generate(prompt, options).unwrap();
    generation.by_ref().for_each(|token| drop(token.unwrap()));
    let written = generation.finish();
    (written.text, written.finish)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn texts_in_a_crowd_are_those_written_alone() {
    for kind in [KvType::F16, KvType::Int8] {
        let model = model(kind);
        let engine = start(&model, EngineConfig::default());
        let mut responses = Vec::new();
        for index in 0..40 {
            let (prompt, options) = (prompt(&model, index), options(index, 20 + index % 30));
            let response = engine.submit(Request::new(prompt.clone(), options.clone())).unwrap();
            // Every fourth reader goes away.
            if index % 4 == 3 {
                drop(response);
            } else {
                responses.push((response, prompt, options));
            }
        }
        for (response, prompt, options) in responses {
            let answer = response.wait().unwrap();
            let (text, finish) = alone(&model, &prompt, &options);
            assert_eq!(answer.texts[0].text, text);
            assert_eq!(answer.texts[0].finish, Some(finish));
            assert_eq!(answer.usage.written_tokens, answer.texts[0].tokens.len());
        }
        wait_for("the end of all", || engine.unfinished() == 0);
        let stats = engine.stats();
        assert_eq!(stats.finished + stats.cancelled, 40);
        assert_eq!((stats.failed, stats.waiting, stats.waiting_tokens), (0, 0, 0));
    }
}

#[test]
fn drafts_change_no_text_alone_or_in_a_crowd() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig::default());
    let repeated = "Once upon a time, there was a little girl named Lily. ".repeat(4);
    let prompt = model.encode_prompt(&repeated).unwrap();
    let ask = |index: usize| {
        let options = options(index, 60);
        let drafting = GenerateOptions { draft: DraftMode::NGram, ..options.clone() };
        (engine.submit(Request::new(prompt.clone(), drafting)).unwrap(), options)
    };
    let same = |(response, options): (Response, GenerateOptions)| {
        let answer = response.wait().unwrap();
        assert_eq!(answer.texts[0].text, alone(&model, &prompt, &options).0);
    };
    (0..4).for_each(|index| same(ask(index)));
    let drafted = engine.stats().drafted_tokens;
    assert!(drafted > 0);
    // Others come while the first one reads ahead.
    let mut first = ask(0);
    assert!(matches!(first.0.next(), Some(Ok(Event::Prompt { .. }))));
    let others: Vec<_> = (1..5).map(ask).collect();
    same(first);
    others.into_iter().for_each(same);
    assert!(engine.stats().accepted_tokens <= engine.stats().drafted_tokens);
}

#[test]
fn a_common_prompt_is_read_once() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig::default());
    let text = "Once upon a time there was a cat who liked to sing in the rain. ".repeat(12);
    let common = model.encode_prompt(&text).unwrap();
    let requests = (0..16).map(|index| {
        let prompt = [common.clone(), model.encode_prompt(&format!("{index}")).unwrap()].concat();
        engine.submit(Request::new(prompt, options(0, 5))).unwrap()
    });
    let responses: Vec<_> = requests.collect();
    responses.into_iter().for_each(|response| drop(response.wait().unwrap()));
    let stats = engine.stats();
    let own = 16 * 16;
    assert!(stats.prompt_tokens as usize <= common.len() + own, "{stats:?}");
    assert!(stats.cached_tokens as usize >= 15 * common.len(), "{stats:?}");
    let again = engine.submit(Request::new(common.clone(), options(0, 5))).unwrap();
    assert_eq!(again.wait().unwrap().usage.cached_tokens, common.len() - 1);
}

#[test]
fn groups_do_not_share_prompts() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig::default());
    let prompt = model.encode_prompt(&"The secret is a small green box. ".repeat(8)).unwrap();
    for group in [1, 2, 1] {
        let request = Request { group, ..Request::new(prompt.clone(), options(0, 2)) };
        let answer = engine.submit(request).unwrap().wait().unwrap();
        let expected = if engine.stats().finished == 3 { prompt.len() - 1 } else { 0 };
        assert_eq!(answer.usage.cached_tokens, expected, "group {group}");
    }
}

#[test]
fn choices_share_a_prompt_and_have_seeds_of_their_own() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig::default());
    let (prompt, options) = (prompt(&model, 3), options(1, 30));
    let request = Request { choices: 4, ..Request::new(prompt.clone(), options.clone()) };
    let answer = engine.submit(request).unwrap().wait().unwrap();
    assert_eq!(answer.texts.len(), 4);
    for (choice, text) in answer.texts.iter().enumerate() {
        let mut options = options.clone();
        options.sampler.seed += choice as u64;
        assert_eq!(text.text, alone(&model, &prompt, &options).0, "choice {choice}");
    }
    assert_eq!(engine.stats().prompt_tokens as usize, prompt.len());
}

#[test]
fn texts_that_run_out_of_memory_wait_or_end_alone() {
    let model = model(KvType::F16);
    let page = model.session(None).unwrap().cache().page_bytes();
    let config =
        EngineConfig { context: Some(512), kv_bytes: Some(9 * page), ..EngineConfig::default() };
    let engine = start(&model, config);
    let responses: Vec<_> = (0..12)
        .map(|index| {
            let options = GenerateOptions { ignore_end: true, ..options(index, 150) };
            let prompt = prompt(&model, index);
            (engine.submit(Request::new(prompt.clone(), options.clone())).unwrap(), prompt, options)
        })
        .collect();
    // Readers that are behind would hold memory.
    let reading = responses.into_iter().map(|(response, prompt, options)| {
        (std::thread::spawn(move || response.wait().unwrap()), prompt, options)
    });
    for (answer, prompt, options) in reading.collect::<Vec<_>>() {
        let answer = answer.join().unwrap();
        assert_eq!(answer.texts[0].text, alone(&model, &prompt, &options).0);
    }
    let stats = engine.stats();
    assert!(stats.evicted > 0 && stats.pages <= 9, "{stats:?}");
}

#[test]
fn log_probabilities_are_those_of_a_session() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig::default());
    let prompt = prompt(&model, 7);
    let request = Request {
        logprobs: Some(3),
        prompt_logprobs: Some(2),
        ..Request::new(prompt.clone(), options(0, 6))
    };
    let answer = engine.submit(request).unwrap().wait().unwrap();
    let tokens = [prompt.clone(), answer.texts[0].tokens.clone()].concat();
    let mut expected = Vec::new();
    model
        .session(None)
        .unwrap()
        .extend_with_logits(&tokens, |index, logits| {
            let Some(&next) = tokens.get(index + 1) else { return };
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
            expected.push((next, f64::from(logits[next as usize] - largest) - sum.ln()));
        })
        .unwrap();
    assert_eq!(answer.prompt_logprobs.len(), prompt.len());
    assert_eq!(answer.prompt_logprobs[0], None);
    let found = answer.prompt_logprobs[1..].iter().flatten().chain(&answer.texts[0].logprobs);
    let mut count = 0;
    for (found, (token, logprob)) in found.zip(&expected) {
        assert_eq!(found.chosen.token, *token);
        assert!((f64::from(found.chosen.logprob) - logprob).abs() < 1e-4);
        assert!(found.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        count += 1;
    }
    assert_eq!(count, expected.len());
}

#[test]
fn a_reader_that_is_behind_holds_its_own_text_alone() {
    let model = model(KvType::F16);
    let config =
        EngineConfig { reader_patience: Duration::from_millis(300), ..EngineConfig::default() };
    let engine = start(&model, config);
    let long = GenerateOptions { ignore_end: true, ..options(0, 450) };
    let mut behind = engine.submit(Request::new(prompt(&model, 0), long)).unwrap();
    let other = engine.submit(Request::new(prompt(&model, 1), options(0, 40))).unwrap();
    assert_eq!(
        other.wait().unwrap().texts[0].text,
        alone(&model, &prompt(&model, 1), &options(0, 40)).0
    );
    wait_for("the end of the text that is not read", || engine.unfinished() == 0);
    assert_eq!(engine.stats().failed, 1);
    let read = behind.by_ref().filter(|event| matches!(event, Ok(Event::Token { .. }))).count();
    assert!(read < 450);
}

#[test]
fn requests_in_the_queue_are_cancelled_late_or_refused() {
    let model = model(KvType::F16);
    let step = StepLimits { max_sequences: 1, ..StepLimits::default() };
    let engine = start(&model, EngineConfig { step, max_waiting: 3, ..EngineConfig::default() });
    let long = GenerateOptions { ignore_end: true, ..options(0, 400) };
    let first = engine.submit(Request::new(prompt(&model, 0), long.clone())).unwrap();
    wait_for("the first step", || engine.stats().active == 1);
    let dropped = engine.submit(Request::new(prompt(&model, 1), long.clone())).unwrap();
    let patience = Some(Duration::from_millis(1));
    let late = Request { patience, ..Request::new(prompt(&model, 2), long.clone()) };
    let late = engine.submit(late).unwrap();
    drop(dropped);
    assert!(matches!(late.wait(), Err(EngineError::Late { .. })));
    wait_for("an empty queue", || engine.stats().waiting == 0);
    let mut waiting = Vec::new();
    let refused = (0..4).find_map(|index| {
        match engine.submit(Request::new(prompt(&model, index), long.clone())) {
            Ok(response) => {
                waiting.push(response);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(EngineError::QueueFull { waiting: 3, .. })), "{refused:?}");
    drop((first, waiting));
    wait_for("the end of all", || engine.unfinished() == 0);
    engine.close();
    let closed = engine.submit(Request::new(prompt(&model, 0), long));
    assert!(matches!(closed, Err(EngineError::ShuttingDown)));
}

#[test]
fn the_queue_is_bounded_in_requests_tokens_and_bytes() {
    let model = model(KvType::F16);
    let step = StepLimits { max_sequences: 1, ..StepLimits::default() };
    let limits = EngineConfig { step, ..EngineConfig::default() };
    let long = GenerateOptions { ignore_end: true, ..options(0, 400) };
    let stop = vec!["x".repeat(4000)];
    let wordy = Request::new(prompt(&model, 1), GenerateOptions { stop, ..long.clone() });
    for (config, fitting) in [
        (EngineConfig { max_waiting: 2, ..limits.clone() }, 2),
        (EngineConfig { max_waiting_tokens: 3 * wordy.prompt.len(), ..limits.clone() }, 3),
        (EngineConfig { max_waiting_bytes: 6000, ..limits }, 1),
    ] {
        let engine = start(&model, config);
        let _first = engine.submit(Request::new(prompt(&model, 0), long.clone())).unwrap();
        wait_for("the first step", || engine.stats().active == 1);
        let waiting: Vec<_> = (0..fitting).map(|_| engine.submit(wordy.clone()).unwrap()).collect();
        let refused = engine.submit(wordy.clone());
        assert!(matches!(refused, Err(EngineError::QueueFull { .. })), "{refused:?}");
        assert_eq!((engine.stats().waiting, engine.stats().refused), (waiting.len(), 1));
    }
}

#[test]
fn values_out_of_range_are_refused_before_anything_runs() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig { context: Some(64), ..EngineConfig::default() });
    let refuse = |request: Request| engine.submit(request).unwrap_err().to_string();
    let good = Request::new(vec![1, 40], options(0, 4));
    assert!(refuse(Request { prompt: vec![], ..good.clone() }).contains("at least one token"));
    assert!(refuse(Request { prompt: vec![1, 9_999_999], ..good.clone() }).contains("9999999"));
    assert!(refuse(Request { prompt: vec![1; 64], ..good.clone() }).contains("64 tokens"));
    for choices in [0, 33, usize::MAX] {
        assert!(refuse(Request { choices, ..good.clone() }).contains("n = "));
    }
    let mut hot = good.clone();
    hot.options.sampler.temperature = -1.0;
    assert!(refuse(hot).contains("temperature"));
    assert_eq!((engine.unfinished(), engine.stats().steps), (0, 0));
}

#[test]
fn a_text_ends_where_its_context_is_full() {
    let model = model(KvType::F16);
    let engine = start(&model, EngineConfig { context: Some(40), ..EngineConfig::default() });
    let options = GenerateOptions { ignore_end: true, ..options(0, 400) };
    let prompt = prompt(&model, 0);
    let answer =
        engine.submit(Request::new(prompt.clone(), options.clone())).unwrap().wait().unwrap();
    let mut session = model.session(Some(40)).unwrap();
    let mut generation = session.generate(&prompt, &options).unwrap();
    generation.by_ref().for_each(|token| drop(token.unwrap()));
    let expected = generation.finish();
    assert_eq!(
        (answer.texts[0].finish, &answer.texts[0].tokens),
        (Some(expected.finish), &expected.tokens)
    );
}
