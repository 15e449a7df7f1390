//! Timed repetitions of one test on one model.
//!
//! Timed as in llama-bench: for a prompt, processing all of it and selecting the top token; for generation, each token
//! with its logits. Unlike llama-bench, generation includes selecting the top token, which is the next input. Loading,
//! tokenization and the context before (`-d`) are not timed.

use std::time::{Duration, Instant};

use anyhow::Result;
use bitnet_core::backend::Traffic;
use bitnet_core::rng::SplitMix64;
use bitnet_inference::models::TokenCost;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{Model, PREFILL_CHUNK, Session};

use super::run_file::{Cost, Test};
use crate::interrupt::Listener;

/// The test protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    /// Batch size of prompt processing.
    pub(crate) batch_size: usize,
    pub(crate) repetitions: usize,
    pub(crate) warm_up: bool,
    /// Seed of the random tokens.
    pub(crate) seed: u64,
}

/// The results of the repetitions.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) times: Vec<Duration>,
    /// The back end's counters over all repetitions; `None` if it does not count.
    pub(crate) traffic: Option<Traffic>,
}

/// Returns the time of each repetition and the counters; fewer repetitions if the user stopped it. Calls
/// `on_repetition` after each one.
///
/// # Errors
/// Returns errors of the model.
pub(crate) fn run_test(
    model: &Model,
    test: Test,
    protocol: Protocol,
    listener: &Listener,
    on_repetition: &mut dyn FnMut(),
) -> Result<Measured> {
    let backend = model.decoder().backend();
    let mut runner = Runner::new(model, test, protocol, listener)?;
    let mut measured = Measured::default();
    if !runner.read_context()? {
        return Ok(measured);
    }
    // Prepares the head once before timing, as in every run with more than one token.
    model.decoder().prepare_top_logits()?;
    if protocol.warm_up && runner.repeat(test.n_gen.min(1))?.is_none() {
        return Ok(measured);
    }
    let before = backend.traffic();
    for _ in 0..protocol.repetitions {
        let Some(time) = runner.repeat(test.n_gen)? else { break };
        measured.times.push(time);
        measured.traffic = before.zip(backend.traffic()).map(|(from, to)| to.since(from));
        on_repetition();
    }
    Ok(measured)
}

/// Returns the mean cost of a step: a generated token, or a batch of a prompt. Ternary weights are those counted by the
/// back end, if it counts.
pub(crate) fn cost(stored: &TokenCost, measured: &Measured, test: Test, batch_size: usize) -> Cost {
    let before = test.n_depth + if test.n_gen > 0 { test.n_prompt } else { 0 };
    let tokens = if test.n_gen > 0 { test.n_gen } else { test.n_prompt };
    // The first token is at position `before`, the last at `before + tokens - 1`.
    let position = before as f64 + (tokens.max(1) - 1) as f64 / 2.0;
    let steps = (measured.times.len() * steps(test, batch_size)) as f64;
    let counted = measured.traffic.filter(|_| steps > 0.0);
    let stored_ternary = stored.ternary_bytes as f64;
    let ternary_bytes = counted.map_or(stored_ternary, |t| t.ternary_bytes as f64 / steps);
    // A head that computes only the largest logits counts the bytes read.
    let asked = counted.filter(|t| t.head.queries > 0);
    let stored_head = stored.head_bytes as f64;
    let head_bytes = asked.map_or(stored_head, |t| t.head.bytes() as f64 / steps);
    let share = |part: u64, all: u64| (all > 0).then(|| part as f64 / all as f64);
    Cost {
        ternary_bytes,
        counted: counted.is_some(),
        gated_rows_skipped: counted.and_then(|t| share(t.gated_rows_skipped, t.gated_rows)),
        sparse_columns_skipped: counted
            .and_then(|t| share(t.sparse_columns_skipped, t.sparse_columns)),
        head_bytes,
        kv_bytes: (position + 1.0) * stored.kv_position_bytes as f64,
        bytes: stored.bytes_at(position) - stored_ternary + ternary_bytes - stored_head
            + head_bytes,
        integer_macs: stored.ternary_macs as f64,
    }
}

/// Returns the number of forward passes of one repetition.
fn steps(test: Test, batch_size: usize) -> usize {
    let (whole, rest) = (test.n_prompt / batch_size, test.n_prompt % batch_size);
    whole * batch_size.div_ceil(PREFILL_CHUNK) + rest.div_ceil(PREFILL_CHUNK) + test.n_gen
}

struct Runner<'a> {
    test: Test,
    batch_size: usize,
    listener: &'a Listener,
    session: Session,
    sampler: Sampler,
    context: Vec<u32>,
    prompt: Vec<u32>,
    /// Returns the first token of a generation without a prompt.
    first: u32,
}

impl<'a> Runner<'a> {
    fn new(model: &Model, test: Test, protocol: Protocol, listener: &'a Listener) -> Result<Self> {
        let mut random = SplitMix64::new(protocol.seed);
        let mut tokens = |count| tokens(&mut random, count, model.config().vocab_size);
        let (mut context, mut prompt) = (tokens(test.n_depth), tokens(test.n_prompt));
        let mut first = tokens(1)[0];
        // A text begins with BOS, as for a user.
        if let Some(bos) = model.tokenizer().and_then(|t| t.bos_id()) {
            *context.first_mut().or(prompt.first_mut()).unwrap_or(&mut first) = bos;
        }
        Ok(Self {
            test,
            batch_size: protocol.batch_size,
            listener,
            session: model.session(Some(test.n_depth + test.tokens()))?,
            sampler: Sampler::new(SamplerConfig::default(), model.config().vocab_size)?,
            context,
            prompt,
            first,
        })
    }

