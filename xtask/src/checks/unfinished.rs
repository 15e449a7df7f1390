//! Unfinished work: no macros or marks of missing code.

use crate::rust_text::words;
use crate::{Finding, Tree};

/// Macros for missing code.
const MACROS: &[&str] = &["todo", "unimplemented"];

/// Marks of open work, in halves so that this file passes its own check.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];

/// Finds both in Rust files.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (at, (code, comment)) in text.code.iter().zip(&text.comments).enumerate() {
            let called = |name: &&&str| {
                words(code, name).any(|column| code[column + name.len()..].starts_with('!'))
            };
            if let Some(name) = MACROS.iter().find(called) {
                findings.push(Finding::new(path, at + 1, format!("`{name}!` marks missing code")));
            }
            if let Some(mark) = MARKS.iter().find(|mark| words(comment, mark).next().is_some()) {
                findings.push(Finding::new(
                    path,
                    at + 1,
                    format!("`{mark}`: do it, or write down the bound as a fact"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_missing_code_and_marks() {
        let source = format!(
            "//! A {0} list.\nfn f() {{ {0}!() }}\nfn g() {{ {1}!(\"x\") }}\n// {2}: later.\n",
            MACROS[0], MACROS[1], MARKS[0]
        );
        let lines: Vec<_> = check(&Tree::from_texts(&[("a.rs", &source)]))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
    }
}
