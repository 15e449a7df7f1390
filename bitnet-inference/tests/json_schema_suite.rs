//! The cases of JSON-Schema-Test-Suite: valid instances are accepted token by token, invalid ones refused.
//!
//! Run by hand, with a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite:
//!
//! ```text
//! JSON_SCHEMA_TEST_SUITE=path cargo test -p bitnet-inference --test json_schema_suite -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "a test fails with what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bitnet_inference::constraint::{Constraint, Grammar};
use bitnet_inference::tokenizer::EncodeOptions;
use bitnet_inference::{InferenceError, Model};
use serde_json::Value;

/// The cases with another outcome than the suite's, one a line: `file | schema | instance`.
const KNOWN_LIMITS: &str = include_str!("data/json_schema_limits.txt");

/// Orders of members that are tried of one instance.
const MAX_ORDERS: usize = 2000;

/// Texts of a value: one for each order of the members of its objects.
fn orders(value: &Value) -> Vec<String> {
    let mut texts = match value {
        Value::Object(map) => {
            let mut begun = vec![(String::new(), map.iter().collect::<Vec<_>>())];
            for _ in 0..map.len() {
                let mut longer = Vec::new();
                for (text, left) in begun {
                    for index in 0..left.len() {
                        let mut left = left.clone();
                        let (key, value) = left.remove(index);
                        for value in orders(value) {
                            let comma = if text.is_empty() { "" } else { "," };
                            let key = Value::String(key.clone());
                            longer.push((format!("{text}{comma}{key}:{value}"), left.clone()));
                        }
                    }
                    longer.truncate(MAX_ORDERS);
                }
                begun = longer;
            }
            begun.into_iter().map(|(text, _)| format!("{{{text}}}")).collect()
        }
        Value::Array(items) => {
            let mut texts = vec![String::new()];
            for item in items {
                let longer = texts.iter().flat_map(|text| {
                    let comma = if text.is_empty() { "" } else { "," };
                    orders(item).into_iter().map(move |item| format!("{text}{comma}{item}"))
                });
                texts = longer.take(MAX_ORDERS).collect();
            }
            texts.into_iter().map(|text| format!("[{text}]")).collect()
        }
        value => vec![value.to_string()],
    };
    texts.truncate(MAX_ORDERS);
    texts
}

/// Whether the grammar accepts a text: each token is allowed, and the text may end after the last.
fn accepts(model: &Model, grammar: &Grammar, text: &str) -> bool {
    let tokenizer = model.tokenizer().unwrap();
    let tokens = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
    let mut matcher = grammar.matcher();
    for token in tokens {
        if !matcher.mask().allows(token) || matcher.accept(token).is_err() {
            return false;
        }
    }
    matcher.may_end()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
#[ignore = "needs a checkout of JSON-Schema-Test-Suite"]
fn every_case_is_enforced_or_refused_by_name() {
    let Some(suite) = std::env::var_os("JSON_SCHEMA_TEST_SUITE") else {
        panic!("JSON_SCHEMA_TEST_SUITE must name a checkout of JSON-Schema-Test-Suite");
    };
    let folder = PathBuf::from(suite).join("tests/draft2020-12");
    let model = Model::embedded().unwrap();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut refused, mut limits) = (BTreeMap::<String, usize>::new(), BTreeSet::new());
    for file in files(&folder) {
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        let part = if name.starts_with("optional") { "optional" } else { "required" };
        let groups: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let tests = group["tests"].as_array().unwrap();
            let constraint = Constraint::JsonSchema(group["schema"].clone());
            let grammar = match model.compile_constraint(&constraint) {
                Ok(grammar) => grammar,
                Err(error) => {
                    let InferenceError::Constraint(error) = error else {
                        panic!("{name}: {error}")
                    };
                    // A schema without valid instances is refused too: that is right if the suite has none.
                    let text = error.to_string();
                    let is_empty = tests.iter().all(|test| test["valid"] == Value::Bool(false));
                    let outcome =
                        match text.contains("nsatisfiable") || text.contains("no token may") {
                            true if is_empty => "schema without valid instances refused",
                            true => "schema refused although it has valid instances",
                            false => "schema refused by name",
                        };
                    if outcome.contains("although") {
                        limits.insert(format!(
                            "{name} | {} | ",
                            group["description"].as_str().unwrap()
                        ));
                    }
                    *refused.entry(text).or_default() += 1;
                    *counts.entry((part, outcome)).or_default() += tests.len();
                    continue;
                }
            };
            for test in tests {
                let valid = test["valid"] == Value::Bool(true);
                let accepted =
                    orders(&test["data"]).iter().any(|text| accepts(&model, &grammar, text));
                let outcome = match (valid, accepted) {
                    (true, true) => "valid instance accepted",
                    (false, false) => "invalid instance refused",
                    (true, false) => "valid instance refused",
                    (false, true) => "invalid instance accepted",
                };
                *counts.entry((part, outcome)).or_default() += 1;
                if valid != accepted {
                    let text = |value: &Value| value.as_str().unwrap().to_owned();
                    let (schema, test) = (text(&group["description"]), text(&test["description"]));
                    limits.insert(format!("{name} | {schema} | {test}"));
                    println!("{outcome}: {name} | {schema} | {test}");
                }
            }
        }
    }
    for (error, count) in &refused {
        println!("{count:4} {error}");
    }
    println!("{counts:#?}");
    let known: BTreeSet<String> =
        KNOWN_LIMITS.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (limits.difference(&known).collect(), known.difference(&limits).collect());
    assert!(
        new.is_empty() && gone.is_empty(),
        "new limits: {new:#?}\nno limits any more: {gone:#?}"
    );
}
