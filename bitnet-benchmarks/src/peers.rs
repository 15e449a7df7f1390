//! The compared allocators, each in a program of this package.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A compared allocator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The program.
    program: &'static str,
    /// The library of the allocator.
    library: &'static str,
}

/// Every peer.
pub(crate) const PEERS: [Peer; 3] = [
    Peer { name: "mimalloc", program: "bitnet-bench-mimalloc", library: "libmimalloc-sys" },
    Peer { name: "jemalloc", program: "bitnet-bench-jemalloc", library: "tikv-jemalloc-sys" },
    Peer { name: "snmalloc", program: "bitnet-bench-snmalloc", library: "snmalloc-sys" },
];

impl Peer {
    /// Returns library and version from the lock file.
    pub(crate) fn version(&self) -> Option<String> {
        version_of(self.library)
    }
}

/// Returns a library and its version from the lock file.
pub(crate) fn version_of(library: &str) -> Option<String> {
    let lock = fs::read_to_string(folder().join("../Cargo.lock")).ok()?;
    version_in(&lock, library)
}

fn version_in(lock: &str, library: &str) -> Option<String> {
    let after = lock.split_once(&format!("name = \"{library}\"\nversion = \""))?.1;
    Some(format!("{library} {}", after.split_once('"')?.0))
}

/// Returns the package's folder, which cargo passes to its programs.
fn folder() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| "bitnet-benchmarks".into())
}

/// Builds the peers' programs; returns the path of each, or why the build failed.
///
/// Builds all at once; if that fails, builds them one by one, so that one failing library does not affect the
/// others.
pub(crate) fn build() -> Vec<(Peer, Result<PathBuf, String>)> {
    eprintln!("building mimalloc, jemalloc and snmalloc (C and C++; --no-peers omits them)");
    if let Ok(programs) = build_programs(&PEERS) {
        let found = |peer: Peer| {
            let program = programs.iter().find(|path| is_program(path, peer.program));
            (peer, program.cloned().ok_or_else(|| "cargo named no program".to_owned()))
        };
        return PEERS.map(found).into();
    }
    PEERS
        .map(|peer| {
            let built = build_programs(&[peer]).and_then(|programs| {
                programs.into_iter().next().ok_or_else(|| "cargo named no program".to_owned())
            });
            (peer, built)
        })
        .into()
}

fn is_program(path: &Path, name: &str) -> bool {
    path.file_stem().is_some_and(|stem| stem == name)
}

/// Runs cargo with progress on standard error; returns the built programs.
fn build_programs(peers: &[Peer]) -> Result<Vec<PathBuf>, String> {
    let features: Vec<String> = peers.iter().map(|peer| format!("peer-{}", peer.name)).collect();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "bitnet-benchmarks"]).args([
        "--message-format",
        "json-render-diagnostics",
        "--features",
        &features.join(","),
    ]);
    for peer in peers {
        command.args(["--bin", peer.program]);
    }
    let manifest = folder().join("Cargo.toml");
    if manifest.exists() {
        command.arg("--manifest-path").arg(manifest);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let programs: Vec<PathBuf> = lines
        .into_iter()
        .flatten()
        .map_while(Result::ok)
        .filter_map(|line| executable(&line))
        .collect();
    match child.wait() {
        Ok(status) if status.success() => Ok(programs),
        Ok(status) => Err(format!("cargo build failed ({status}); its messages are above")),
        Err(error) => Err(format!("cargo build: {error}")),
    }
}

/// Returns the program of a line of cargo's JSON messages.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_program = message["target"]["kind"] == serde_json::json!(["bin"]);
    message["executable"].as_str().filter(|_| is_program).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"a/b"}"#;
        assert_eq!(executable(line), Some(PathBuf::from("a/b")));
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("warning: not JSON"), None);
    }

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2\"\n\n[[package]]\nname = \"ab\"\nversion = \"3\"\n";
        assert_eq!(version_in(lock, "a").as_deref(), Some("a 1.2"));
        assert_eq!(version_in(lock, "ab").as_deref(), Some("ab 3"));
        assert_eq!(version_in(lock, "b"), None);
        for peer in PEERS {
            assert!(peer.version().is_some(), "{} is in the lock file", peer.name);
        }
    }
}
