//! Sampling options and stop conditions.

use clap::Args;

use super::values::{number, token_limit, top_k};

/// Sampling options and stop conditions. Unset values default to those suggested by the model's authors, if
/// any.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Maximum number of generated tokens; -1 = until the text or the context ends
    #[arg(
        short = 'n',
        long,
        aliases = ["n-predict", "predict", "max-new-tokens"],
        value_name = "N",
        default_value = "256",
        value_parser = token_limit,
        allow_negative_numbers = true
    )]
    pub(crate) max_tokens: usize,
    /// Temperature; 0 = greedy [default: the model's, else 0.7]
    #[arg(
        long,
        alias = "temperature",
        value_name = "T",
        value_parser = number,
        allow_negative_numbers = true
    )]
    pub(crate) temp: Option<f32>,
    /// Sample from the K most likely tokens; 0 = all [default: the model's, else all]
    #[arg(long, value_name = "K", value_parser = top_k, allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Sample from the smallest set of tokens with total probability P [default: the model's, else 0.9]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Exclude tokens with less than P times the probability of the most likely one
    #[arg(
        long,
        value_name = "P",
        value_parser = number,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) min_p: Option<f32>,
    /// Locally typical sampling; 1 = off
    #[arg(
        long,
        alias = "typical-p",
        value_name = "P",
        value_parser = number,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) typical: Option<f32>,
    /// Penalty on each of the last 64 tokens; 1 = none
    #[arg(
        long,
        alias = "repetition-penalty",
        value_name = "X",
        value_parser = number,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) repeat_penalty: Option<f32>,
    /// Penalty per occurrence of a token in the last 64; 0 = none
    #[arg(
        long,
        value_name = "X",
        value_parser = number,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) frequency_penalty: Option<f32>,
    /// Penalty on tokens that occur in the last 64; 0 = none
    #[arg(
        long,
        value_name = "X",
        value_parser = number,
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) presence_penalty: Option<f32>,
    /// Add V to the logit of token ID (-inf excludes it); may be repeated
    #[arg(long, value_name = "ID=V", value_parser = logit_bias, hide_short_help = true)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Stop at this text and omit it; may be repeated
    #[arg(long, short = 'r', alias = "reverse-prompt", value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Continue after the model's end tokens
    #[arg(long, hide_short_help = true)]
    pub(crate) ignore_eos: bool,
}

/// Parses `ID=V`, and llama.cpp's `ID+V` and `ID-V`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = match text.split_once('=') {
        Some(parts) => parts,
        None => text
            .find(['+', '-'])
            .map(|at| text.split_at(at))
            .ok_or("write ID=V, for example 42=-5")?,
    };
    let id = id.trim().parse().map_err(|_| format!("{id:?} is not a token id"))?;
    let value: f32 = value.trim().parse().map_err(|_| format!("{value:?} is not a number"))?;
    Ok((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logit_biases_are_read() {
        assert_eq!(logit_bias("3=-inf"), Ok((3, f32::NEG_INFINITY)));
        assert_eq!(logit_bias("3=1.5"), Ok((3, 1.5)));
        assert_eq!((logit_bias("3+1"), logit_bias("3-1.5")), (Ok((3, 1.0)), Ok((3, -1.5))));
        for wrong in ["3", "x=1", "3=y", "-1=2"] {
            assert!(logit_bias(wrong).is_err(), "{wrong}");
        }
    }
}
