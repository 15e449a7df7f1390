//! `bitnet run` under a JSON Schema, a regex or a grammar.

use serde_json::{Value, json};

use crate::program::{json as json_of, refused_in_a_line};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": false
}"#;

#[test]
fn text_follows_a_schema_a_regex_or_a_grammar() {
    let folder = tempfile::tempdir().unwrap();
    let (schema, grammar) = (folder.path().join("s.json"), folder.path().join("g.lark"));
    std::fs::write(&schema, SCHEMA).unwrap();
    std::fs::write(&grammar, "start: animal \" and \" animal\nanimal: \"dog\" | \"cat\"\n")
        .unwrap();
    let (schema, grammar) = (schema.to_str().unwrap(), grammar.to_str().unwrap());
    let text = |option: &str, value: &str| {
        let args = ["run", "A dog:", "--seed", "3", "-n", "300", "--json", option, value];
        let written = json_of(&args);
        assert_eq!(written["finish_reason"], "end", "{written}");
        written["text"].as_str().unwrap().to_owned()
    };
    for given in [SCHEMA, schema] {
        let value: Value = serde_json::from_str(&text("--json-schema", given)).unwrap();
        assert!(value["name"].is_string() && (1..=9).contains(&value["age"].as_u64().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 2);
    }
    assert!(["yes", "no"].contains(&text("--regex", "yes|no").as_str()));
    let animals = text("--grammar", grammar);
    let (first, second) = animals.split_once(" and ").unwrap();
    assert!([first, second].iter().all(|animal| ["dog", "cat"].contains(animal)), "{animals}");
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let gbnf = folder.path().join("g.gbnf");
    std::fs::write(&gbnf, "root ::= \"yes\"").unwrap();
    let not = json!({"properties": {"age": {"not": {"type": "null"}}}}).to_string();
    refused_in_a_line(&["run", "Hi", "--json-schema", &not], &["#/properties/age", "not"]);
    refused_in_a_line(&["run", "Hi", "--json-schema", "{\"type\":"], &["--json-schema", "JSON"]);
    refused_in_a_line(&["run", "Hi", "--json-schema", "nowhere.json"], &["nowhere.json"]);
    refused_in_a_line(&["run", "Hi", "--regex", "a("], &["--regex", "unclosed group"]);
    refused_in_a_line(&["run", "Hi", "--grammar", gbnf.to_str().unwrap()], &["GBNF", "Lark"]);
}
