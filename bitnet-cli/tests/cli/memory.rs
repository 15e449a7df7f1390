//! Memory reports of `run --memory-report` and `train`, compared with the OS.

use serde_json::Value;

use crate::program::{json, ok, stderr};

/// Asserts that `found` is within 3 % of `expected`.
fn near(found: u64, expected: u64, what: &str) {
    let share = found.abs_diff(expected) as f64 / expected as f64;
    assert!(share < 0.03, "{what}: {found} bytes, and {expected} by the system");
}

/// Asserts that the report's total equals the resident set size and purposes are not empty.
pub(crate) fn adds_up(memory: &Value, purposes: &[&str]) {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {memory}"));
    let pool = &memory["pool"];
    near(number(&pool["resident"]), number(&pool["resident_by_system"]), "the pool");
    let outside = memory["outside"].as_object().unwrap();
    let outside: u64 = outside.values().map(|place| number(&place["resident"])).sum();
    near(number(&pool["resident"]) + outside, number(&memory["resident_set"]), "the process");
    near(number(&memory["sum"]), number(&memory["resident_set"]), "all mappings");
    let all = memory["purposes"].as_object().unwrap();
    for purpose in purposes {
        let line = &all[*purpose];
        let [live, peak, resident] = ["live", "peak", "resident"].map(|key| number(&line[key]));
        assert!(live > 0 && resident > 0, "{purpose}: {line}");
        assert!(resident <= live && live <= peak, "{purpose}: {line}");
    }
    let sum = |key: &str| all.values().map(|line| number(&line[key])).sum::<u64>();
    assert_eq!(sum("live"), number(&pool["live"]), "the accounts are the records");
    assert_eq!(sum("resident") + number(&pool["kept_resident"]), number(&pool["resident"]));
    assert!(number(&memory["outside"]["program and libraries"]["resident"]) > 0);
    assert!(number(&memory["outside"]["heap (malloc)"]["resident"]) > 0);
}

#[test]
fn run_says_where_every_byte_is() {
    let args = ["run", "Once upon a time", "-n", "20", "--temp", "0", "--memory-report"];
    let with_json = json(&[&args[..], &["--json"]].concat());
    let memory = &with_json["memory"];
    if !std::path::Path::new("/proc/self/pagemap").exists() {
        assert!(memory["unavailable"].is_string(), "{memory}");
        return;
    }
    adds_up(memory, &["weights", "KV cache", "activations"]);
    let without = json(&["run", "Once upon a time", "-n", "20", "--temp", "0", "--json"]);
    assert_eq!(with_json["tokens"], without["tokens"]);
    assert!(without.get("memory").is_none());
    let table = ok(&args);
    for words in
        ["weights", "KV cache", "pool in all", "heap (malloc)", "resident set reported by the OS"]
    {
        assert!(stderr(&table).contains(words), "{words:?} is not in: {}", stderr(&table));
    }
}
