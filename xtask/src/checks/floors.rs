//! Floors: a crate depends only on crates of lower floors, in builds and in tests.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Finding;

/// Each library and program of the workspace with its floor.
const FLOORS: &[(&str, u8)] = &[
    ("bitnet-core", 0),
    ("bitnet-quant", 1),
    ("bitnet-testing", 1),
    ("bitnet-cpu", 2),
    ("bitnet-formats", 2),
    ("bitnet-hub", 2),
    ("bitnet-inference", 3),
    ("bitnet-training", 3),
    ("bitnet-convert", 4),
    ("bitnet-cli", 5),
    ("bitnet-benchmarks", 5),
];

/// The crate outside the floors: it depends on no other member and no member depends on it.
const OUTSIDE: &str = "xtask";

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
    anyhow::ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Checks the output of `cargo metadata --no-deps`, including build and dev dependencies.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    if packages.is_empty() {
        return vec![Finding::new("Cargo.toml", 1, "cargo metadata lists no member")];
    }
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Value) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = format!("{name}/Cargo.toml");
    let Some(floor) = floor_of(name) else {
        return vec![Finding::new(
            &manifest,
            1,
            format!("`{name}` has no floor: add it to xtask/src/checks/floors.rs"),
        )];
    };
    let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    let mut findings = Vec::new();
    for dependency in dependencies {
        let on = dependency["name"].as_str().unwrap_or_default();
        let kind = dependency["kind"].as_str().unwrap_or("normal");
        let allowed = match (floor, floor_of(on)) {
            // A registry crate.
            (_, None) => dependency["path"].is_null(),
            (Some(floor), Some(Some(below))) => below < floor,
            (_, Some(_)) => false,
        };
        if !allowed {
            findings.push(Finding::new(
                &manifest,
                1,
                format!("`{name}` may not depend on `{on}` ({kind}): only lower floors"),
            ));
        }
    }
    findings
}

/// Returns `Some(Some(floor))` for a member with a floor, `Some(None)` for the crate outside, `None` for unknown names.
fn floor_of(name: &str) -> Option<Option<u8>> {
    if name == OUTSIDE {
        return Some(None);
    }
    FLOORS.iter().find(|(member, _)| *member == name).map(|&(_, floor)| Some(floor))
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
