//! Lengths: a Rust file has fewer than 500 lines of code, without tests, comments and blank lines.

use crate::{Finding, RustText, Tree};

/// The first forbidden count.
const LIMIT: usize = 500;

/// Finds Rust files with too much code.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|(path, _)| !is_test(path))
        .filter_map(|(path, text)| {
            let lines = lines_of_code(&text);
            (lines >= LIMIT).then(|| {
                Finding::new(
                    path,
                    1,
                    format!("{lines} lines of code: split it, {LIMIT} is too many"),
                )
            })
        })
        .collect()
}

/// Returns whether a file is an integration test or a separate test module, where long tables of cases are allowed.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// Counts lines of code without `#[cfg(test)] mod … { … }`.
fn lines_of_code(text: &RustText) -> usize {
    let mut count = 0;
    let mut tests = Tests::Outside;
    for line in text.code.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        tests = tests.step(line);
        if matches!(tests, Tests::Outside) {
            count += 1;
        }
        if matches!(tests, Tests::Inside(0)) {
            tests = Tests::Outside;
        }
    }
    count
}

/// The position relative to a test module.
enum Tests {
    Outside,
    /// After `#[cfg(test)]`, before its item.
    Announced,
    /// Inside the module at this brace depth; 0 on its last line.
    Inside(usize),
}

impl Tests {
    fn step(self, line: &str) -> Self {
        match self {
            Self::Outside if line.starts_with("#[cfg(test)]") => Self::Announced,
            Self::Announced if line.starts_with("#[") => Self::Announced,
            Self::Announced if line.starts_with("mod ") && line.ends_with('{') => Self::Inside(1),
            Self::Announced | Self::Outside => Self::Outside,
            Self::Inside(depth) => {
                let opened = line.matches('{').count();
                Self::Inside((depth + opened).saturating_sub(line.matches('}').count()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(lines_of_code(&text), 4);
    }
}
