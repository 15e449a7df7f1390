//! Names: files and folders are named after their content, without generic names and version suffixes.

use crate::{Finding, Tree};

/// Generic names.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "base", "manager"];

/// Version suffixes, which git makes unnecessary.
const HISTORY: &[&str] = &["_new", "_old", "_backup", "_fixed"];

/// Finds files and folders with forbidden names.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let problem = |part: &str| {
        let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
        if EMPTY_NAMES.contains(&stem.as_str()) {
            return Some(format!("`{part}` is generic: name the content"));
        }
        let history = HISTORY.iter().any(|ending| stem.ends_with(ending));
        history.then(|| format!("`{part}` is a version suffix: use git instead"))
    };
    tree.check_files(|file| file.path.split('/').filter_map(problem).collect::<Vec<_>>())
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