    /// Processes the context before the test; returns false if the user stopped it.
    fn read_context(&mut self) -> Result<bool> {
        if self.context.is_empty() {
            return Ok(true);
        }
        let Self { session, context, listener, .. } = self;
        read(session, context, listener)
    }

    /// Runs one repetition that generates `n_gen` tokens; `None` if the user stopped it.
    fn repeat(&mut self, n_gen: usize) -> Result<Option<Duration>> {
        self.session.truncate(self.test.n_depth);
        let Self { session, sampler, listener, .. } = self;
        let start = Instant::now();
        let mut token = self.first;
        for batch in self.prompt.chunks(self.batch_size) {
            if !read(session, batch, listener)? {
                return Ok(None);
            }
            token = session.choose(sampler)?;
        }
        for _ in 0..n_gen {
            if listener.asked() {
                return Ok(None);
            }
            session.extend(&[token])?;
            token = session.choose(sampler)?;
        }
        let time = start.elapsed();
        Ok((!listener.asked()).then_some(time))
    }
}

/// Reads tokens; false if the user stopped it.
pub(crate) fn read(session: &mut Session, tokens: &[u32], listener: &Listener) -> Result<bool> {
    for progress in session.prefill(tokens)? {
        let progress = progress?;
        if progress.done < progress.total && listener.asked() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns random tokens, the same in each run.
pub(crate) fn tokens(random: &mut SplitMix64, count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|_| (random.next_u64() % vocabulary.max(1) as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_repeatable() {
        let drawn = tokens(&mut SplitMix64::new(1), 1000, 50);
        assert_eq!(drawn, tokens(&mut SplitMix64::new(1), 1000, 50));
        assert_ne!(drawn, tokens(&mut SplitMix64::new(2), 1000, 50));
        assert!(drawn.iter().all(|&t| t < 50));
        assert!((0..50).all(|t| drawn.contains(&t)));
    }

    fn stored() -> TokenCost {
        TokenCost {
            ternary_bytes: 1000,
            head_bytes: 100,
            kv_position_bytes: 10,
            ternary_macs: 4000,
            ..TokenCost::default()
        }
    }

    #[test]
    fn costs_count_the_middle_of_the_test() {
        let of = |n_prompt, n_gen, n_depth| {
            cost(&stored(), &Measured::default(), Test { n_prompt, n_gen, n_depth }, 512)
        };
        assert_eq!(of(0, 1, 0).bytes, 1110.0);
        // Positions 5, 6 and 7 attend to 6, 7 and 8 positions.
        assert_eq!(of(0, 3, 5).kv_bytes, 70.0);
        assert_eq!(of(5, 3, 0).kv_bytes, 70.0);
        assert_eq!(of(9, 0, 0).integer_macs, 4000.0);
        assert!(!of(9, 0, 0).counted);
    }

    #[test]
    fn counted_bytes_replace_stored_bytes() {
        let traffic = Traffic {
            ternary_bytes: 2 * 3 * 400,
            gated_rows: 40,
            gated_rows_skipped: 10,
            ..Traffic::default()
        };
        let times = vec![Duration::from_secs(1); 2];
        let measured = Measured { times, traffic: Some(traffic) };
        let cost = cost(&stored(), &measured, Test { n_prompt: 0, n_gen: 3, n_depth: 0 }, 512);
        assert_eq!((cost.ternary_bytes, cost.bytes), (400.0, 400.0 + 100.0 + 20.0));
        assert_eq!(cost.gated_rows_skipped, Some(0.25));
        assert_eq!(cost.sparse_columns_skipped, None);
    }

    #[test]
    fn steps_are_passes_through_the_model() {
        let steps = |n_prompt, n_gen, batch| steps(Test { n_prompt, n_gen, n_depth: 9 }, batch);
        assert_eq!(steps(512, 0, 2048), 512usize.div_ceil(PREFILL_CHUNK));
        assert_eq!(steps(7, 2, 3), 3 + 2);
        assert_eq!(steps(0, 128, 2048), 128);
    }

    #[test]
    fn a_test_is_repeated_as_often_as_asked() {
        let model = Model::embedded().unwrap();
        let listener = Listener::new();
        let protocol = Protocol { batch_size: 3, repetitions: 2, warm_up: true, seed: 1 };
        for (n_prompt, n_gen, n_depth) in [(7, 0, 0), (0, 2, 0), (4, 2, 3)] {
            let mut calls = 0;
            let test = Test { n_prompt, n_gen, n_depth };
            let measured = run_test(&model, test, protocol, &listener, &mut || calls += 1).unwrap();
            assert_eq!((measured.times.len(), calls), (2, 2));
            assert!(measured.traffic.is_some_and(|t| t.ternary_bytes > 0));
            assert!(measured.times.iter().all(|t| !t.is_zero()));
        }
    }
}
