//! Copies: the embedded model equals the model of the recipe.

use crate::{Finding, Tree};

/// Pairs of identical files: the original, and the copy inside a crate's folder.
const PAIRS: &[(&str, &str)] = &[("models/stories.gguf", "bitnet-inference/models/stories.gguf")];

/// Finds pairs that differ. Pairs with only one existing file are ignored.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let bytes =
        |path: &str| tree.files.iter().find(|file| file.path == path).map(|file| &file.bytes);
    PAIRS
        .iter()
        .filter(|(original, copy)| matches!((bytes(original), bytes(copy)), (Some(a), Some(b)) if a != b))
        .map(|(original, copy)| Finding::new(copy, 1, format!("differs from {original}: copy it again")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_old_copy() {
        let (original, copy) = PAIRS[0];
        assert!(check(&Tree::from_texts(&[(original, "a"), (copy, "a")])).is_empty());
        assert!(check(&Tree::from_texts(&[(copy, "a")])).is_empty());
        assert_eq!(check(&Tree::from_texts(&[(original, "a"), (copy, "b")])).len(), 1);
    }
}
