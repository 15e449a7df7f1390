//! Places of `unsafe`: it is limited to listed files, and crates without it forbid it.

use crate::rust_text::words;
use crate::{Finding, Tree};

/// Allowed places of `unsafe`: folders (with trailing `/`) and files.
const ALLOWED: &[&str] = &[
    "bitnet-core/src/memory/",
    "bitnet-core/src/os/",
    "bitnet-core/src/simd/",
    "bitnet-cpu/src/isa/",
    "bitnet-cpu/src/threads/workers.rs",
];

/// Crates that forbid `unsafe` in each of their roots.
const FORBIDDING: &[&str] = &[
    "bitnet-quant",
    "bitnet-formats",
    "bitnet-inference",
    "bitnet-training",
    "bitnet-convert",
    "bitnet-cli",
    "bitnet-benchmarks",
    "bitnet-testing",
    "xtask",
];

/// Finds `unsafe` in other files, and crate roots that do not forbid it.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        if is_root_of_a_forbidding_crate(path)
            && !text.code.iter().any(|line| line.trim() == "#![forbid(unsafe_code)]")
        {
            findings.push(Finding::new(
                path,
                1,
                "this crate needs no `unsafe`: write `#![forbid(unsafe_code)]`",
            ));
        }
        if ALLOWED
            .iter()
            .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
        {
            continue;
        }
        for (at, _) in
            text.code.iter().enumerate().filter(|(_, line)| words(line, "unsafe").next().is_some())
        {
            findings.push(Finding::new(
                path,
                at + 1,
                format!("`unsafe` may stand only in {}", ALLOWED.join(", ")),
            ));
        }
    }
    findings
}

fn is_root_of_a_forbidding_crate(path: &str) -> bool {
    FORBIDDING.iter().any(|name| {
        path.strip_prefix(name).is_some_and(|rest| rest == "/src/lib.rs" || rest == "/src/main.rs")
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
