//! Metrics of each crate: lines, files, imports between files, import cycles, public items.

use std::collections::{BTreeMap, BTreeSet};

use crate::{RustText, Tree};

/// The metrics of one crate, without tests inside source files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// The crate's folder.
    pub name: String,
    /// Files below `src`.
    pub files: usize,
    /// Lines of code, without comments and blank lines.
    pub code: usize,
    /// Pairs of files with an import.
    pub imports: usize,
    /// Import cycles.
    pub circles: Vec<Vec<String>>,
    /// `pub` items, without `pub(crate)` and similar.
    pub public: usize,
    /// The longest file and its lines of code.
    pub longest: (String, usize),
}

/// One file as a module.
struct Module {
    file: String,
    lines: Vec<String>,
    /// Its re-exported names and their paths.
    exports: BTreeMap<String, Vec<String>>,
    imports: Vec<Vec<String>>,
}

/// Returns the shape of every crate of a tree, by name.
pub fn shapes(tree: &Tree) -> Vec<Shape> {
    let mut crates: BTreeMap<&str, BTreeMap<Vec<String>, Module>> = BTreeMap::new();
    let sources: Vec<_> = tree.rust().collect();
    for (path, text) in &sources {
        let Some((name, inside)) = path.split_once("/src/") else { continue };
        if name.contains('/') || is_test(inside) {
            continue;
        }
        let module = Module::new(inside, text);
        crates.entry(name).or_default().insert(module_path(inside), module);
    }
    crates.into_iter().map(|(name, modules)| shape(name, &modules)).collect()
}

fn is_test(inside: &str) -> bool {
    inside.split('/').any(|part| part == "tests" || part.trim_end_matches(".rs").ends_with("tests"))
}

/// Returns the module path: `a/b/mod.rs` and `a/b.rs` are `[a, b]`; `lib.rs` and `main.rs` are `[]`.
fn module_path(inside: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

impl Module {
    fn new(inside: &str, text: &RustText) -> Self {
        let lines: Vec<String> = before_tests(&text.code).to_vec();
        let own = module_path(inside);
        let (mut exports, mut imports) = (BTreeMap::new(), Vec::new());
        for (public, path) in uses(&lines) {
            let Some(path) = absolute(&own, &path) else { continue };
            match path.last() {
                Some(name) if public => {
                    exports.insert(name.clone(), path);
                }
                _ => imports.push(path),
            }
        }
        Self { file: inside.to_owned(), lines, exports, imports }
    }

    fn code(&self) -> usize {
        self.lines.iter().filter(|line| !line.trim().is_empty()).count()
    }

    fn public(&self) -> usize {
        const ITEMS: [&str; 10] =
            ["fn", "struct", "enum", "trait", "const", "type", "mod", "static", "async", "unsafe"];
        let is_item = |line: &&String| {
            let rest = line.trim_start().strip_prefix("pub ");
            rest.and_then(|rest| rest.split(' ').next()).is_some_and(|word| ITEMS.contains(&word))
        };
        self.lines.iter().filter(is_item).count()
    }
}

/// Returns the lines before a file's tests.
fn before_tests(code: &[String]) -> &[String] {
    let tests = code.iter().position(|line| line.trim() == "#[cfg(test)]");
    let begins = |at: &usize| code[*at..].iter().take(3).any(|line| line.contains("mod tests {"));
    &code[..tests.filter(begins).unwrap_or(code.len())]
}

/// Returns every path of a `use`, and whether it is re-exported.
fn uses(lines: &[String]) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    let mut statement: Option<(bool, String)> = None;
    for line in lines {
        let line = line.trim();
        if statement.is_none() {
            let (public, rest) = match line.strip_prefix("pub") {
                Some(rest) if line.contains("use ") => (true, rest),
                _ => (false, line),
            };
            let rest = if public {
                rest.split_once("use ").map(|(_, rest)| rest)
            } else {
                rest.strip_prefix("use ")
            };
            statement = rest.map(|rest| (public, rest.to_owned()));
        } else if let Some((_, text)) = &mut statement {
            text.push_str(line);
        }
        if let Some((public, text)) = statement.take_if(|(_, text)| text.ends_with(';')) {
            let mut paths = Vec::new();
            expand(text.trim_end_matches(';'), &[], &mut paths);
            found.extend(paths.into_iter().map(|path| (public, path)));
        }
    }
    found
}

/// Expands `a::{b, c::{d, e as f}}`.
fn expand(text: &str, before: &[String], out: &mut Vec<Vec<String>>) {
    let (mut depth, mut start) = (0usize, 0);
    let mut pieces = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                pieces.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    for piece in pieces.into_iter().map(str::trim).filter(|piece| !piece.is_empty()) {
        let (path, group) = match piece.split_once('{') {
            Some((path, group)) => (path.trim_end_matches("::"), group.strip_suffix('}')),
            None => (piece.split(" as ").next().unwrap_or(piece), None),
        };
        let parts =
            path.split("::").filter(|part| !part.is_empty()).map(|part| part.trim().to_owned());
        let whole: Vec<String> = before.iter().cloned().chain(parts).collect();
        match group {
            Some(group) => expand(group, &whole, out),
            None => out.push(whole),
        }
    }
}

