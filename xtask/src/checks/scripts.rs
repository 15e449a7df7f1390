//! Scripts: scripts mentioned by the gate, another script or a document exist.

use crate::{Finding, Tree};

/// Finds mentions of missing `scripts/NAME.sh` and `scripts/NAME.py`.
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.check_lines(|path, _, line| {
        let calls = path.starts_with(".ci/") || path.ends_with(".md") || path.ends_with(".sh");
        mentions(line)
            .filter(|script| calls && tree.file(script).is_none())
            .map(|script| format!("calls `{script}`, which does not exist"))
            .collect::<Vec<_>>()
    })
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
