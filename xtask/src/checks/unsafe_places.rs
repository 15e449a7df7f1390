//! Places of `unsafe`: it is limited to listed files, and crates without it forbid it.

use crate::{Finding, Tree};

/// Allowed places of `unsafe`: folders (with trailing `/`) and files.
const ALLOWED: &[&str] = &[
    "bitnet-core/src/memory/",
    "bitnet-core/src/os/",
    "bitnet-core/src/simd/",
    "bitnet-cpu/src/isa/",
    "bitnet-cpu/src/threads/workers.rs",
];

/// Finds `unsafe` in other files, and roots of crates without an allowed place that do not forbid it.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = tree.check_places("unsafe", ALLOWED);
    for (path, text) in tree.rust().filter(|(path, _)| is_root_of_a_safe_crate(path)) {
        if !text.code.iter().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
            let what = "this crate needs no `unsafe`: write `#![forbid(unsafe_code)]`";
            findings.push(Finding::new(path, 1, what));
        }
    }
    findings
}

fn is_root_of_a_safe_crate(path: &str) -> bool {
    path.split_once("/src/").is_some_and(|(name, file)| {
        matches!(file, "lib.rs" | "main.rs")
            && !ALLOWED.iter().any(|place| place.split('/').next() == Some(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_unsafe_outside_its_places() {
        let source = "//! X.\nfn f() { unsafe { g() } }\n";
        let tree = Tree::from_texts(&[
            ("bitnet-core/src/memory/pool.rs", source),
            ("bitnet-cpu/src/threads/workers.rs", source),
            ("bitnet-cpu/src/threads/workers.rs.rs", source),
            ("bitnet-core/src/memory.rs", source),
            ("bitnet-inference/tests/a.rs", source),
        ]);
        assert_eq!(check(&tree).len(), 3);
    }

    #[test]
    fn refuses_a_root_that_does_not_forbid() {
        let tree = Tree::from_texts(&[
            ("bitnet-cli/src/main.rs", "//! X.\n// #![forbid(unsafe_code)]\n"),
            ("bitnet-quant/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n"),
            ("bitnet-core/src/lib.rs", "//! X.\n"),
        ]);
        assert_eq!(check(&tree).len(), 1);
    }
}
