//! Headers: every Rust file begins with a `//!` sentence about its content.

use crate::{Finding, Tree};

/// Finds Rust files whose first line is not a `//!` sentence.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_files(|file| {
        let first = file.text().and_then(|text| text.lines().next()).unwrap_or_default();
        let sentence = first.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty());
        (file.path.ends_with(".rs") && !sentence)
            .then_some("begins without a `//!` line that says what the file holds")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_missing_and_an_empty_header() {
        let tree = Tree::from_texts(&[
            ("a/src/good.rs", "//! Numbers.\n"),
            ("a/src/late.rs", "use x;\n//! Numbers.\n"),
            ("a/src/blank.rs", "//!\n"),
            ("a/src/empty.rs", ""),
            ("a/README.md", "# a\n"),
        ]);
        let paths: Vec<_> = check(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["a/src/late.rs", "a/src/blank.rs", "a/src/empty.rs"]);
    }
}
