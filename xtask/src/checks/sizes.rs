//! Sizes: limits that keep the repository quick to clone.

use crate::{Finding, Tree};

/// Maximum size of a file in bytes.
const LARGEST_FILE: usize = 3_000_000;

/// Maximum total size of the golden files in bytes.
const GOLDEN: usize = 11_500_000;

/// Finds files above 3 MB, and golden files above 11.5 MB in total.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let sizes = tree.files.iter().map(|file| (file.path.as_str(), file.bytes.len()));
    check_sizes(&sizes.collect::<Vec<_>>())
}

fn check_sizes(sizes: &[(&str, usize)]) -> Vec<Finding> {
    let golden = sizes.iter().filter(|(path, _)| path.starts_with("tests/golden/"));
    let golden = golden.map(|(_, bytes)| bytes).sum();
    let limits = sizes.iter().map(|&(path, bytes)| (path, bytes, LARGEST_FILE));
    limits
        .chain([("tests/golden", golden, GOLDEN)])
        .filter(|(_, bytes, limit)| bytes > limit)
        .map(|(path, bytes, limit)| {
            Finding::new(path, 1, format!("{bytes} bytes: at most {limit} are allowed"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_one_large_file_and_many_golden_ones() {
        assert_eq!(check_sizes(&[("a", LARGEST_FILE), ("b", LARGEST_FILE + 1)]).len(), 1);
        let names = ["tests/golden/a", "tests/golden/b", "tests/golden/c", "tests/golden/d"];
        let mut golden = names.map(|name| (name, GOLDEN / names.len()));
        assert!(check_sizes(&golden).is_empty());
        golden[0].1 += 1;
        assert_eq!(check_sizes(&golden).len(), 1);
    }
}
