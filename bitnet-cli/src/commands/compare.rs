//! `bitnet compare`: the difference between two models' predictions on a text.
//!
//! Both models process the same windows of tokens as in `bitnet perplexity`. The divergence of the second model from
//! the first is, for every scored prediction, `KL(p || q) = sum p ln(p / q)` over the whole vocabulary, in nats.

use anyhow::{Result, bail, ensure};
use bitnet_inference::{LoadOptions, Model, ModelSource, Session};
use serde_json::json;

use super::Outcome;
use super::perplexity::{Score, negative_log_likelihood};
use super::windows::{Tokens, WINDOW, Window, longest, read_text, windows};
use crate::args::{Cli, CompareArgs};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};

/// Tokens per batch, which limits the rows of logits in memory.
const CHUNK: usize = 32;

/// Totals over all scored predictions.
#[derive(Debug, Default)]
struct Found {
    first: Score,
    second: Score,
    /// The divergence of each prediction.
    divergences: Vec<f64>,
    /// Predictions with the same top token.
    same_top: usize,
    /// Sum of squared differences of the correct token's probability.
    probability: Score,
}

/// Compares two models on a text.
pub(crate) fn run(cli: &Cli, args: &CompareArgs, output: &mut Output) -> Result<Outcome> {
    let text = read_text(&args.file)?;
    let options = load::options(cli)?;
    let uncalibrated = LoadOptions { calibration: None, ..options.clone() };
    let first = load::model_at(ModelSource::Path(&args.first), &uncalibrated, cli, output)?;
    let second = load::model_at(ModelSource::Path(&args.second), &options, cli, output)?;
    let tokens = common_tokens(&first, &second, &text)?;
    let shortest = first.config().context.min(second.config().context);
    let size = args.ctx_window.unwrap_or_else(|| WINDOW.min(shortest));
    let windows = windows(tokens.len(), size, None, args.all)?;
    for model in [&first, &second] {
        load::warn_beyond_training(model, longest(&windows), output);
    }

    let listener = Listener::new();
    let mut found = Found::default();
    let mut progress = output.progress("window");
    for (index, window) in windows.iter().enumerate() {
        progress.update(index, windows.len());
        if listener.asked() {
            return Ok(Outcome::Interrupted);
        }
        compare_window(&first, &second, &tokens, window, &mut found)?;
    }
    drop(progress);
    report(args, &found, output)?;
    Ok(Outcome::Done)
}

/// Returns the tokens of the text, which must be equal for both models.
fn common_tokens(first: &Model, second: &Model, text: &str) -> Result<Tokens> {
    let (tokens, others) = (Tokens::of(first, text)?, Tokens::of(second, text)?);
    ensure!(
        tokens == others && first.config().vocab_size == second.config().vocab_size,
        "the two models cut this text into different tokens, so that their predictions can't be compared one by one; \
         `bitnet perplexity` measures each by itself (see bits/byte)"
    );
    Ok(tokens)
}

fn compare_window(
    first: &Model,
    second: &Model,
    tokens: &Tokens,
    window: &Window,
    found: &mut Found,
) -> Result<()> {
    let read = tokens.window(window);
    let (mut ours, mut theirs) =
        (first.session(Some(read.len()))?, second.session(Some(read.len()))?);
    for start in (0..read.len()).step_by(CHUNK) {
        let end = read.len().min(start + CHUNK);
        let a = logits(&mut ours, &read[start..end], start, window)?;
        let b = logits(&mut theirs, &read[start..end], start, window)?;
        for ((next, a), (_, b)) in a.iter().zip(&b) {
            found.add(read[*next], a, b);
        }
    }
    Ok(())
}

/// Returns the logits after those tokens whose successor is scored, with the successor's position.
fn logits(
    session: &mut Session,
    tokens: &[u32],
    start: usize,
    window: &Window,
) -> Result<Vec<(usize, Vec<f32>)>> {
    let mut out = Vec::new();
    session.extend_with_logits(tokens, |index, logits| {
        let next = start + index + 1;
        if window.scored.contains(&next) {
            out.push((next, logits.to_vec()));
        }
    })?;
    Ok(out)
}

