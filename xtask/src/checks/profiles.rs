//! Profiles: packages named in profiles of the root manifest exist.
//!
//! Cargo only warns about a name without a match, so a removed or misspelt package would lose its profile
//! unnoticed.

use crate::{Finding, Tree};

/// Finds packages named in `[profile.*.package.NAME]` that are not in `Cargo.lock`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let lock = tree.text_of("Cargo.lock").unwrap_or_default();
    let locked = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    tree.check_lines(|path, _, line| {
        let name = package(line).filter(|name| path == "Cargo.toml" && *name != "*")?;
        (!locked(name)).then(|| format!("a profile names `{name}`, which is not in Cargo.lock"))
    })
}

/// Returns the package of a table header `[profile.PROFILE.package.NAME]`.
fn package(line: &str) -> Option<&str> {
    let head = line.trim().strip_prefix("[profile.")?.strip_suffix(']')?;
    let (_, name) = head.split_once(".package.")?;
    Some(name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_package_that_is_not_locked() {
        let manifest = "[profile.dev]\ndebug = false\n[profile.dev.package.syn]\nopt-level = 0\n\
                        [profile.dev.package.\"*\"]\n[profile.release.package.sin]\n";
        let lock = "[[package]]\nname = \"syn\"\nversion = \"2.0.0\"\n";
        let tree = Tree::from_texts(&[("Cargo.toml", manifest), ("Cargo.lock", lock)]);
        let found: Vec<_> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["Cargo.toml:6: a profile names `sin`, which is not in Cargo.lock"]);
    }
}
