//! Headers: every Rust file begins with a `//!` sentence about its content.

use crate::{Finding, Tree};

/// Finds Rust files whose first line is not a `//!` sentence.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .filter(|file| {
            let first = file.text().and_then(|text| text.lines().next()).unwrap_or_default();
            first.strip_prefix("//!").is_none_or(|rest| rest.trim().is_empty())
        })
        .map(|file| {
            Finding::new(&file.path, 1, "begins without a `//!` line that says what the file holds")
        })
        .collect()
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