/// Resolves a path from the crate's root; `None` for a path into another crate.
fn absolute(own: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut at = own.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        // A submodule, or another crate.
        _ => {}
    }
    at.extend(rest.iter().filter(|part| *part != "*").cloned());
    Some(at)
}

/// Returns the module of a path, through re-exports.
fn resolve(path: &[String], modules: &BTreeMap<Vec<String>, Module>) -> Option<Vec<String>> {
    let mut path = path.to_vec();
    for _ in 0..8 {
        let known = (0..=path.len()).rev().find(|&len| modules.contains_key(&path[..len]))?;
        let module = &modules[&path[..known]];
        match path.get(known).and_then(|name| module.exports.get(name)) {
            Some(target) if target[..] != path[..] => {
                let rest = path[known + 1..].to_vec();
                path = target.iter().cloned().chain(rest).collect();
            }
            // A path from the root without a module of this crate leads into another crate.
            _ if known == 0 && path.len() > 1 => return None,
            _ => return Some(path[..known].to_vec()),
        }
    }
    None
}

fn shape(name: &str, modules: &BTreeMap<Vec<String>, Module>) -> Shape {
    let mut edges: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (own, module) in modules {
        let targets = module
            .imports
            .iter()
            .filter_map(|path| resolve(path, modules).filter(|target| target != own));
        edges.insert(own, targets.collect());
    }
    let longest = modules.values().map(|m| (m.file.clone(), m.code())).max_by_key(|(_, n)| *n);
    Shape {
        name: name.to_owned(),
        files: modules.len(),
        code: modules.values().map(Module::code).sum(),
        imports: edges.values().map(BTreeSet::len).sum(),
        circles: circles(&edges, modules),
        public: modules.values().map(Module::public).sum(),
        longest: longest.unwrap_or_default(),
    }
}

/// Returns the strongly connected components of more than one module.
fn circles(
    edges: &BTreeMap<&Vec<String>, BTreeSet<Vec<String>>>,
    modules: &BTreeMap<Vec<String>, Module>,
) -> Vec<Vec<String>> {
    let reachable = |from: &Vec<String>| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = open.pop() {
            for next in edges.get(&at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> =
        modules.keys().map(|module| (module, reachable(module))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, others) in &reach {
        let circle: BTreeSet<&Vec<String>> =
            others.iter().filter(|other| reach[*other].contains(*module)).collect();
        if circle.len() > 1 {
            found.insert(circle.into_iter().map(|module| modules[module].file.clone()).collect());
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_files_lines_imports_and_items() {
        let tree = Tree::from_texts(&[
            ("a/src/lib.rs", "//! A.\nmod b;\nmod c;\npub use b::B;\npub fn f() {}\n"),
            ("a/src/b.rs", "use crate::c::{C, D as E};\n\npub struct B;\npub(crate) struct X;\n"),
            ("a/src/c/mod.rs", "use std::fmt;\npub struct C;\n#[cfg(test)]\nmod tests {\n}\n"),
            ("a/tests/t.rs", "use a::B;\n"),
        ]);
        let shape = &shapes(&tree)[0];
        assert_eq!((shape.name.as_str(), shape.files, shape.code), ("a", 3, 9));
        assert_eq!((shape.imports, shape.public), (1, 3));
        assert!(shape.circles.is_empty());
        assert_eq!(shape.longest, ("lib.rs".to_owned(), 4));
    }

    #[test]
    fn re_exports_of_other_crates_are_no_imports() {
        let tree = Tree::from_texts(&[
            ("a/src/lib.rs", "mod b;\nuse b::B;\npub use other::thing::T;\n"),
            ("a/src/b.rs", "use crate::T;\npub struct B;\n"),
        ]);
        let shape = &shapes(&tree)[0];
        assert_eq!((shape.imports, shape.circles.len()), (1, 0));
    }

    #[test]
    fn finds_circles_through_re_exports() {
        let tree = Tree::from_texts(&[
            ("a/src/lib.rs", "mod m;\n"),
            ("a/src/m/mod.rs", "mod x;\nmod y;\npub(crate) use x::X;\n"),
            ("a/src/m/x.rs", "use super::y::Y;\n"),
            ("a/src/m/y.rs", "use super::X;\nuse crate::{\n    m::x,\n};\n"),
        ]);
        let shape = &shapes(&tree)[0];
        assert_eq!(shape.circles, [["m/x.rs", "m/y.rs"]]);
        assert_eq!(shape.imports, 2);
    }
}
