//! Runs every check on the repository.

use std::sync::OnceLock;

use xtask::{Finding, Tree, checks};

/// Returns the repository, read once.
fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| Tree::read().expect("the tree can be read"))
}

/// Fails with one line per finding.
fn expect_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), lines.join("\n"));
}

/// One test per check of the tree.
macro_rules! tree_tests {
    ($($check:ident),* $(,)?) => {$(
        #[test]
        fn $check() {
            let tree = tree();
            assert!(tree.files.len() > 50, "the tree was not read: {} files", tree.files.len());
            expect_none(&checks::$check::check(tree));
        }
    )*};
}

tree_tests!(
    copies,
    headers,
    ignored_tests,
    lengths,
    links,
    manifests,
    names,
    private_words,
    processors,
    profiles,
    safety_comments,
    scripts,
    sizes,
    unfinished,
    unsafe_places,
);

#[test]
fn floors() {
    expect_none(&checks::floors::check(&checks::floors::metadata().unwrap()));
}
