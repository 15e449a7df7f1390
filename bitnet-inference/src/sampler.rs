//! Samplers: from logits and the tokens before to the next token.
//!
//! The chain, in this order (the order of llama.cpp's defaults): the mask of a constraint, logit bias, penalties; then, unless greedy,
//! top-k, typical, top-p, min-p on the softmax of the logits; temperature; draw. A temperature of zero is greedy:
//! the largest logit wins, the lowest id among equals.
//!
//! [`Sampler::plan_query`] names the few logits that suffice, which holds while top-k is the first filter and no filter
//! needs all logits: one that comes earlier, or needs a mean or a deviation, makes it return `None`, unless greedy.

use std::cmp::Ordering;
use std::collections::HashMap;

use bitnet_core::backend::top_logits::{LogitQuery, TokenLogit, TopLogits};
use bitnet_core::rng::SplitMix64;
use bitnet_core::simd::largest_magnitude;

use crate::constraint::Matcher;
use crate::generate::GenerateOptions;
use crate::{InferenceError, Result};

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerConfig {
    /// Divides the logits before the draw; 0 is greedy.
    pub temperature: f32,
    /// Keep the `k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than this fraction of the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens whose information is nearest to the entropy until their probability reaches this; 1 keeps
    /// all (locally typical sampling).
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen lately (CTRL); 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted once for each time a token was seen lately.
    pub frequency_penalty: f32,
    /// Subtracted once from tokens seen lately.
    pub presence_penalty: f32,
    /// Number of last tokens that the penalties count.
    pub penalty_window: usize,
    /// Added to the logits of these tokens; `-inf` forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for SamplerConfig {
    /// Greedy, without penalties.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplerConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] naming the first value that is out of range.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let checks: [(&'static str, f32, bool, &'static str); 7] = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0,
                "a finite number of at least 0",
            ),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "typical_p",
                self.typical_p,
                self.typical_p > 0.0 && self.typical_p <= 1.0,
                "above 0, at most 1",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("frequency_penalty", self.frequency_penalty, true, "a finite number"),
            ("presence_penalty", self.presence_penalty, true, "a finite number"),
        ];
        for (parameter, value, valid, problem) in checks {
            if !(valid && value.is_finite()) {
                return Err(InferenceError::Parameter {
                    parameter,
                    value: value.to_string(),
                    problem,
                });
            }
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab_size || bias.is_nan() || bias == f32::INFINITY {
                return Err(InferenceError::Parameter {
                    parameter: "logit_bias",
                    value: format!("{token}:{bias}"),
                    problem: "a token of the vocabulary and a number below infinity",
                });
            }
        }
        Ok(())
    }
}

