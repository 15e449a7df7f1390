//! Safety comments: every `unsafe` states why it is sound.

use crate::rust_text::words;
use crate::{Finding, RustText, Tree};

/// Finds unsafe blocks, impls and extern blocks without `SAFETY:`, and unsafe functions and traits without `# Safety`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (at, line) in text.code.iter().enumerate() {
            for column in words(line, "unsafe") {
                let Some(needed) = needed(&text, at, column + "unsafe".len()) else { continue };
                if !needed.iter().any(|word| answered(&text, at, word)) {
                    findings.push(Finding::new(
                        path,
                        at + 1,
                        format!("`unsafe` without `{}` above it", needed[0]),
                    ));
                }
            }
        }
    }
    findings
}

/// Returns the required text for the `unsafe` that ends at `column` of line `at`; `None` for a type or a lint.
fn needed(text: &RustText, at: usize, column: usize) -> Option<&'static [&'static str]> {
    let rest = text.code[at][column..].to_owned();
    let following = text.code.iter().skip(at + 1).take(2).map(String::as_str);
    let rest = std::iter::once(rest.as_str()).chain(following).collect::<Vec<_>>().join(" ");
    let rest = rest.trim_start();
    let function = rest.find("fn").filter(|_| rest.starts_with("fn") || rest.starts_with("extern"));
    let block = rest.find('{').unwrap_or(usize::MAX);
    match function {
        // `unsafe fn(…)` is a function pointer type.
        Some(name) if name < block => {
            (!rest[name + 2..].trim_start().starts_with('(')).then_some(&["# Safety", "SAFETY:"])
        }
        _ if rest.starts_with("trait") => Some(&["# Safety", "SAFETY:"]),
        _ if ["{", "impl", "extern", "("].iter().any(|word| rest.starts_with(word)) => {
            Some(&["SAFETY:"])
        }
        _ => None,
    }
}

/// Returns whether `word` is in a comment on line `at`, or above it in the same statement or its leading comments and attributes.
fn answered(text: &RustText, at: usize, word: &str) -> bool {
    if text.comments[at].contains(word) {
        return true;
    }
    for line in (0..at).rev() {
        let (code, comment) = (text.code[line].trim(), text.comments[line].as_str());
        let attribute = code.starts_with("#[");
        let over = code.is_empty() && comment.is_empty();
        if over || (!attribute && code.ends_with([';', '{', '}', ','])) {
            return false;
        }
        if comment.contains(word) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        check(&Tree::from_texts(&[("a.rs", source)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn refuses_what_is_not_answered() {
        assert_eq!(lines("fn f() {\n    unsafe { g() };\n}\n"), [2]);
        assert_eq!(lines("unsafe impl Send for A {}\n"), [1]);
        assert_eq!(lines("/// Reads.\npub unsafe fn f() {}\n"), [2]);
        assert_eq!(lines("unsafe extern \"C\" fn f() {}\n"), [1]);
        assert_eq!(lines("let a = 1; // SAFETY: of another.\nlet b = unsafe { g() };\n"), [2]);
        assert_eq!(lines("// SAFETY: too far away.\n\nlet b = unsafe { g() };\n"), [3]);
    }

    #[test]
    fn accepts_what_is_answered() {
        assert!(lines("// SAFETY: owned.\n#[inline]\nunsafe impl Send for A {}\n").is_empty());
        assert!(lines("/// # Safety\n/// - aligned\npub unsafe fn f() {}\n").is_empty());
        assert!(lines("// SAFETY: in bounds.\nlet x =\n    unsafe { g() };\n").is_empty());
        assert!(lines("type F = unsafe fn(u8);\n#![forbid(unsafe_code)]\n").is_empty());
    }
}
