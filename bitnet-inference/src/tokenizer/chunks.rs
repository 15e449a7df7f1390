//! Cutting a long text into chunks whose ids, one after the other, are those of the whole text.
//!
//! A cut stands between a letter and a space that a letter follows (all of them ASCII). The patterns that cut text into
//! words never match across such a place and do not look beyond it. Where a model merges across spaces, a cut needs
//! besides that no token holds this letter with a space after it: then no merge can reach across.

use std::collections::HashSet;

/// Bytes after which a text is cut at the next place where that is safe.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The letters after which a text can't be cut.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined(HashSet<char>);

impl Joined {
    /// Finds the letters that some token holds with `space` after them.
    pub(crate) fn in_tokens<'t>(tokens: impl Iterator<Item = &'t str>, space: char) -> Self {
        let mut joined = HashSet::new();
        for token in tokens {
            let pairs = token.chars().zip(token.chars().skip(1));
            joined.extend(pairs.filter(|&(_, second)| second == space).map(|(first, _)| first));
        }
        Self(joined)
    }
}

/// The chunks of a text, all of it in order; `space` is how the text spells a space.
pub(crate) fn chunks<'t>(
    text: &'t str,
    space: char,
    joined: &Joined,
) -> impl Iterator<Item = &'t str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (chunk, after) = rest.split_at(cut(rest, space, joined).unwrap_or(rest.len()));
        rest = after;
        Some(chunk)
    })
}

/// The first safe place after [`CHUNK`] bytes.
fn cut(text: &str, space: char, joined: &Joined) -> Option<usize> {
    let start = (CHUNK..CHUNK + 4).find(|&at| text.is_char_boundary(at))?;
    let tail = text.get(start..)?;
    for (at, _) in tail.match_indices(space) {
        let before = tail.get(..at)?.chars().next_back();
        let after = tail.get(at + space.len_utf8()..)?.chars().next();
        let letter = |letter: Option<char>| letter.filter(char::is_ascii_alphabetic);
        if let (Some(before), Some(_)) = (letter(before), letter(after))
            && !joined.0.contains(&before)
        {
            return Some(start + at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_text_and_cut_between_words_only() {
        let text = "one two, three.  four\nfive é six ".repeat(20_000);
        let parts: Vec<&str> = chunks(&text, ' ', &Joined::default()).collect();
        assert_eq!(parts.concat(), text);
        assert!(parts.len() > 5 && parts.iter().all(|part| part.len() < CHUNK + 64));
        for pair in parts.windows(2) {
            assert!(pair[0].ends_with(|c: char| c.is_ascii_alphabetic()));
            assert!(pair[1].starts_with(' '));
        }
    }

    #[test]
    fn letters_that_a_token_joins_to_a_space_are_not_cut() {
        let joined = Joined::in_tokens(["e▁", "▁x", "wo▁t"].into_iter(), '▁');
        let text = "one▁two▁".repeat(20_000);
        assert_eq!(chunks(&text, '▁', &joined).count(), 1);
        let text = "one▁and▁".repeat(20_000);
        assert!(chunks(&text, '▁', &joined).skip(1).all(|part| part.starts_with("▁one")));
    }
}
