//! Processors: `cfg(target_arch)` is limited to the folders of instruction sets.

use crate::{Finding, Tree};

/// Finds `target_arch` in other files.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_places("target_arch", &["bitnet-core/src/simd/", "bitnet-cpu/src/isa/"])
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
