//! Names: a file is called after its noun, not after nothing, and never after its own history.

use crate::{Finding, Tree};

/// Names that say nothing about what a file or a folder holds.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "base", "manager"];

/// Endings that tell of an earlier or a later version, which is what git is for.
const HISTORY: &[&str] = &["_new", "_old", "_backup", "_fixed"];

/// Finds files and folders with such names.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for part in file.path.split('/') {
            let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
            if EMPTY_NAMES.contains(&stem.as_str()) {
                findings.push(Finding::new(
                    &file.path,
                    1,
                    format!("`{part}` says nothing: name what it holds"),
                ));
            }
            if HISTORY.iter().any(|ending| stem.ends_with(ending)) {
                findings.push(Finding::new(
                    &file.path,
                    1,
                    format!("`{part}` tells a history: git keeps that"),
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
    fn refuses_empty_names_and_histories() {
        let tree = Tree::from_texts(&[
            ("a/src/utils.rs", ""),
            ("a/tests/common/mod.rs", ""),
            ("a/src/simd_new.rs", ""),
            ("a/src/Manager.rs", ""),
            ("a/src/renewal.rs", ""),
            ("a/src/base64.rs", ""),
        ]);
        assert_eq!(check(&tree).len(), 4);
    }
}
