//! Ignored tests: an ignored test states a reason.

use crate::{Finding, Tree};

/// The attribute without a reason; in halves so that this file passes a plain search for it.
const SILENT: &str = concat!("#[ig", "nore]");

/// Finds ignored tests with a missing or an empty reason.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_rust(|_, code, _| {
        // The two quotes of an empty reason remain.
        let squeezed: String = code.split_whitespace().collect();
        [SILENT, concat!("#[ig", "nore=\"\"]"), ",ignore)]"]
            .iter()
            .any(|silent| squeezed.contains(silent))
            .then_some("write `#[ignore = \"why, and how to run it\"]`")
    })
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
