//! Manifests: members inherit the settings of the workspace.

use crate::{Finding, Tree};

/// The required lines of a member's manifest.
const INHERITED: &[&str] = &[
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "license.workspace = true",
    "[lints]\nworkspace = true",
];

/// Finds members that do not inherit version, edition, minimum Rust version, licence or lints.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_files(|file| {
        let lines =
            file.text().unwrap_or_default().lines().map(|line| format!("\n{}", line.trim()));
        let text = lines.collect::<String>() + "\n";
        let missing = |key: &&&str| is_member(&file.path) && !text.contains(&format!("\n{key}\n"));
        let write = |key: &&str| format!("write `{}`", key.replace('\n', "`, `"));
        INHERITED.iter().filter(missing).map(write).collect::<Vec<_>>()
    })
}

/// Members are at the root; `fuzz` is a separate workspace.
fn is_member(path: &str) -> bool {
    path.split_once('/').is_some_and(|(folder, rest)| rest == "Cargo.toml" && folder != "fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_own_edition_and_missing_lints() {
        let good = format!("[package]\n{}\n\n[lints]\nworkspace = true\n", INHERITED.join("\n"));
        let bad = good
            .replace("edition.workspace = true", "edition = \"2021\"")
            .replace("[lints]", "[features]");
        let tree = Tree::from_texts(&[
            ("a/Cargo.toml", &good),
            ("b/Cargo.toml", &bad),
            ("fuzz/Cargo.toml", ""),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["b/Cargo.toml", "b/Cargo.toml"]);
    }
}
