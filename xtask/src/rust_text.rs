//! Rust source split into code and comments, line by line.

/// The lines of a Rust source, split into code and comments. Both have one entry per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RustText {
    /// The code without comments; every character inside a string or character literal is a `"`.
    pub code: Vec<String>,
    /// The comments, with their `//`, `///`, `//!` or `/*`.
    pub comments: Vec<String>,
}

/// The state of the scanner.
enum State {
    Code,
    LineComment,
    /// Inside nested block comments of this depth.
    BlockComment(usize),
    /// Inside `"…"`, where a backslash escapes.
    Text,
    /// Inside `r##"…"##` with this many hashes.
    RawText(usize),
}

impl RustText {
    /// Splits `source`. Never fails: invalid source is split as far as its quotes allow.
    pub fn new(source: &str) -> Self {
        let chars: Vec<char> = source.chars().collect();
        let mut split = Self { code: vec![String::new()], comments: vec![String::new()] };
        let mut state = State::Code;
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            if c == '\n' {
                split.code.push(String::new());
                split.comments.push(String::new());
                if matches!(state, State::LineComment) {
                    state = State::Code;
                }
                at += 1;
                continue;
            }
            at += split.step(
                &mut state,
                &chars[at..],
                at.checked_sub(1).and_then(|i| chars.get(i)).copied(),
            );
        }
        if source.ends_with('\n') {
            split.code.pop();
            split.comments.pop();
        }
        split
    }

    /// Scans the start of `rest` and returns the number of consumed characters.
    fn step(&mut self, state: &mut State, rest: &[char], before: Option<char>) -> usize {
        match state {
            State::Code => self.step_code(state, rest, before),
            State::LineComment => self.comment(rest, 1),
            State::BlockComment(depth) => {
                if rest.starts_with(&['/', '*']) {
                    *depth += 1;
                    self.comment(rest, 2)
                } else if rest.starts_with(&['*', '/']) {
                    *depth -= 1;
                    if *depth == 0 {
                        *state = State::Code;
                    }
                    self.comment(rest, 2)
                } else {
                    self.comment(rest, 1)
                }
            }
            State::Text => {
                // The caller handles an escaped newline, because it counts lines.
                let width =
                    if rest[0] == '\\' && rest.get(1).is_some_and(|&c| c != '\n') { 2 } else { 1 };
                if rest[0] == '"' {
                    *state = State::Code;
                }
                self.literal(width)
            }
            State::RawText(hashes) => {
                let width = *hashes + 1;
                if rest[0] == '"' && rest.len() >= width && rest[1..width].iter().all(|&c| c == '#')
                {
                    *state = State::Code;
                    self.literal(width)
                } else {
                    self.literal(1)
                }
            }
        }
    }

    fn step_code(&mut self, state: &mut State, rest: &[char], before: Option<char>) -> usize {
        if rest.starts_with(&['/', '/']) {
            *state = State::LineComment;
            return self.comment(rest, 2);
        }
        if rest.starts_with(&['/', '*']) {
            *state = State::BlockComment(1);
            return self.comment(rest, 2);
        }
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !in_word && let Some((opening, hashes)) = raw_opening(rest) {
            *state = State::RawText(hashes);
            return self.literal(opening);
        }
        match rest[0] {
            '"' => {
                *state = State::Text;
                self.literal(1)
            }
            '\'' => match character_width(rest) {
                Some(width) => self.literal(width),
                None => self.plain('\''),
            },
            c => self.plain(c),
        }
    }

    fn comment(&mut self, rest: &[char], width: usize) -> usize {
        if let Some(line) = self.comments.last_mut() {
            line.extend(&rest[..width.min(rest.len())]);
        }
        width
    }

    fn literal(&mut self, width: usize) -> usize {
        if let Some(line) = self.code.last_mut() {
            line.extend(std::iter::repeat_n('"', width));
        }
        width
    }

    fn plain(&mut self, c: char) -> usize {
        if let Some(line) = self.code.last_mut() {
            line.push(c);
        }
        1
    }
}

/// Returns the width of `r"`, `r#"`, `br"`, `cr##"` … at the front and the number of hashes.
fn raw_opening(rest: &[char]) -> Option<(usize, usize)> {
    let prefix = match rest {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    (rest.get(prefix + hashes) == Some(&'"')).then_some((prefix + hashes + 1, hashes))
}

/// Returns the width of the character literal at the front, or `None` for a lifetime.
fn character_width(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => Some(3 + tail.iter().position(|&c| c == '\'')? + 1),
        ['\'', c, '\'', ..] if *c != '\'' && *c != '\n' => Some(3),
        _ => None,
    }
}

/// Returns the columns at which `word` stands in `line` as a whole word, so not inside a longer name.
pub(crate) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !line[..at].ends_with(joins) && !line[at + word.len()..].starts_with(joins)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        RustText::new(source).code.join("\n")
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        let text = RustText::new(
            "let a = \"unsafe // {\"; // unsafe\n/* a /* b */ unsafe */ let c = 1;\n",
        );
        assert!(text.code.iter().all(|line| !line.contains("unsafe") && !line.contains('{')));
        assert!(text.code[1].ends_with(" let c = 1;"));
        assert_eq!(text.comments[0], "// unsafe");
        assert_eq!(text.code.len(), 2);
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        assert!(!code("let a = r#\"inside!() \" { \"#; f()").contains("inside"));
        assert!(code("let a = r#\"x\"#; f()").ends_with("; f()"));
        assert!(code("let a = br\"\\\"; f()").ends_with("; f()"));
        assert_eq!(code("let r#type = bar\"\"").matches('"').count(), 2);
    }

    #[test]
    fn lifetimes_are_no_characters() {
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert!(
            !code("let b = '{'; let c = '\\''; let d = '\\u{7f}'; let e = b'\"';").contains('{')
        );
        assert!(code("let q = '\"'; f()").ends_with("; f()"));
    }

    #[test]
    fn strings_keep_their_lines() {
        let text = RustText::new("let a = \"one \\\n two\";\nlet b = 1;\n");
        assert_eq!(text.code.len(), 3);
        assert_eq!(text.code[2], "let b = 1;");
    }

    #[test]
    fn a_word_is_not_part_of_a_longer_name() {
        assert_eq!(
            words("unsafe_code unsafe deny(unsafe)", "unsafe").collect::<Vec<_>>(),
            [12, 24]
        );
    }
}
