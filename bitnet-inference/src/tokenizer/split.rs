//! Cutting text with a regular expression that cannot run away.

use fancy_regex::{Regex, RegexBuilder};

use super::error::{Result, TokenizerError, shortened};

/// GPT-2: contractions, words, numbers and marks, each with a space before it.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: numbers in groups of three.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3, but every digit on its own.
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: as Qwen 2, but words hold the marks on their letters.
pub(crate) const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Falcon: marks, then words as GPT-2, then digits in threes, one pattern after the other.
pub(crate) const FALCON: [&str; 3] = [
    r"[\p{P}\$\+<=>\^~\|`]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    "[0-9][0-9][0-9]",
];

/// Steps that one match of a pattern from a file may take.
const STEPS: usize = 100_000;
/// Steps that one match of a pattern named above may take: these are linear, so only a huge text gets there.
const STEPS_KNOWN: usize = 1 << 28;
/// Longest pattern, in bytes, that a file may bring.
const MAX_PATTERN: usize = 16 * 1024;

/// A compiled pattern with its bound.
#[derive(Debug, Clone)]
pub(crate) struct BoundedRegex {
    regex: Regex,
    limit: usize,
}

impl BoundedRegex {
    /// Compiles a pattern; the error is the compiler's message.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!(
                "the pattern is {} bytes long, more than {MAX_PATTERN}",
                pattern.len()
            ));
        }
        let known = [GPT2, LLAMA3, QWEN2, QWEN35].contains(&pattern) || FALCON.contains(&pattern);
        let limit = if known { STEPS_KNOWN } else { STEPS };
        let regex = RegexBuilder::new(pattern)
            .backtrack_limit(limit)
            .delegate_size_limit(8 << 20)
            .delegate_dfa_size_limit(8 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { regex, limit })
    }

    /// Whether the pattern is GPT-2's, Llama 3's, Qwen 2's or Qwen 3.5's, which end a match after a letter that neither a letter
    /// nor a mark follows and do not look beyond that place.
    pub(crate) fn ends_words(&self) -> bool {
        [GPT2, LLAMA3, QWEN2, QWEN35].contains(&self.regex.as_str())
    }

    /// The byte ranges of all matches that are not empty and of what lies between them, covering the whole text; the
    /// flag marks a match.
    pub(crate) fn cuts(&self, text: &str) -> Result<Vec<(usize, usize, bool)>> {
        let (mut cuts, mut at) = (Vec::new(), 0);
        for (steps, found) in self.regex.find_iter(text).enumerate() {
            let found =
                found.ok().filter(|_| steps <= text.len()).ok_or_else(|| self.too_slow())?;
            let (start, end) = (found.start(), found.end());
            if start == end {
                continue;
            }
            if at < start {
                cuts.push((at, start, false));
            }
            cuts.push((start, end, true));
            at = end;
        }
        if at < text.len() {
            cuts.push((at, text.len(), false));
        }
        Ok(cuts)
    }

    fn too_slow(&self) -> TokenizerError {
        TokenizerError::PatternTooSlow {
            pattern: shortened(self.regex.as_str()),
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
        let regex = BoundedRegex::new(pattern).unwrap();
        regex.cuts(text).unwrap().into_iter().map(|(start, end, _)| &text[start..end]).collect()
    }

    #[test]
    fn llama3_and_qwen2_differ_in_numbers_only() {
        assert_eq!(pieces(LLAMA3, "I'M 12345  x"), ["I", "'M", " ", "123", "45", " ", " x"]);
        assert_eq!(
            pieces(QWEN2, "I'M 12345  x"),
            ["I", "'M", " ", "1", "2", "3", "4", "5", " ", " x"]
        );
        assert_eq!(pieces(GPT2, "I'M 12345  x"), ["I", "'", "M", " 12345", " ", " x"]);
    }

    #[test]
    fn qwen35_keeps_marks_in_their_words() {
        let text = "a\u{301}b \u{915}\u{94d}\u{937} 12";
        let qwen2 = pieces(QWEN2, text);
        assert_eq!(qwen2, ["a", "\u{301}b", " \u{915}", "\u{94d}\u{937}", " ", "1", "2"]);
        assert_eq!(pieces(QWEN35, text), ["a\u{301}b", " \u{915}\u{94d}\u{937}", " ", "1", "2"]);
    }

    #[test]
    fn long_runs_are_cut_in_linear_time() {
        for run in [" ", "\n", "a", "1", "!", "\u{3000}"] {
            let text = run.repeat(200_000);
            let regex = BoundedRegex::new(LLAMA3).unwrap();
            assert_eq!(regex.cuts(&text).unwrap().last().map(|cut| cut.1), Some(text.len()));
        }
    }

    #[test]
    fn a_pattern_that_explodes_is_an_error() {
        let regex = BoundedRegex::new(r"(?:(?=a)a+)+(?!.)b").unwrap();
        assert!(matches!(
            regex.cuts(&"a".repeat(5000)),
            Err(TokenizerError::PatternTooSlow { .. })
        ));
    }
}
