//! Sizes: limits that keep the repository quick to clone.

use crate::{Finding, Tree};

/// Maximum size of a file in bytes.
const LARGEST_FILE: usize = 3_000_000;

/// Maximum total size of the golden files in bytes.
const GOLDEN: usize = 8_000_000;

/// Finds files above 3 MB, and golden files above 8 MB in total.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let sizes: Vec<_> =
        tree.files.iter().map(|file| (file.path.as_str(), file.bytes.len())).collect();
    check_sizes(&sizes)
}

fn check_sizes(sizes: &[(&str, usize)]) -> Vec<Finding> {
    let large = sizes.iter().filter(|(_, bytes)| *bytes > LARGEST_FILE);
    let mut findings: Vec<_> = large
        .map(|(path, bytes)| {
            Finding::new(path, 1, format!("{bytes} bytes: a file has at most {LARGEST_FILE}"))
        })
        .collect();
    let golden: usize = sizes
        .iter()
        .filter(|(path, _)| path.starts_with("tests/golden/"))
        .map(|(_, bytes)| bytes)
        .sum();
    if golden > GOLDEN {
        findings.push(Finding::new(
            "tests/golden",
            1,
            format!("{golden} bytes: the golden files have at most {GOLDEN} together"),
        ));
    }
    findings
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
