//! Ignored tests: an ignored test states a reason.

use crate::{Finding, Tree};

/// The attribute without a reason; in halves so that this file passes a plain search for it.
const SILENT: &str = concat!("#[ig", "nore]");

/// Finds ignored tests with a missing or an empty reason.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (at, line) in text.code.iter().enumerate() {
            // The two quotes of an empty reason remain.
            let squeezed: String = line.split_whitespace().collect();
            if squeezed.contains(SILENT)
                || squeezed.contains(concat!("#[ig", "nore=\"\"]"))
                || squeezed.contains(",ignore)]")
            {
                findings.push(Finding::new(
                    path,
                    at + 1,
                    "write `#[ignore = \"why, and how to run it\"]`",
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
    fn refuses_silence() {
        let name = concat!("ig", "nore");
        let source = format!(
            "//! T.\n{SILENT}\n#[{name} = \"\"]\n#[cfg_attr(x, {name})]\n#[{name} = \"ten minutes: run with --{name}d\"]\n"
        );
        let lines: Vec<_> = check(&Tree::from_texts(&[("a.rs", &source)]))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
    }
}
