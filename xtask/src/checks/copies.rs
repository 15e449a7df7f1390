//! Copies: the embedded model equals the model of the recipe.

use crate::{Finding, Tree};

/// Pairs of identical files: the original, and the copy inside a crate's folder.
const PAIRS: &[(&str, &str)] = &[("models/stories.gguf", "bitnet-inference/models/stories.gguf")];

/// Finds pairs that differ. Pairs with only one existing file are ignored.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_files(|copy| {
        let (original, _) = PAIRS.iter().find(|(_, path)| *path == copy.path)?;
        let differs = tree.file(original)?.bytes != copy.bytes;
        differs.then(|| format!("differs from {original}: copy it again"))
    })
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
