//! Private words: the repository does not depend on or mention the environment where it was written.

use crate::{Finding, Tree};

/// Path prefixes of single machines, written in two halves so that this file passes its own check.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("\\Us", "ers\\"),
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
];

/// Hosts of package registries, which are settings of a user's machine.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("index.crat", "es.io"),
    concat!("static.crat", "es.io"),
    concat!("py", "pi.org"),
    concat!("pythonho", "sted.org"),
    concat!("download.pyto", "rch.org"),
    concat!("npm", "js.org"),
    concat!("deb.deb", "ian.org"),
    concat!("archive.ubun", "tu.com"),
];

/// Addresses of private networks.
const PRIVATE_HOSTS: &[&str] =
    &[concat!("://1", "0."), concat!("://192", ".168."), concat!("://172", ".1")];

/// Finds machine paths, registry hosts and issue numbers.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = tree.check_lines(|path, _, line| {
        // Cargo writes the lock file, and other programs wrote the golden files.
        if path.ends_with(".lock") || path.starts_with("tests/golden/") {
            return Vec::new();
        }
        let machine = MACHINE_PATHS.iter().find(|path| begins_in(line, path));
        let host = REGISTRY_HOSTS.iter().chain(PRIVATE_HOSTS).find(|host| line.contains(*host));
        let prose = match path.rsplit_once('.') {
            Some((_, "rs")) => None,
            Some((_, "md")) => Some(line),
            _ => line.split_once("# ").map(|(_, comment)| comment),
        };
        let problems = [
            machine.map(|word| format!("`{word}` is a path of one machine")),
            host.map(|word| format!("`{word}` names a host that the reader may not use")),
            prose.and_then(issue),
        ];
        problems.into_iter().flatten().collect()
    });
    findings.extend(tree.check_rust(|_, _, comment| issue(comment)));
    findings
}

/// Returns whether `line` contains `path` at the start of a path.
fn begins_in(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-*}>)".contains(c))
    })
}

/// Refuses a line of prose that contains the number of an issue or a pull request.
fn issue(line: &str) -> Option<String> {
    let number =
        |rest: &str| rest.trim_start_matches([' ', '#']).starts_with(|c: char| c.is_ascii_digit());
    let lower = line.to_ascii_lowercase();
    let said = ["issue ", "issue #", "pull request "]
        .iter()
        .any(|word| lower.split(word).skip(1).any(number));
    let hash = line.match_indices('#').any(|(at, _)| {
        let digits = line[at + 1..].chars().take_while(char::is_ascii_digit).count();
        let ends = !line[at + 1 + digits..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        (at == 0 || line[..at].ends_with([' ', '('])) && (1..=5).contains(&digits) && ends
    });
    (said || hash).then(|| format!("`{}` names an issue: state the reason instead", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str, text: &str) -> bool {
        !check(&Tree::from_texts(&[(path, text)])).is_empty()
    }

    #[test]
    fn refuses_machine_paths() {
        assert!(refused("a.sh", &format!("cd {}x", MACHINE_PATHS[0])));
        assert!(refused("a.rs", &format!("//! See `{}a/b`.", MACHINE_PATHS[1])));
        assert!(!refused("a.md", &format!("docs{}page.md", MACHINE_PATHS[1])));
    }

    #[test]
    fn refuses_registry_and_private_hosts() {
        assert!(refused("a.toml", &format!("index = \"https://{}\"", REGISTRY_HOSTS[2])));
        assert!(refused("a.md", &format!("http{}1.2/", PRIVATE_HOSTS[0])));
        assert!(!refused("Cargo.lock", &format!("source = \"https://{}\"", REGISTRY_HOSTS[0])));
    }

    #[test]
    fn refuses_numbers_of_issues() {
        let said = ["see issue", " 12"].concat();
        assert!(refused("a.md", &said));
        assert!(refused("a.rs", &["//! Mends (", "#7", ")."].concat()));
        assert!(!refused(
            "a.rs",
            "//! A file.\n#[inline]\nlet x = \"#1\"; // The 2 issued tokens.\n"
        ));
        assert!(!refused("a.md", "# 1. A heading\nThe colour #123456.\n"));
    }
}
