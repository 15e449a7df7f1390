//! `bitnet perplexity`: the perplexity of a model on a text.
//!
//! The text is split into windows, which are processed independently. The first token of each is replaced by BOS if the
//! model has one. The scored predictions of a window:
//!
//! | option | stride | scored |
//! |---|---|---|
//! | (none) | one window | the second half, as in llama.cpp's `perplexity` |
//! | `--stride N` | N tokens | the last N tokens |
//! | `--all` | one window | every token except the first, also of a shorter last window |

use anyhow::{Result, bail};
use bitnet_inference::Model;
use serde_json::json;

use super::Outcome;
use super::windows::{Tokens, WINDOW, Window, longest, read_text, windows};
use crate::args::{Cli, PerplexityArgs};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};

/// Sums of negative log-likelihoods, in nats.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    tokens: usize,
    bytes: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Score {
    pub(super) fn add(&mut self, nats: f64, bytes: usize) {
        self.tokens += 1;
        self.bytes += bytes;
        self.sum += nats;
        self.sum_of_squares += nats * nats;
    }

    /// Nats per token, and the standard error of that mean; `None` for the error of a single token.
    pub(super) fn mean(&self) -> (f64, Option<f64>) {
        let n = self.tokens as f64;
        let mean = self.sum / n;
        let variance = (self.sum_of_squares / n - mean * mean).max(0.0);
        (mean, (self.tokens > 1).then(|| (variance / (n - 1.0)).sqrt()))
    }
}

/// Measures and prints the perplexity of a text.
pub(crate) fn run(cli: &Cli, args: &PerplexityArgs, output: &mut Output) -> Result<Outcome> {
    let text = read_text(&args.file)?;
    let model = load::model(cli, output)?;
    let tokens = Tokens::of(&model, &text)?;
    let size = args.ctx_window.unwrap_or_else(|| WINDOW.min(model.config().context));
    let windows = windows(tokens.len(), size, args.stride, args.all)?;
    load::warn_beyond_training(&model, longest(&windows), output);

    let listener = Listener::new();
    let mut score = Score::default();
    let mut progress = output.progress("window");
    for (index, window) in windows.iter().enumerate() {
        progress.update(index, windows.len());
        if listener.asked() {
            return Ok(Outcome::Interrupted);
        }
        add_window(&model, &tokens, window, &mut score)?;
    }
    drop(progress);
    report(args, &model, size, windows.len(), tokens.len(), &score, output)?;
    Ok(Outcome::Done)
}

fn add_window(model: &Model, tokens: &Tokens, window: &Window, score: &mut Score) -> Result<()> {
    let read = tokens.window(window);
    let mut session = model.session(Some(read.len()))?;
    session.extend_with_logits(&read, |index, logits| {
        let next = index + 1;
        if window.scored.contains(&next) {
            let token = read[next];
            let text = model.tokenizer().and_then(|tokenizer| tokenizer.token_bytes(token).ok());
            let bytes = text.map_or(0, |bytes| bytes.len());
            score.add(negative_log_likelihood(logits, token), bytes);
        }
    })?;
    Ok(())
}

/// Returns `-ln softmax(logits)[token]`.
pub(super) fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - largest)
}

fn report(
    args: &PerplexityArgs,
    model: &Model,
    window: usize,
    windows: usize,
    tokens: usize,
    score: &Score,
    output: &mut Output,
) -> Result<()> {
    let (nats, error) = score.mean();
    if !nats.is_finite() {
        bail!("{}: the model returned NaN logits; run `bitnet verify` on it", model.facts().file);
    }
    let perplexity = nats.exp();
    let error_of_perplexity = error.map(|e| e * perplexity);
    let bits_per_byte =
        (score.bytes > 0).then(|| score.sum / std::f64::consts::LN_2 / score.bytes as f64);
    let how = match args.stride {
        _ if args.all => "every token scored".to_owned(),
        Some(stride) => format!("moved by {stride}, the last {stride} of each scored"),
        None => "the second half of each scored".to_owned(),
    };
    if output.json {
        return output.json(&json!({
            "model": model.facts().file,
            "file": args.file.display().to_string(),
            "perplexity": perplexity,
            "standard_error": error_of_perplexity,
            "nats_per_token": nats,
            "nats_standard_error": error,
            "bits_per_byte": bits_per_byte,
            "tokens": tokens,
            "tokens_scored": score.tokens,
            "bytes_scored": score.bytes,
            "window": window,
            "windows": windows,
            "stride": args.stride,
            "all": args.all,
        }));
    }
    let plus_minus = |error: Option<f64>| error.map_or_else(String::new, |e| format!(" ± {e:.4}"));
    output.line(&format!("perplexity   {perplexity:.4}{}", plus_minus(error_of_perplexity)))?;
    output.line(&format!("nats/token   {nats:.4}{}", plus_minus(error)))?;
    let bits = bits_per_byte.map_or_else(|| "unavailable".to_owned(), |b| format!("{b:.4}"));
    output.line(&format!("bits/byte    {bits}"))?;
    output.note(&format!(
        "[{} of {tokens} scored, in {} of {window}; {how}]",
        output::count(score.tokens, "token"),
        output::count(windows, "window"),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_and_their_mean_follow_the_formulas() {
        let nats = negative_log_likelihood(&[0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], 1);
        assert!((nats - 4f64.ln()).abs() < 1e-6, "{nats}");
        let mut score = Score::default();
        score.add(1.0, 1);
        score.add(3.0, 1);
        let (mean, error) = score.mean();
        assert_eq!(mean, 2.0);
        assert_eq!(error, Some(1.0), "variance 1 over n - 1 = 1");
    }
}