/// A sampler with its random state, and the constraint of its text, if there is one.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    random: SplitMix64,
    matcher: Option<Box<Matcher>>,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// Those of [`SamplerConfig::validate`].
    pub fn new(config: SamplerConfig, vocab_size: usize) -> Result<Self> {
        config.validate(vocab_size)?;
        let random = SplitMix64::new(config.seed);
        Ok(Self { config, random, matcher: None })
    }

    /// A sampler for one text that is written with `options`.
    ///
    /// # Errors
    /// Those of [`SamplerConfig::validate`].
    pub(crate) fn for_text(options: &GenerateOptions, vocab_size: usize) -> Result<Self> {
        let sampler = Self::new(options.sampler.clone(), vocab_size)?;
        let Some(grammar) = &options.constraint else { return Ok(sampler) };
        let matcher = grammar.matcher();
        Ok(sampler.with_matcher(if options.ignore_end { matcher.ignoring_end() } else { matcher }))
    }

    /// A sampler that chooses only tokens that `matcher` allows. Tell it which token was written by
    /// [`Sampler::accept`].
    #[must_use]
    pub fn with_matcher(self, matcher: Matcher) -> Self {
        Self { matcher: Some(Box::new(matcher)), ..self }
    }

    /// Takes the token that was written. Returns whether the constraint lets nothing follow it; never without one.
    ///
    /// # Errors
    /// Those of [`Matcher::accept`].
    pub fn accept(&mut self, token: u32) -> Result<bool> {
        self.matcher.as_mut().map_or(Ok(false), |matcher| matcher.accept(token))
    }

    /// Chooses a token from `logits` (`[vocabulary]`, changed in place by bias and penalties); `history` is what
    /// was read and written so far, oldest first. A logit of minus infinity forbids its token.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] if a logit is NaN or infinity, or if no token has a finite one.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        check_all(logits)?;
        if let Some(matcher) = &self.matcher {
            matcher.mask().apply(logits);
        }
        self.adjust(history, &mut |token, change| {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = change(*logit);
            }
        });
        self.choose(numbered(logits))
    }

    /// Returns the logits that [`Sampler::sample_top`] needs to choose what [`Sampler::sample`] chooses; `None` if all.
    pub fn plan_query(&self, history: &[u32]) -> Option<LogitQuery> {
        if self.matcher.is_some() {
            // The largest logits may all be those of tokens that are not allowed.
            return None;
        }
        let largest = match (self.config.temperature == 0.0, self.config.top_k) {
            (true, _) => 1,
            (false, 0) => return None,
            (false, k) => k,
        };
        let mut extra_tokens: Vec<u32> = Vec::new();
        self.adjust(history, &mut |token, _| extra_tokens.push(token));
        extra_tokens.sort_unstable();
        extra_tokens.dedup();
        // Among so many there are `largest` that are not changed.
        Some(LogitQuery { count: largest.saturating_add(extra_tokens.len()), extra_tokens })
    }

    /// Chooses what [`Sampler::sample`] chooses, from the logits
    /// that [`Sampler::plan_query`] names for the same history.
    ///
    /// # Errors
    /// Those of [`Sampler::sample`].
    pub fn sample_top(&mut self, found: &TopLogits, history: &[u32]) -> Result<u32> {
        let mut known: Vec<TokenLogit> =
            found.top.iter().chain(&found.extra_tokens).copied().collect();
        known.sort_unstable_by_key(|t| t.token);
        known.dedup_by_key(|t| t.token);
        check_numbers(found.non_finite.iter().chain(&known).map(|t| (t.token, t.logit)))?;
        self.adjust(history, &mut |token, change| {
            if let Ok(index) = known.binary_search_by_key(&token, |t| t.token) {
                known[index].logit = change(known[index].logit);
            }
        });
        self.choose(known.into_iter().map(|t| (t.token, t.logit)))
    }

    /// Gives each change that bias and penalties make to `change`, with its token.
    fn adjust(&self, history: &[u32], change: &mut Change<'_>) {
        for &(token, bias) in &self.config.logit_bias {
            change(token, &|logit| logit + bias);
        }
        penalise(history, &self.config, change);
    }

    /// A token among `logits`, in the order of their tokens.
    fn choose(&mut self, logits: impl Iterator<Item = (u32, f32)>) -> Result<u32> {
        if self.config.temperature == 0.0 {
            return largest(logits);
        }
        let candidates = candidates(logits, &self.config)?;
        Ok(draw(&candidates, self.config.temperature, self.random.unit()))
    }
}

/// Takes a token and what becomes of its logit.
type Change<'a> = dyn FnMut(u32, &dyn Fn(f32) -> f32) + 'a;

/// Logits with their tokens.
fn numbered(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> + '_ {
    logits.iter().enumerate().map(|(token, &logit)| (token as u32, logit))
}

/// The token with the largest logit; the lowest id among equals.
///
/// # Errors
/// [`InferenceError::Parameter`] if a logit is NaN or infinity, or if no token has a finite one.
pub fn greedy(logits: &[f32]) -> Result<u32> {
    check_all(logits)?;
    largest(numbered(logits))
}

/// Checks all logits as [`check_numbers`] does, one by one only if some are not finite.
fn check_all(logits: &[f32]) -> Result<()> {
    if largest_magnitude(logits).is_finite() { Ok(()) } else { check_numbers(numbered(logits)) }
}

/// Returns an error if a logit is NaN or infinite: the others can't be trusted then.
fn check_numbers(mut logits: impl Iterator<Item = (u32, f32)>) -> Result<()> {
    match logits.find(|(_, logit)| logit.is_nan() || *logit == f32::INFINITY) {
        None => Ok(()),
        Some((token, logit)) => Err(InferenceError::Parameter {
            parameter: "logits",
            value: format!("{logit} for token {token}"),
            problem: "numbers below infinity",
        }),
    }
}

/// Returns what [`greedy`] returns, for logits in the order of their tokens.
fn largest(logits: impl Iterator<Item = (u32, f32)>) -> Result<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, logit) in logits {
        if logit.is_finite() && best.is_none_or(|(_, b)| logit > b) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token).ok_or_else(no_candidate)
}

