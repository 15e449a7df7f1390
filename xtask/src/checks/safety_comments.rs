//! Safety comments: every `unsafe` states why it is sound. Clippy holds blocks and impls to `SAFETY:`.

use crate::rust_text::words;
use crate::{Finding, RustText, Tree};

/// Finds `unsafe` without a safety comment, except in function pointer types.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (at, line) in text.code.iter().enumerate() {
            let mut after = words(line, "unsafe").map(|column| &line[column + "unsafe".len()..]);
            if after.any(|rest| !is_pointer_type(rest)) && !answered(&text, at) {
                let what = "`unsafe` without `SAFETY:` or `# Safety` above it";
                findings.push(Finding::new(path, at + 1, what));
            }
        }
    }
    findings
}

/// Returns whether `unsafe` before `rest` begins a type: `unsafe fn(…)`, `unsafe extern "C" fn(…)`.
fn is_pointer_type(rest: &str) -> bool {
    let rest = rest.trim_start();
    let function =
        rest.strip_prefix("extern").map_or(rest, |abi| abi.trim_start_matches([' ', '"']));
    function.starts_with("fn(")
}

/// Returns whether the reason is in a comment on line `at`, or above it in the same statement or its leading comments
/// and attributes.
fn answered(text: &RustText, at: usize) -> bool {
    for line in (0..=at).rev() {
        let (code, comment) = (text.code[line].trim(), text.comments[line].as_str());
        let over = code.is_empty() && comment.is_empty();
        let ends = !code.starts_with("#[") && code.ends_with([';', '{', '}', ',']);
        if line < at && (over || ends) {
            return false;
        }
        if comment.contains("SAFETY:") || comment.contains("# Safety") {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        check(&Tree::from_texts(&[("a.rs", source)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn refuses_what_is_not_answered() {
        assert_eq!(lines("fn f() {\n    unsafe { g() };\n}\n"), [2]);
        assert_eq!(lines("unsafe impl Send for A {}\n"), [1]);
        assert_eq!(lines("/// Reads.\npub unsafe fn f() {}\n"), [2]);
        assert_eq!(lines("unsafe extern \"C\" fn f() {}\n"), [1]);
        assert_eq!(lines("let a = 1; // SAFETY: of another.\nlet b = unsafe { g() };\n"), [2]);
        assert_eq!(lines("// SAFETY: too far away.\n\nlet b = unsafe { g() };\n"), [3]);
    }

    #[test]
    fn accepts_what_is_answered() {
        assert!(lines("// SAFETY: owned.\n#[inline]\nunsafe impl Send for A {}\n").is_empty());
        assert!(lines("/// # Safety\n/// - aligned\npub unsafe fn f() {}\n").is_empty());
        assert!(lines("// SAFETY: in bounds.\nlet x =\n    unsafe { g() };\n").is_empty());
        assert!(lines("type F = unsafe fn(u8);\n#![forbid(unsafe_code)]\n").is_empty());
        assert!(lines("type F = unsafe extern \"C\" fn(u8);\n").is_empty());
    }
}
