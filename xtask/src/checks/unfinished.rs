//! Unfinished work: no macros or marks of missing code.

use crate::rust_text::has_word;
use crate::{Finding, Tree};

/// Macros for missing code.
const MACROS: &[&str] = &["todo", "unimplemented"];

/// Marks of open work, in halves so that this file passes its own check.
const MARKS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X"), concat!("TO", "DO")];

/// Finds both in Rust files.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_rust(|_, code, comment| {
        let called = MACROS.iter().find(|name| has_word(code, &format!("{name}!")));
        let mark = MARKS.iter().find(|mark| has_word(comment, mark));
        let called = called.map(|name| format!("`{name}!` marks missing code"));
        let mark = mark.map(|mark| format!("`{mark}`: do it, or write down the bound as a fact"));
        called.into_iter().chain(mark)
    })
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