fn no_candidate() -> InferenceError {
    InferenceError::Parameter {
        parameter: "logits",
        value: "no finite value".into(),
        problem: "the model gave no usable output, or every token is forbidden by the bias or the constraint",
    }
}

/// Gives the penalty of each token that was seen lately to `change`.
fn penalise(history: &[u32], config: &SamplerConfig, change: &mut Change<'_>) {
    if config.repetition_penalty == 1.0
        && config.frequency_penalty == 0.0
        && config.presence_penalty == 0.0
    {
        return;
    }
    let window = &history[history.len().saturating_sub(config.penalty_window)..];
    let mut counts: HashMap<u32, f32> = HashMap::new();
    for &token in window {
        *counts.entry(token).or_default() += 1.0;
    }
    for (token, count) in counts {
        change(token, &|logit| {
            let repeated = if logit > 0.0 {
                logit / config.repetition_penalty
            } else {
                logit * config.repetition_penalty
            };
            repeated - (count * config.frequency_penalty + config.presence_penalty)
        });
    }
}

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
    probability: f64,
}

/// The order of candidates: the largest logit first, the lowest id among equals.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The tokens left after top-k, typical, top-p and min-p, most probable first.
fn candidates(
    logits: impl Iterator<Item = (u32, f32)>,
    config: &SamplerConfig,
) -> Result<Vec<Candidate>> {
    let mut candidates: Vec<Candidate> = logits
        .filter(|(_, logit)| logit.is_finite())
        .map(|(token, logit)| Candidate { token, logit, probability: 0.0 })
        .collect();
    if candidates.is_empty() {
        return Err(no_candidate());
    }
    if config.top_k > 0 && config.top_k < candidates.len() {
        candidates.select_nth_unstable_by(config.top_k - 1, by_logit);
        candidates.truncate(config.top_k);
    }
    candidates.sort_unstable_by(by_logit);
    normalise(&mut candidates);
    if config.typical_p < 1.0 {
        apply_typical(&mut candidates, f64::from(config.typical_p));
    }
    if config.top_p < 1.0 {
        keep_prefix(&mut candidates, f64::from(config.top_p));
    }
    if config.min_p > 0.0 {
        let floor = f64::from(config.min_p) * candidates[0].probability;
        candidates.retain(|c| c.probability >= floor);
    }
    Ok(candidates)
}

/// Softmax of the logits of candidates that are sorted by them.
fn normalise(candidates: &mut [Candidate]) {
    let largest = f64::from(candidates[0].logit);
    let mut sum = 0.0;
    for c in candidates.iter_mut() {
        c.probability = (f64::from(c.logit) - largest).exp();
        sum += c.probability;
    }
    for c in candidates {
        c.probability /= sum;
    }
}

/// Keeps the shortest prefix whose probability reaches `limit`, then restores the order by logits and probabilities
/// that sum to one.
fn keep_prefix(candidates: &mut Vec<Candidate>, limit: f64) {
    let mut sum = 0.0;
    let count = candidates.iter().position(|c| {
        sum += c.probability;
        sum >= limit
    });
    candidates.truncate(count.map_or(candidates.len(), |index| index + 1));
    candidates.sort_by(by_logit);
    normalise(candidates);
}

/// Locally typical sampling (Meister et al., 2022).
fn apply_typical(candidates: &mut Vec<Candidate>, limit: f64) {
    let information = |c: &Candidate| -c.probability.max(f64::MIN_POSITIVE).ln();
    let entropy: f64 = candidates.iter().map(|c| c.probability * information(c)).sum();
    candidates.sort_by(|a, b| {
        (information(a) - entropy)
            .abs()
            .total_cmp(&(information(b) - entropy).abs())
            .then(a.token.cmp(&b.token))
    });
    keep_prefix(candidates, limit);
}

/// Draws from the softmax of `logit / temperature` with a uniform number in `[0, 1)`.
fn draw(candidates: &[Candidate], temperature: f32, uniform: f64) -> u32 {
    let largest = f64::from(candidates[0].logit);
    let weight = |c: &Candidate| ((f64::from(c.logit) - largest) / f64::from(temperature)).exp();
    let total: f64 = candidates.iter().map(weight).sum();
    let mut left = uniform * total;
    for c in candidates {
        left -= weight(c);
        if left < 0.0 {
            return c.token;
        }
    }
    candidates[candidates.len() - 1].token
}

#[cfg(test)]
mod tests;
