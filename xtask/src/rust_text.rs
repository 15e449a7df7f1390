//! Rust source split into code and comments, line by line, by the compiler's lexer.

use ra_ap_rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind, tokenize};

/// The lines of a Rust source, split into code and comments. Both have one entry per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RustText {
    /// The code without comments; every character of a string or character literal is a `"`.
    pub code: Vec<String>,
    /// The comments, with their `//`, `///`, `//!` or `/*`.
    pub comments: Vec<String>,
}

impl RustText {
    /// Splits `source`. Never fails: invalid source is split as far as its quotes allow.
    pub fn new(source: &str) -> Self {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = source;
        for token in tokenize(source, FrontmatterAllowed::No) {
            let (text, after) = rest.split_at(token.len as usize);
            rest = after;
            let newlines = || text.chars().filter(|&c| c == '\n');
            match token.kind {
                TokenKind::LineComment { .. } | TokenKind::BlockComment { .. } => {
                    comments.push_str(text);
                    code.extend(newlines());
                }
                kind => {
                    let quote = |c| if is_text(kind) && c != '\n' { '"' } else { c };
                    code.extend(text.chars().map(quote));
                    comments.extend(newlines());
                }
            }
        }
        let lines = |text: String| {
            let text = if source.ends_with('\n') { &text[..text.len() - 1] } else { &text };
            text.split('\n').map(str::to_owned).collect()
        };
        Self { code: lines(code), comments: lines(comments) }
    }

    /// Returns the lines of code outside `#[cfg(test)] mod … { … }` at the margin, without blank lines.
    pub fn without_tests(&self) -> Vec<&str> {
        let mut lines = self.code.iter().map(String::as_str).filter(|line| !line.trim().is_empty());
        let mut kept = Vec::new();
        while let Some(line) = lines.next() {
            let item = lines.clone().find(|line| !line.starts_with("#["));
            if line == "#[cfg(test)]"
                && item.is_some_and(|item| has_word(item, "mod") && item.ends_with('{'))
            {
                lines.find(|line| *line == "}");
            } else {
                kept.push(line);
            }
        }
        kept
    }
}

/// Returns whether a token is a string or a character.
fn is_text(kind: TokenKind) -> bool {
    use LiteralKind::{Float, Int};
    matches!(kind, TokenKind::Literal { kind, .. } if !matches!(kind, Int { .. } | Float { .. }))
}

/// Returns the columns at which `word` stands in `line` as a whole word, so not inside a longer name.
pub(crate) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !line[..at].ends_with(joins) && !line[at + word.len()..].starts_with(joins)
    })
}

/// Returns whether `word` stands in `line` as a whole word.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    words(line, word).next().is_some()
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
    fn test_modules_are_left_out() {
        let source = "fn f() {}\n\n#[cfg(test)]\nfn g() {}\n\n#[cfg(test)]\n#[cfg(unix)]\npub(super) mod tests {\n    fn t() {\n    }\n}\nfn h() {}\n";
        let text = RustText::new(source);
        assert_eq!(text.without_tests(), ["fn f() {}", "#[cfg(test)]", "fn g() {}", "fn h() {}"]);
    }

    #[test]
    fn a_word_is_not_part_of_a_longer_name() {
        assert_eq!(
            words("unsafe_code unsafe deny(unsafe)", "unsafe").collect::<Vec<_>>(),
            [12, 24]
        );
    }
}
