//! Processors: `cfg(target_arch)` is limited to the folders of instruction sets.

use crate::rust_text::words;
use crate::{Finding, Tree};

/// The folders that may use `target_arch`.
const ALLOWED: &[&str] = &["bitnet-core/src/simd/", "bitnet-cpu/src/isa/"];

/// Finds `target_arch` in other files.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in
        tree.rust().filter(|(path, _)| !ALLOWED.iter().any(|folder| path.starts_with(folder)))
    {
        for (at, line) in text.code.iter().enumerate() {
            if words(line, "target_arch").next().is_some() {
                findings.push(Finding::new(
                    path,
                    at + 1,
                    format!("`target_arch` belongs in {}", ALLOWED.join(" or ")),
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
    fn refuses_it_outside() {
        let source = "//! X.\n#[cfg(target_arch = \"x86_64\")]\nmod avx2;\n";
        let tree = Tree::from_texts(&[
            ("bitnet-cpu/src/isa/mod.rs", source),
            ("bitnet-cpu/src/ops/add.rs", source),
        ]);
        let findings = check(&tree);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].path.as_str(), findings[0].line), ("bitnet-cpu/src/ops/add.rs", 2));
    }
}
