//! How likely a model finds a plain English sentence: a model whose weights are damaged, or stored in a rotated basis that
//! its file does not mention, runs without an error and finds it no likelier than chance.

use anyhow::Result;
use bitnet_inference::Model;

use super::TEXT;

/// The share of chance from which on a sentence is no likelier than chance. Trained models give it a third or less.
const NO_BETTER: f64 = 0.8;

/// Tokens from which on a vocabulary is that of a model of general text. Smaller models may never have seen such words.
const GENERAL_VOCABULARY: usize = 16_000;

/// What a model makes of the sentence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Likelihood {
    /// The mean of `-ln(probability)` over the tokens after the first.
    pub(super) nats: f64,
    /// The same if all tokens of the vocabulary were as likely as each other.
    pub(super) chance: f64,
}

impl Likelihood {
    /// Measures it; `None` for a model without a head or a tokenizer, with a small vocabulary, or whose context is shorter than the
    /// sentence.
    pub(super) fn of(model: &Model) -> Result<Option<Self>> {
        let cannot_read = model.tokenizer().is_none() || !model.config().has_head;
        if cannot_read || model.config().vocab_size < GENERAL_VOCABULARY {
            return Ok(None);
        }
        let tokens = model.encode_prompt(TEXT)?;
        if tokens.len() < 2 || tokens.len() > model.config().context {
            return Ok(None);
        }
        let (mut sum, count) = (0.0, tokens.len() - 1);
        let mut session = model.session(Some(tokens.len()))?;
        session.extend_with_logits(&tokens[..count], |row, logits| {
            sum += surprise(logits, tokens[row + 1] as usize);
        })?;
        let chance = (model.config().vocab_size as f64).ln();
        Ok(Some(Self { nats: sum / count as f64, chance }))
    }

    /// A note, if the sentence is no likelier than chance.
    pub(super) fn note(self, is_rotated: bool) -> Option<String> {
        let Self { nats, chance } = self;
        if nats < NO_BETTER * chance {
            return None;
        }
        let rotated = if is_rotated {
            ""
        } else {
            ", or stored in a rotated basis without the keys `prism.hadamard.*` that say so"
        };
        Some(format!(
            "an English sentence is no likelier than chance ({nats:.1} nats a token; chance is {chance:.1}): the weights \
             are untrained, damaged{rotated}"
        ))
    }
}

/// `-ln` of the probability of a token.
fn surprise(logits: &[f32], token: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    sum.ln() - f64::from(logits[token] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_no_likelier_than_chance_is_noted() {
        let trained = Likelihood { nats: 3.5, chance: 12.4 };
        assert_eq!(trained.note(false), None);
        let garbage = Likelihood { nats: 11.9, ..trained };
        assert!(garbage.note(false).unwrap().contains("prism.hadamard"));
        assert!(!garbage.note(true).unwrap().contains("prism.hadamard"));
    }

    #[test]
    fn models_of_a_few_words_are_not_asked() {
        assert_eq!(Likelihood::of(&Model::embedded().unwrap()).unwrap(), None);
    }

    #[test]
    fn surprise_is_the_logarithm_of_the_softmax() {
        assert!((surprise(&[0.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
        let two = surprise(&[1.0, 3.0], 1);
        assert!((two - (1.0 + (-2f64).exp()).ln()).abs() < 1e-12);
    }
}
