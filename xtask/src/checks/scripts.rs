//! Scripts: scripts mentioned by the gate, another script or a document exist.

use crate::{Finding, Tree};

/// Finds mentions of missing `scripts/NAME.sh` and `scripts/NAME.py`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| calls_scripts(&file.path)) {
        for (at, line) in file.text().unwrap_or_default().lines().enumerate() {
            for path in mentions(line) {
                if !tree.files.iter().any(|file| file.path == path) {
                    findings.push(Finding::new(
                        &file.path,
                        at + 1,
                        format!("calls `{path}`, which does not exist"),
                    ));
                }
            }
        }
    }
    findings
}

fn calls_scripts(path: &str) -> bool {
    path.starts_with(".ci/") || [".md", ".sh"].iter().any(|end| path.ends_with(end))
}

/// Returns the paths of scripts in a line.
fn mentions(line: &str) -> impl Iterator<Item = &str> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    line.split(move |c: char| !in_path(c)).map(|word| word.trim_end_matches('.')).filter(|word| {
        word.starts_with("scripts/") && [".sh", ".py"].iter().any(|end| word.ends_with(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_call_of_a_script_that_is_not_there() {
        let tree = Tree::from_texts(&[
            (".ci/run", "scripts/fuzz.sh 20\nscripts/story.sh\n"),
            ("README.md", "Run `scripts/fuzz.sh 60`, or scripts/gone.py.\n"),
            ("scripts/fuzz.sh", "#!/bin/sh\n"),
            ("bitnet-cpu/src/lib.rs", "//! scripts/none.sh\n"),
        ]);
        let found: Vec<_> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                ".ci/run:2: calls `scripts/story.sh`, which does not exist",
                "README.md:1: calls `scripts/gone.py`, which does not exist",
            ]
        );
    }
}