impl Found {
    fn add(&mut self, token: u32, first: &[f32], second: &[f32]) {
        let (a, b) =
            (negative_log_likelihood(first, token), negative_log_likelihood(second, token));
        self.first.add(a, 0);
        self.second.add(b, 0);
        self.divergences.push(divergence(first, second));
        self.same_top += usize::from(top(first) == top(second));
        let difference = (-b).exp() - (-a).exp();
        self.probability.add(difference * difference, 0);
    }
}

/// Returns `sum p ln(p / q)` of the softmax distributions of two rows of logits, in nats.
fn divergence(first: &[f32], second: &[f32]) -> f64 {
    let (a, b) = (log_of_sum(first), log_of_sum(second));
    let terms = first.iter().zip(second).map(|(&x, &y)| {
        let (log_p, log_q) = (f64::from(x) - a, f64::from(y) - b);
        let p = log_p.exp();
        if p == 0.0 { 0.0 } else { p * (log_p - log_q) }
    });
    // Rounding may give a small negative number.
    terms.sum::<f64>().max(0.0)
}

/// Returns `ln sum exp(logit)`.
fn log_of_sum(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&l| (f64::from(l) - largest).exp()).sum::<f64>().ln()
}

/// Returns the token with the largest logit, the first among equals.
fn top(logits: &[f32]) -> usize {
    let best = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (0..logits.len()).fold(0, best)
}

fn report(args: &CompareArgs, found: &Found, output: &mut Output) -> Result<()> {
    let mut sorted = found.divergences.clone();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    ensure!(count > 0, "no prediction was scored; use a longer text");
    let mut score = Score::default();
    sorted.iter().for_each(|&kl| score.add(kl, 0));
    let (mean, error) = score.mean();
    if !mean.is_finite() {
        bail!("a model returned NaN logits; run `bitnet verify` on both");
    }
    let at = |share: f64| sorted[((count - 1) as f64 * share).round() as usize];
    let agreement = found.same_top as f64 / count as f64;
    let agreement_error = (agreement * (1.0 - agreement) / count as f64).sqrt();
    let (first, second) = (found.first.mean().0.exp(), found.second.mean().0.exp());
    let rms = found.probability.mean().0.sqrt();
    if output.json {
        return output.json(&json!({
            "first": args.first.display().to_string(),
            "second": args.second.display().to_string(),
            "file": args.file.display().to_string(),
            "tokens_scored": count,
            "perplexity_first": first,
            "perplexity_second": second,
            "kl_mean": mean,
            "kl_standard_error": error,
            "kl_median": at(0.5),
            "kl_99": at(0.99),
            "kl_max": sorted[count - 1],
            "top1_agreement": agreement,
            "top1_standard_error": agreement_error,
            "probability_rms_difference": rms,
        }));
    }
    let plus_minus = error.map_or_else(String::new, |e| format!(" ± {e:.2e}"));
    output.line(&format!(
        "perplexity       {first:.4} and {second:.4} ({:+.3} %)",
        100.0 * (second / first - 1.0)
    ))?;
    output.line(&format!("KL divergence    {mean:.3e}{plus_minus} nats per token"))?;
    output.line(&format!(
        "                 median {:.3e}, 99 % below {:.3e}, largest {:.3e}",
        at(0.5),
        at(0.99),
        sorted[count - 1]
    ))?;
    output.line(&format!(
        "same top token   {:.3} % ± {:.3}",
        100.0 * agreement,
        100.0 * agreement_error
    ))?;
    output.line(&format!(
        "probability      differs by {:.3} points (rms) for the correct token",
        100.0 * rms
    ))?;
    output.note(&format!("[{} scored]", output::count(count, "token")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_follows_its_formula() {
        let p: [f64; 3] = [0.5, 0.25, 0.25];
        let q: [f64; 3] = [0.25, 0.25, 0.5];
        let logits = |p: &[f64]| p.iter().map(|p| (p.ln() + 3.0) as f32).collect::<Vec<_>>();
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((divergence(&logits(&p), &logits(&q)) - expected).abs() < 1e-6);
        assert_eq!(divergence(&logits(&p), &logits(&p)), 0.0);
        // Probabilities zero and one.
        assert_eq!(divergence(&[0.0, f32::NEG_INFINITY], &[0.0, -1.0]), (1.0 + (-1f64).exp()).ln());
    }

    #[test]
    fn the_first_of_equals_is_on_top() {
        assert_eq!(top(&[1.0, 2.0, 2.0, -1.0]), 1);
        assert_eq!(top(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
    }
}
