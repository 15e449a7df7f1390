//! One test on one model: repetitions, timed.
//!
//! What is timed, as in llama-bench: for a prompt, reading all of it, with the logits of the last token of each batch;
//! for writing, each token by itself with its logits, and, as a user has it and llama-bench has not, the choice of the
//! likeliest token, which is then the next one. Loading, tokenizing and the context before (`-d`) are not timed.

use std::time::{Duration, Instant};

use anyhow::Result;
use bitnet_inference::models::Traffic;
use bitnet_inference::{Model, Session, sampler};

use super::run_file::{Cost, Test};
use crate::interrupt::Listener;

/// How tests are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    /// Tokens of a prompt that are read together.
    pub(crate) batch_size: usize,
    pub(crate) repetitions: usize,
    pub(crate) warm_up: bool,
    /// Seed of the random tokens.
    pub(crate) seed: u64,
}

/// The time of each repetition; fewer than asked for if the user stopped it. `on_repetition` is told after each one.
///
/// # Errors
/// Those of the model.
pub(crate) fn run_test(
    model: &Model,
    test: Test,
    protocol: Protocol,
    listener: &Listener,
    on_repetition: &mut dyn FnMut(),
) -> Result<Vec<Duration>> {
    let mut runner = Runner::new(model, test, protocol, listener)?;
    let mut times = Vec::with_capacity(protocol.repetitions);
    if !runner.read_context()? {
        return Ok(times);
    }
    if protocol.warm_up && runner.repeat(test.n_gen.min(1))?.is_none() {
        return Ok(times);
    }
    for _ in 0..protocol.repetitions {
        let Some(time) = runner.repeat(test.n_gen)? else { break };
        times.push(time);
        on_repetition();
    }
    Ok(times)
}

/// What a token of a test costs when nothing is skipped, on average. A prompt reads its weights once for each batch
/// that goes through the model, so its bytes are those of one such step.
pub(crate) fn cost(traffic: &Traffic, test: Test) -> Cost {
    let before = test.n_depth + if test.n_gen > 0 { test.n_prompt } else { 0 };
    let steps = if test.n_gen > 0 { test.n_gen } else { test.n_prompt };
    // The first step stands at `before`, the last at `before + steps - 1`.
    let position = before as f64 + (steps.max(1) - 1) as f64 / 2.0;
    Cost {
        ternary_bytes: traffic.ternary_bytes as f64,
        head_bytes: traffic.head_bytes as f64,
        kv_bytes: (position + 1.0) * traffic.kv_position_bytes as f64,
        bytes: traffic.bytes_at(position),
        integer_macs: traffic.ternary_macs as f64,
    }
}

struct Runner<'a> {
    test: Test,
    batch_size: usize,
    listener: &'a Listener,
    session: Session<'a>,
    context: Vec<u32>,
    prompt: Vec<u32>,
    /// The first token that is fed when there is no prompt.
    first: u32,
}

impl<'a> Runner<'a> {
    fn new(
        model: &'a Model,
        test: Test,
        protocol: Protocol,
        listener: &'a Listener,
    ) -> Result<Self> {
        let mut random = Random(protocol.seed);
        let mut tokens = |count| random.tokens(count, model.config().vocab_size);
        let (mut context, mut prompt) = (tokens(test.n_depth), tokens(test.n_prompt));
        let mut first = tokens(1)[0];
        // A text begins with the token that begins texts, as it would for a user.
        if let Some(bos) = model.tokenizer().and_then(|t| t.bos_id()) {
            *context.first_mut().or(prompt.first_mut()).unwrap_or(&mut first) = bos;
        }
        Ok(Self {
            test,
            batch_size: protocol.batch_size,
            listener,
            session: model.session(Some(test.n_depth + test.tokens()))?,
            context,
            prompt,
            first,
        })
    }

    /// Reads the context before the test; false if the user stopped it.
    fn read_context(&mut self) -> Result<bool> {
        if self.context.is_empty() {
            return Ok(true);
        }
        let listener = self.listener;
        Ok(self.session.feed_until(&self.context, &mut |_, _| !listener.asked())?.is_some())
    }

    /// One repetition that writes `n_gen` tokens; `None` if the user stopped it.
    fn repeat(&mut self, n_gen: usize) -> Result<Option<Duration>> {
        self.session.truncate(self.test.n_depth);
        let listener = self.listener;
        let start = Instant::now();
        let mut token = self.first;
        for batch in self.prompt.chunks(self.batch_size) {
            let Some(logits) = self.session.feed_until(batch, &mut |_, _| !listener.asked())?
            else {
                return Ok(None);
            };
            if n_gen > 0 {
                token = sampler::greedy(&logits)?;
            }
        }
        for _ in 0..n_gen {
            if listener.asked() {
                return Ok(None);
            }
            token = sampler::greedy(&self.session.feed(&[token])?)?;
        }
        let time = start.elapsed();
        Ok((!listener.asked()).then_some(time))
    }
}

/// SplitMix64: random tokens that are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn tokens(&mut self, count: usize, vocabulary: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() % vocabulary.max(1) as u64) as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_repeatable() {
        let tokens = Random(1).tokens(1000, 50);
        assert_eq!(tokens, Random(1).tokens(1000, 50));
        assert_ne!(tokens, Random(2).tokens(1000, 50));
        assert!(tokens.iter().all(|&t| t < 50));
        assert!((0..50).all(|t| tokens.contains(&t)));
    }

    #[test]
    fn costs_count_the_middle_of_the_test() {
        let traffic = Traffic {
            ternary_bytes: 1000,
            head_bytes: 100,
            kv_position_bytes: 10,
            ternary_macs: 4000,
            ..Traffic::default()
        };
        let of = |n_prompt, n_gen, n_depth| cost(&traffic, Test { n_prompt, n_gen, n_depth });
        assert_eq!(of(0, 1, 0).bytes, 1110.0);
        // Positions 5, 6 and 7 read 6, 7 and 8.
        assert_eq!(of(0, 3, 5).kv_bytes, 70.0);
        assert_eq!(of(5, 3, 0).kv_bytes, 70.0);
        assert_eq!(of(9, 0, 0).integer_macs, 4000.0);
    }

    #[test]
    fn a_test_is_repeated_as_often_as_asked() {
        let model = Model::embedded().unwrap();
        let listener = Listener::new();
        let protocol = Protocol { batch_size: 3, repetitions: 2, warm_up: true, seed: 1 };
        for (n_prompt, n_gen, n_depth) in [(7, 0, 0), (0, 2, 0), (4, 2, 3)] {
            let mut told = 0;
            let test = Test { n_prompt, n_gen, n_depth };
            let times = run_test(&model, test, protocol, &listener, &mut || told += 1).unwrap();
            assert_eq!((times.len(), told), (2, 2));
            assert!(times.iter().all(|t| !t.is_zero()));
        }
    }
}
