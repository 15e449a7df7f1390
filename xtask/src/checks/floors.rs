//! Floors: a crate depends only on crates of lower floors, in builds and in tests.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Finding;

/// Each library and program of the workspace with its floor; `None`: it depends on no other member and no member on it.
const FLOORS: &[(&str, Option<u8>)] = &[
    ("bitnet-core", Some(0)),
    ("bitnet-quant", Some(1)),
    ("bitnet-testing", Some(1)),
    ("bitnet-cpu", Some(2)),
    ("bitnet-formats", Some(2)),
    ("bitnet-hub", Some(2)),
    ("bitnet-inference", Some(3)),
    ("bitnet-training", Some(3)),
    ("bitnet-convert", Some(4)),
    ("bitnet-server", Some(4)),
    ("bitnet-cli", Some(5)),
    ("bitnet-benchmarks", Some(5)),
    ("xtask", None),
];

/// Reads the workspace members and their dependencies from cargo.
///
/// # Errors
/// If cargo can't be run or rejects a manifest.
pub fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cannot run cargo metadata")?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "cargo metadata: {error}");
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Checks the output of `cargo metadata --no-deps`, including build and dev dependencies.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = elements(&metadata["packages"]);
    if packages.is_empty() {
        return vec![Finding::new("Cargo.toml", 1, "cargo metadata lists no member")];
    }
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let problems = match floor_of(name) {
            Some(floor) => refused(elements(&package["dependencies"]), floor),
            None => vec!["has no floor: add it to xtask/src/checks/floors.rs".to_owned()],
        };
        findings.extend(Finding::all(&format!("{name}/Cargo.toml"), 1, problems));
    }
    findings
}

/// Names the dependencies that a crate on `floor` may not have.
fn refused(dependencies: &[Value], floor: Option<u8>) -> Vec<String> {
    let problem = |dependency: &Value| {
        let on = dependency["name"].as_str().unwrap_or_default();
        let kind = dependency["kind"].as_str().unwrap_or("normal");
        let allowed = match floor_of(on) {
            Some(below) => below.is_some() && below < floor,
            // A registry crate.
            None => dependency["path"].is_null(),
        };
        (!allowed).then(|| format!("may not depend on `{on}` ({kind}): only lower floors"))
    };
    dependencies.iter().filter_map(problem).collect()
}

fn elements(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the floor of a member, or `None` for an unknown name.
fn floor_of(name: &str) -> Option<Option<u8>> {
    FLOORS.iter().find(|(member, _)| *member == name).map(|&(_, floor)| floor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(name: &str, on: &str, kind: Value) -> usize {
        check(&json!({ "packages": [{ "name": name, "dependencies": [{ "name": on, "kind": kind, "path": "x" }] }] })).len()
    }

    #[test]
    fn refuses_sideways_and_upwards() {
        assert_eq!(findings("bitnet-inference", "bitnet-quant", Value::Null), 0);
        assert_eq!(findings("bitnet-inference", "bitnet-training", json!("dev")), 1);
        assert_eq!(findings("bitnet-core", "bitnet-cpu", json!("dev")), 1);
        assert_eq!(findings("bitnet-cli", "xtask", Value::Null), 1);
        assert_eq!(findings("xtask", "bitnet-core", Value::Null), 1);
    }

    #[test]
    fn refuses_a_member_without_a_floor_and_an_empty_workspace() {
        assert_eq!(findings("bitnet-surprise", "bitnet-core", Value::Null), 1);
        assert_eq!(findings("bitnet-cli", "bitnet-surprise", Value::Null), 1);
        assert_eq!(check(&json!({ "packages": [] })).len(), 1);
    }
}
