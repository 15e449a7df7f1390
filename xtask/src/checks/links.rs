//! Links: targets of Markdown links inside the repository exist.

use crate::{Finding, Tree};

/// Finds Markdown links and images whose target is not in the tree.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut fenced = false;
    tree.check_lines(|path, number, line| {
        fenced = (fenced && number > 1) != line.trim_start().starts_with("```");
        if fenced || !path.ends_with(".md") {
            return Vec::new();
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        targets(&without_code(line))
            .into_iter()
            .filter(|target| !resolves(tree, folder, target))
            .map(|target| format!("links to `{target}`, which does not exist"))
            .collect()
    })
}

/// Returns the targets of `[…](target)` and of `[…]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let defined = line
        .trim_start()
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "))
        .map(|(_, rest)| rest.trim());
    inline.chain(defined).collect()
}

/// Returns the line without its `code spans`.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

fn resolves(tree: &Tree, folder: &str, target: &str) -> bool {
    let elsewhere = ["https://", "http://", "mailto:", "#"];
    if elsewhere.iter().any(|scheme| target.starts_with(scheme)) {
        return true;
    }
    let path = target.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            part => parts.push(part),
        }
    }
    !path.is_empty() && !path.starts_with('/') && tree.holds(&parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_there() {
        let text = "[a](guide.md) [b](../README.md#top) ![p](curve.svg)\n[c](https://example.org/x) [d](#here)\n\
                    `[e](nowhere.md)` [f](missing.md \"t\")\n```\n[g](nowhere.md)\n```\n[h]: gone.md\n[i](../../outside.md)\n[j](../src)\n";
        let tree = Tree::from_texts(&[
            ("docs/a.md", text),
            ("docs/guide.md", ""),
            ("README.md", ""),
            ("src/lib.rs", ""),
        ]);
        let found: Vec<_> =
            check(&tree).into_iter().map(|finding| (finding.line, finding.what)).collect();
        let missing = |name: &str| format!("links to `{name}`, which does not exist");
        assert_eq!(
            found,
            [
                (1, missing("curve.svg")),
                (3, missing("missing.md")),
                (7, missing("gone.md")),
                (8, missing("../../outside.md"))
            ]
        );
    }
}
