//! Lengths: a Rust file has fewer than 500 lines of code, without tests, comments and blank lines.

use crate::{Finding, Tree};

/// The first forbidden count.
const LIMIT: usize = 500;

/// Finds Rust files with too much code.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let files = tree.rust().filter(|(path, _)| !is_test(path));
    files
        .map(|(path, text)| (path, text.without_tests().len()))
        .filter(|(_, lines)| *lines >= LIMIT)
        .map(|(path, lines)| {
            let what = format!("{lines} lines of code: split it, {LIMIT} is too many");
            Finding::new(path, 1, what)
        })
        .collect()
}

/// Returns whether a file is an integration test or a separate test module, where long tables of cases are allowed.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RustText;

    fn file(code: usize, tests: usize) -> String {
        let code = "fn f() {}\n".repeat(code);
        let tests = "    fn t() { g(\"}\") }\n".repeat(tests);
        format!(
            "//! Many functions.\n\n{code}\n// A comment.\n#[cfg(test)]\nmod tests {{\n{tests}}}\n"
        )
    }

    #[test]
    fn refuses_the_five_hundredth_line() {
        let (fits, full) = (file(499, 100), file(500, 0));
        let tree = Tree::from_texts(&[
            ("fits.rs", fits.as_str()),
            ("full.rs", full.as_str()),
            ("a/tests/full.rs", full.as_str()),
        ]);
        let findings = check(&tree);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].path, "full.rs");
    }

    #[test]
    fn code_after_the_tests_counts() {
        let text = RustText::new(&format!("{}fn g() {{}}\n", file(3, 2)));
        assert_eq!(text.without_tests().len(), 4);
    }
}
