//! Metrics of each crate: lines, files, imports between files, import cycles, public items.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust_text::words;
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

/// The names of a module or an item from the crate's root.
type Path = Vec<String>;

/// One file as a module.
struct Module {
    file: String,
    code: usize,
    public: usize,
    /// Its re-exported names and their paths.
    exports: BTreeMap<String, Path>,
    imports: Vec<Path>,
}

/// Returns the shape of every crate of a tree, by name.
pub fn shapes(tree: &Tree) -> Vec<Shape> {
    let mut crates: BTreeMap<&str, BTreeMap<Path, Module>> = BTreeMap::new();
    for (path, text) in tree.rust() {
        let Some((name, inside)) = path.split_once("/src/") else { continue };
        if !name.contains('/') && !is_test(inside) {
            let module = Module::new(inside, &text);
            crates.entry(name).or_default().insert(module_path(inside), module);
        }
    }
    crates.into_iter().map(|(name, modules)| shape(name, &modules)).collect()
}

fn is_test(inside: &str) -> bool {
    inside.split('/').any(|part| part == "tests" || part.trim_end_matches(".rs").ends_with("tests"))
}

/// Returns the module path: `a/b/mod.rs` and `a/b.rs` are `[a, b]`; `lib.rs` and `main.rs` are `[]`.
fn module_path(inside: &str) -> Path {
    let mut parts: Path = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    parts.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
    parts
}

impl Module {
    fn new(inside: &str, text: &RustText) -> Self {
        let lines = text.without_tests();
        let (mut exports, mut imports) = (BTreeMap::new(), Vec::new());
        for (public, path) in uses(&module_path(inside), &lines.join("\n")) {
            match path.last() {
                Some(name) if public => _ = exports.insert(name.clone(), path),
                _ => imports.push(path),
            }
        }
        let public = lines.iter().filter(|line| is_public_item(line)).count();
        Self { file: inside.to_owned(), code: lines.len(), public, exports, imports }
    }
}

fn is_public_item(line: &str) -> bool {
    const ITEMS: [&str; 10] =
        ["fn", "struct", "enum", "trait", "const", "type", "mod", "static", "async", "unsafe"];
    let rest = line.trim_start().strip_prefix("pub ");
    rest.and_then(|rest| rest.split(' ').next()).is_some_and(|word| ITEMS.contains(&word))
}

/// Returns every path that module `own` uses, and whether it is re-exported.
fn uses(own: &[String], code: &str) -> Vec<(bool, Path)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some(at) = words(statement, "use").last() else { continue };
        let before = statement[..at].rsplit('\n').next().unwrap_or_default().trim();
        if before.is_empty() || before.starts_with("pub") {
            let paths = expand(own, &statement[at + "use".len()..]);
            found.extend(paths.into_iter().map(|path| (!before.is_empty(), path)));
        }
    }
    found
}

/// Expands `a::{b, c::{d, e as f}}` in module `own` to paths from the crate's root.
fn expand(own: &[String], tree: &str) -> Vec<Path> {
    let (mut groups, mut paths) = (vec![own.to_vec()], Vec::new());
    for piece in tree.split_inclusive(['{', ',', '}']) {
        let name = piece.trim_end_matches(['{', ',', '}']).trim();
        let mut path = groups.last().cloned().unwrap_or_default();
        for part in name.split(" as ").next().unwrap_or_default().split("::") {
            match part {
                "crate" => path.clear(),
                "super" => _ = path.pop(),
                "" | "self" | "*" => {}
                part => path.push(part.to_owned()),
            }
        }
        if piece.ends_with('{') {
            groups.push(path);
        } else if !name.is_empty() {
            paths.push(path);
        }
        if piece.ends_with('}') {
            groups.pop();
        }
    }
    paths
}

/// Returns the module of a path, through re-exports.
fn resolve<'a>(path: &[String], modules: &'a BTreeMap<Path, Module>) -> Option<&'a Path> {
    let mut path = path.to_vec();
    for _ in 0..8 {
        let known = (0..=path.len()).rev().find(|&len| modules.contains_key(&path[..len]))?;
        let (own, module) = modules.get_key_value(&path[..known])?;
        match path.get(known).and_then(|name| module.exports.get(name)) {
            Some(target) if *target != path => path = [target, &path[known + 1..]].concat(),
            // A path from the root without a module of this crate leads into another crate.
            _ => return (known > 0 || path.len() <= 1).then_some(own),
        }
    }
    None
}

fn shape(name: &str, modules: &BTreeMap<Path, Module>) -> Shape {
    let targets = |(own, module): (_, &Module)| {
        let targets = module.imports.iter().filter_map(|path| resolve(path, modules));
        (own, targets.filter(|target| *target != own).collect())
    };
    let edges: BTreeMap<&Path, BTreeSet<&Path>> = modules.iter().map(targets).collect();
    let files = |circle: &BTreeSet<&Path>| {
        circle.iter().map(|module| modules[*module].file.clone()).collect()
    };
    let longest = modules.values().map(|m| (m.file.clone(), m.code)).max_by_key(|(_, n)| *n);
    Shape {
        name: name.to_owned(),
        files: modules.len(),
        code: modules.values().map(|module| module.code).sum(),
        imports: edges.values().map(BTreeSet::len).sum(),
        circles: circles(&edges).iter().map(files).collect(),
        public: modules.values().map(|module| module.public).sum(),
        longest: longest.unwrap_or_default(),
    }
}

/// Returns the strongly connected components of more than one module.
fn circles<'a>(edges: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<BTreeSet<&'a Path>> {
    let reachable = |from: &'a Path| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            open.extend(edges[at].iter().copied().filter(|&next| seen.insert(next)));
        }
        seen
    };
    let reach: BTreeMap<_, _> = edges.keys().map(|&module| (module, reachable(module))).collect();
    let circle = |module: &&Path| {
        reach[*module].iter().copied().filter(|other| reach[other].contains(*module)).collect()
    };
    reach.keys().map(circle).filter(|circle: &BTreeSet<_>| circle.len() > 1).collect()
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
