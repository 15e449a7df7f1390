//! Windows of a text's tokens, which are processed independently.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bitnet_inference::Model;
use bitnet_inference::tokenizer::{EncodeOptions, Tokenizer};

use crate::{input_text, output};

/// Default window length in tokens.
pub(super) const WINDOW: usize = 512;

/// A window: its tokens, and the scored positions in it (never 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) tokens: Range<usize>,
    pub(super) scored: Range<usize>,
}

/// The tokens of a text for one model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    ids: Vec<u32>,
    /// The BOS token, if any.
    beginning: Option<u32>,
}

impl Tokens {
    /// Tokenizes `text`.
    pub(super) fn of(model: &Model, text: &str) -> Result<Self> {
        let tokenizer: &Tokenizer = model.tokenizer().with_context(|| {
            format!("{} has no tokenizer; put tokenizer.json next to it", model.facts().file)
        })?;
        let how = EncodeOptions { add_special: true, parse_special: false };
        let first = tokenizer.encode("", how)?.first().copied();
        let beginning = first.filter(|&token| tokenizer.bos_id() == Some(token));
        Ok(Self { ids: tokenizer.encode(text, how)?, beginning })
    }

    /// Returns the number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns the tokens of a window, the first one replaced by BOS.
    pub(super) fn window(&self, window: &Window) -> Vec<u32> {
        let mut read = self.ids[window.tokens.clone()].to_vec();
        if let Some(beginning) = self.beginning {
            read[0] = beginning;
        }
        read
    }
}

/// Returns the length of the longest window in tokens.
pub(super) fn longest(windows: &[Window]) -> usize {
    windows.iter().map(|window| window.tokens.len()).max().unwrap_or(0)
}

/// Reads a file, a pipe or, for `-`, standard input.
pub(super) fn read_text(path: &Path) -> Result<String> {
    input_text::read_text(path, input_text::LONGEST_TEXT)
}

/// Returns the windows over `total` tokens.
pub(super) fn windows(
    total: usize,
    size: usize,
    stride: Option<usize>,
    all: bool,
) -> Result<Vec<Window>> {
    if size < 2 {
        bail!("--ctx-window {size}: at least 2 tokens are needed to predict one from another");
    }
    if let Some(stride) = stride.filter(|&stride| stride >= size) {
        bail!("--stride {stride} must be smaller than the window of {size} tokens");
    }
    if total < if all { 2 } else { size } {
        bail!(
            "the text has {}, but a window takes {size}; use a longer text, a smaller --ctx-window, or --all",
            output::count(total, "token")
        );
    }
    let step = stride.unwrap_or(size);
    let first_scored = match stride {
        _ if all => 1,
        Some(stride) => size - stride,
        // The prediction at size / 2 is of the token after it.
        None => size / 2 + 1,
    };
    let mut out = Vec::new();
    for start in (0..total).step_by(step) {
        let end = (start + size).min(total);
        if end - start == size || (all && end - start > 1) {
            out.push(Window { tokens: start..end, scored: first_scored..end - start });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_scored_unless_told() {
        let windows = windows(21, 8, None, false).unwrap();
        assert_eq!(
            windows,
            [Window { tokens: 0..8, scored: 5..8 }, Window { tokens: 8..16, scored: 5..8 }]
        );
    }

    #[test]
    fn strides_score_each_token_once() {
        let windows = windows(20, 8, Some(4), false).unwrap();
        let scored: Vec<usize> =
            windows.iter().flat_map(|w| w.scored.clone().map(|i| i + w.tokens.start)).collect();
        assert_eq!(scored, (4..20).collect::<Vec<_>>());
    }

    #[test]
    fn all_takes_the_short_last_window() {
        let all = windows(17, 8, None, true).unwrap();
        assert_eq!(all.len(), 2, "a single token predicts nothing");
        assert_eq!(windows(18, 8, None, true).unwrap()[2], Window { tokens: 16..18, scored: 1..2 });
    }

    #[test]
    fn impossible_windows_are_refused() {
        assert!(windows(100, 1, None, false).is_err());
        assert!(windows(7, 8, None, false).is_err());
        assert!(windows(100, 8, Some(8), false).is_err());
    }
}
