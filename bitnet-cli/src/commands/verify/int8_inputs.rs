//! What `--activations int8` would change in a model whose ternary layers take their inputs as they are: the divergence of
//! its predictions, measured on a sentence.

use anyhow::Result;
use bitnet_core::backend::ActivationPrecision;
use bitnet_inference::models::{FeedForward, GatedUnit, Layer, Linear};
use bitnet_inference::{LoadOptions, Model, ModelSource};
use serde_json::{Value, json};

use super::{TEXT, sampler};
use crate::args::Cli;
use crate::load;
use crate::output::Output;

/// Tokens for a model without a tokenizer.
const TOKENS: usize = 24;

/// The divergence of the predictions with inputs of 8 bits from those with inputs as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Deviation {
    /// Mean Kullback-Leibler divergence of a token's probabilities, in nats.
    pub(super) divergence: f64,
    /// Positions with the same likeliest token.
    pub(super) same_best: usize,
    pub(super) positions: usize,
}

impl Deviation {
    /// Measures it; `None` for a model without a head, whose inputs are quantised anyway, or that can't run with inputs of 8 bits.
    pub(super) fn of(
        model: &Model,
        source: ModelSource<'_>,
        options: &LoadOptions,
        cli: &Cli,
        output: &mut Output,
    ) -> Result<Option<Self>> {
        let reads_floats = |unit: &GatedUnit| {
            matches!(unit.down.weight, Linear::Ternary(_, ActivationPrecision::Float))
        };
        let is_float = |layer: &Layer| match &layer.feed_forward {
            FeedForward::Dense(unit) => reads_floats(unit),
            FeedForward::Mixture(mixture) => mixture.experts.iter().all(reads_floats),
        };
        let is_asked = options.activations.is_none() && model.config().has_head;
        if !is_asked || !model.decoder().layers.iter().all(is_float) {
            return Ok(None);
        }
        let tokens = match model.tokenizer() {
            Some(_) => model.encode_prompt(TEXT)?,
            None => super::tokens(model, TOKENS)?,
        };
        let tokens = &tokens[..tokens.len().min(model.config().context)];
        let int8 = Some(ActivationPrecision::Int8);
        let options = LoadOptions { activations: int8, ..options.clone() };
        let Ok(other) = load::model_at(source, &options, cli, output) else { return Ok(None) };
        let mut session = model.session(Some(tokens.len()))?;
        let mut expected = Vec::new();
        session.extend_with_logits(tokens, |_, row| expected.push(row.to_vec()))?;
        let (mut sum, mut same_best) = (0.0, 0);
        let mut session = other.session(Some(tokens.len()))?;
        session.extend_with_logits(tokens, |row, logits| {
            sum += divergence(&expected[row], logits);
            let best = [sampler::greedy(&expected[row]), sampler::greedy(logits)];
            same_best += usize::from(matches!(best, [Ok(a), Ok(b)] if a == b));
        })?;
        let positions = tokens.len();
        Ok(Some(Self { divergence: sum / positions as f64, same_best, positions }))
    }

    /// The line of the report.
    pub(super) fn line(self) -> String {
        let Self { divergence, same_best, positions } = self;
        format!(
            "with --activations int8 predictions diverge by {divergence:.1e} nats a token; same top token at {same_best} \
             of {positions}"
        )
    }

    pub(super) fn to_json(self) -> Value {
        json!({
            "divergence": self.divergence,
            "same_best_token": self.same_best,
            "positions": self.positions,
        })
    }
}

/// `Σ p * ln(p / q)` of the softmaxes of two rows of logits.
fn divergence(expected: &[f32], got: &[f32]) -> f64 {
    let normaliser = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (p_sum, q_sum) = (normaliser(expected), normaliser(got));
    let terms = expected.iter().zip(got).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
        p.exp() * (p - q)
    });
    terms.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_softmaxes() {
        assert_eq!(divergence(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 0.0);
        assert!(divergence(&[1.0, 2.0], &[4.0, 5.0]).abs() < 1e-12, "logits may be shifted");
        // p = (1/2, 1/2), q = (1/4, 3/4)
        let expected = 0.5 * (2f64.ln() + (2.0f64 / 3.0).ln());
        assert!((divergence(&[0.0, 0.0], &[0.0, 3f32.ln()]) - expected).abs() < 1e-7);
    }
}
