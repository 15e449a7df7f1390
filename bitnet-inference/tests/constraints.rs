//! Texts written under a constraint follow it to the end, and what can't be enforced is refused by name.
#![allow(clippy::unwrap_used, reason = "a test fails with what it did not expect")]

use std::sync::Arc;

use bitnet_inference::constraint::{Constraint, Grammar};
use bitnet_inference::engine::{Engine, EngineConfig, EngineError, Request};
use bitnet_inference::sampler::SamplerConfig;
use bitnet_inference::{
    DraftMode, FinishReason, GenerateOptions, Generated, InferenceError, Model, Result,
};
use serde_json::{Value, json};

/// Greedy for 0, else sampled.
fn options(grammar: &Arc<Grammar>, seed: u64) -> GenerateOptions {
    let sampler = match seed {
        0 => SamplerConfig::default(),
        seed => SamplerConfig { temperature: 1.0, top_p: 0.95, seed, ..SamplerConfig::default() },
    };
    let constraint = Some(Arc::clone(grammar));
    GenerateOptions { sampler, max_tokens: 450, constraint, ..GenerateOptions::default() }
}

fn prompt(model: &Model) -> Vec<u32> {
    model.encode_prompt("Once upon a time there was a").unwrap()
}

fn write(model: &Model, options: &GenerateOptions) -> Result<Generated> {
    let prompt = prompt(model);
    let mut session = model.session(None)?;
    let mut generation = session.generate(&prompt, options)?;
    generation.by_ref().try_for_each(|token| token.map(drop))?;
    Ok(generation.finish())
}

fn compile(model: &Model, constraint: &Constraint) -> Arc<Grammar> {
    model.compile_constraint(constraint).unwrap()
}

fn animal() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
            "kind": {"enum": ["dog", "cat", "bird"]},
            "toys": {
                "type": "array",
                "items": {"type": "string", "maxLength": 8},
                "minItems": 1,
                "maxItems": 3
            }
        },
        "required": ["name", "age", "kind", "toys"],
        "additionalProperties": false
    })
}

fn is_animal(value: &Value) -> bool {
    let short = |value: &Value, most| value.as_str().is_some_and(|t| t.chars().count() <= most);
    let toys = value["toys"].as_array().unwrap();
    short(&value["name"], 12)
        && value["age"].as_u64().is_some_and(|age| (1..=99).contains(&age))
        && ["dog", "cat", "bird"].contains(&value["kind"].as_str().unwrap())
        && (1..=3).contains(&toys.len())
        && toys.iter().all(|toy| short(toy, 8))
        && value.as_object().unwrap().len() == 4
}

type Check = fn(&Value) -> bool;

#[test]
fn json_is_valid_under_its_schema() {
    let model = Model::embedded().unwrap();
    let cases: [(Value, Check); 5] = [
        (animal(), is_animal),
        (
            json!({"type": "array", "prefixItems": [{"type": "boolean"}, {"const": null}], "items": false, "minItems": 2}),
            |v| v[0].is_boolean() && v[1].is_null() && v.as_array().unwrap().len() == 2,
        ),
        (json!({"type": "string", "pattern": "^[a-f]+-[0-9]{2,3}$", "maxLength": 20}), |v| {
            let (left, right) = v.as_str().unwrap().split_once('-').unwrap();
            left.bytes().all(|b| (b'a'..=b'f').contains(&b)) && (2..=3).contains(&right.len())
        }),
        (
            json!({"anyOf": [{"type": "number", "minimum": -2.5, "maximum": 7}, {"type": "null"}]}),
            |v| v.is_null() || v.as_f64().is_some_and(|number| (-2.5..=7.0).contains(&number)),
        ),
        (
            json!({"$ref": "#/$defs/list", "$defs": {"list": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/list"}}}}),
            |v| v.as_array().is_some_and(|items| items.len() <= 1),
        ),
    ];
    for (schema, is_valid) in cases {
        let grammar = compile(&model, &Constraint::JsonSchema(schema.clone()));
        let mut complete = 0;
        for seed in 0..6 {
            let written = write(&model, &options(&grammar, seed)).unwrap();
            // A text that was cut short is not complete; all others are valid.
            if written.finish == FinishReason::EndOfText {
                let value: Value = serde_json::from_str(&written.text).unwrap();
                assert!(is_valid(&value), "{schema} {}", written.text);
                complete += 1;
            }
        }
        assert!(complete > 0, "{schema}");
    }
}

#[test]
fn a_text_may_end_exactly_where_its_grammar_may() {
    let model = Model::embedded().unwrap();
    let end = *model.end_tokens().first().unwrap();
    let grammar = compile(&model, &Constraint::Regex("(ab){1,3}c?".into()));
    let tokenizer = model.tokenizer().unwrap();
    let token = |text: &str| tokenizer.encode(text, Default::default()).unwrap()[0];
    let mut matcher = grammar.matcher();
    for (text, may_end) in [("a", false), ("b", true), ("a", false), ("b", true), ("c", true)] {
        assert!(matcher.mask().allows(token(text)));
        let is_ended = matcher.accept(token(text)).unwrap();
        assert_eq!((matcher.may_end(), is_ended), (may_end, text == "c"));
        assert_eq!(matcher.mask().allows(end), may_end && !is_ended);
    }
    // Past its end, and after a token that was not allowed, nothing goes on.
    for mut matcher in [matcher, grammar.matcher()] {
        assert!(matcher.accept(token("z")).is_err());
        assert!(matcher.accept(token("a")).is_err());
        assert_eq!(matcher.mask().count(), 0);
    }

    let word = compile(&model, &Constraint::Regex("[a-z ]+".into()));
    let ignoring = GenerateOptions { ignore_end: true, max_tokens: 60, ..options(&word, 0) };
    assert_eq!(write(&model, &ignoring).unwrap().finish, FinishReason::Length);
}

/// Every token of the vocabulary is allowed exactly if what was written and its bytes begin one of all texts.
#[test]
fn masks_are_those_of_brute_force() {
    let model = Model::embedded().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let choices = ["apple pie", "apple tart", "a", "the \"dog\"", "{\n}", "\u{e9}t\u{e9}", "1.5"];
    let mut letters: Vec<String> = Vec::new();
    for a in ["", "a", "b"] {
        for b in ["", "he", "the"] {
            letters.extend(["", "e", "x"].map(|c| format!("{a}{b}{c}")));
        }
    }
    let cases = [
        (Constraint::choice(&choices), choices.map(str::to_owned).to_vec()),
        (Constraint::Regex("[ab]?(he|the)?[ex]?".into()), letters),
    ];
    for (constraint, texts) in cases {
        let grammar = compile(&model, &constraint);
        let mut todo = vec![(grammar.matcher(), Vec::new())];
        let mut states = 0;
        while let Some((matcher, written)) = todo.pop().filter(|_| states < 60) {
            states += 1;
            assert_eq!(matcher.may_end(), texts.iter().any(|text| text.as_bytes() == written));
            for id in 0..model.config().vocab_size as u32 {
                let bytes = tokenizer.token_bytes(id).unwrap();
                let longer = [&written[..], &bytes].concat();
                let is_text = !bytes.is_empty() && !tokenizer.is_special(id);
                let begins = texts.iter().any(|text| text.as_bytes().starts_with(&longer));
                let ends = model.end_tokens().contains(&id) && matcher.may_end();
                let expected = !matcher.is_ended() && ((is_text && begins) || ends);
                assert_eq!(matcher.mask().allows(id), expected, "{written:?} {bytes:?}");
                if expected && !ends {
                    let mut next = matcher.clone();
                    next.accept(id).unwrap();
                    todo.push((next, longer));
                }
            }
        }
        assert!(states > 10);
    }
}

#[test]
fn the_engine_writes_what_a_session_writes() {
    let model = Arc::new(Model::embedded().unwrap());
    let engine = Engine::start(Arc::clone(&model), EngineConfig::default()).unwrap();
    let constraints = [
        Constraint::JsonSchema(animal()),
        Constraint::JsonObject,
        Constraint::Regex("[A-Z][a-z ]{5,40}\\.".into()),
        Constraint::Lark(
            "start: pair (\", \" pair)~1..3\npair: /[a-z]{1,6}/ \"=\" /[0-9]+/".into(),
        ),
    ];
    let mut expected = Vec::new();
    let mut answers = Vec::new();
    for constraint in &constraints {
        let grammar = compile(&model, constraint);
        for seed in [0, 5] {
            let max_tokens = 120;
            let options = GenerateOptions { max_tokens, ..options(&grammar, seed) };
            // Drafts are not used under a constraint.
            let options = GenerateOptions { draft: DraftMode::NGram, ..options };
            let mut of_request = Vec::new();
            for choice in 0..2 {
                let mut alone = options.clone();
                alone.sampler.seed += choice;
                of_request.push(write(&model, &alone).unwrap());
            }
            expected.push(of_request);
            let request = Request { choices: 2, ..Request::new(prompt(&model), options) };
            answers.push(engine.submit(request).unwrap());
        }
    }
    for (answer, expected) in answers.into_iter().zip(expected) {
        let answer = answer.wait().unwrap();
        for (text, alone) in answer.texts.iter().zip(&expected) {
            assert_eq!((&text.text, &text.tokens), (&alone.text, &alone.tokens));
            assert_eq!(text.finish, Some(alone.finish));
        }
    }
}

/// A text whose matcher gives up ends with an error, never without its constraint; others do not notice.
#[test]
fn a_matcher_that_gives_up_ends_its_own_text() {
    let model = Arc::new(Model::embedded().unwrap());
    let engine = Engine::start(Arc::clone(&model), EngineConfig::default()).unwrap();
    let good = compile(&model, &Constraint::JsonSchema(animal()));
    // After its first token no text is complete; and one that needs more memory than a matcher may have.
    let [bad, large] = [
        Constraint::Lark("start: \"a\" b\nb: b".into()),
        Constraint::Regex("((a{1,100}){1,100}){1,100}".into()),
    ]
    .map(|constraint| compile(&model, &constraint));
    let expected = write(&model, &options(&good, 2)).unwrap().text;
    for grammar in [&bad, &large] {
        let error = write(&model, &options(grammar, 0)).unwrap_err();
        assert!(matches!(error, InferenceError::Constraint(_)), "{error}");
    }
    let submit =
        |grammar| engine.submit(Request::new(prompt(&model), options(grammar, 2))).unwrap();
    for _ in 0..2 {
        let answers = [submit(&good), submit(&bad), submit(&good)].map(|answer| answer.wait());
        for answer in [&answers[0], &answers[2]] {
            assert_eq!(answer.as_ref().unwrap().texts[0].text, expected);
        }
        let error = answers[1].as_ref().unwrap_err();
        assert!(matches!(error, EngineError::Inference(InferenceError::Constraint(_))), "{error}");
    }
    assert_eq!(engine.unfinished(), 0);
}

#[test]
fn a_constraint_of_another_model_is_refused() {
    let (model, other) = (Model::embedded().unwrap(), Model::embedded().unwrap());
    let grammar = compile(&other, &Constraint::JsonObject);
    let error = write(&model, &options(&grammar, 0)).unwrap_err().to_string();
    assert!(error.contains("constraint") && error.contains("another model"), "{error}");
}

#[test]
fn schemas_that_cannot_be_enforced_are_refused_with_the_path() {
    let model = Model::embedded().unwrap();
    let mut deep = json!({"type": "null"});
    for _ in 0..100 {
        deep = json!({"items": deep});
    }
    let many: Vec<String> = (0..20_000).map(|index| index.to_string()).collect();
    let wide: serde_json::Map<_, _> =
        (0..5_000).map(|index| (format!("p{index}"), json!(true))).collect();
    let product = |options: usize| {
        let one =
            |i: usize, j: usize| json!({"properties": {format!("p{i}{j}"): {"type": "null"}}});
        let any = |i: usize| json!({"anyOf": (0..options).map(|j| one(i, j)).collect::<Vec<_>>()});
        json!({"allOf": (0..options).map(any).collect::<Vec<_>>()})
    };
    for (schema, words) in [
        (json!(7), &["#", "object or a boolean"][..]),
        (json!(false), &["nsatisfiable"]),
        (json!({"not": {}}), &["#: not"]),
        (json!({"properties": {"a": {"items": {"if": true}}}}), &["#/properties/a/items: if"]),
        (
            json!({"properties": {"a/b": {"uniqueItems": true}}}),
            &["#/properties/a~1b: uniqueItems"],
        ),
        (json!({"minLenght": 3}), &["minLenght"]),
        (json!({"type": "strin"}), &["type", "string"]),
        (json!({"type": []}), &["type"]),
        (json!({"enum": []}), &["enum"]),
        (json!({"enum": "a"}), &["enum", "array"]),
        (json!({"required": [1]}), &["required"]),
        (json!({"properties": []}), &["properties", "object"]),
        (json!({"minItems": -1}), &["minItems"]),
        (json!({"maxLength": 1e99}), &["maxLength"]),
        (json!({"minLength": 1_000_000_000}), &["minLength", "10000"]),
        (json!({"minimum": "1"}), &["minimum"]),
        (json!({"multipleOf": 0}), &["multipleOf"]),
        (json!({"multipleOf": 123_456_789}), &["multipleOf"]),
        (json!({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}), &["multipleOf"]),
        (json!({"format": "postcode"}), &["format", "date-time"]),
        (json!({"pattern": "^(?=a)"}), &["pattern", "look-around"]),
        (json!({"pattern": "a("}), &["pattern", "unclosed"]),
        (json!({"pattern": "(".repeat(60_000)}), &["pattern"]),
        (json!({"patternProperties": {"a\\": true}}), &["#/patternProperties/a"]),
        (json!({"patternProperties": {"a": true, "b": true}}), &["patternProperties"]),
        (json!({"$ref": "https://example.org/schema.json"}), &["$ref", "example.org"]),
        (json!({"$ref": "#/$defs/none"}), &["$ref", "nothing"]),
        (json!({"$ref": "#"}), &["no token may follow"]),
        (json!({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}), &["#/$defs/a: not"]),
        (json!({"properties": {"a": {"$id": "b"}}}), &["#/properties/a: $id"]),
        (json!({"$schema": "http://example.org"}), &["$schema"]),
        (json!({"nullable": true}), &["nullable", "null"]),
        (json!({"x-guidance": {"lenient": true}, "not": {}}), &["x-guidance"]),
        (
            json!({"properties": {"a": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}}}),
            &["#/properties/a: oneOf", "anyOf"],
        ),
        (json!({"enum": many}), &["values", "10000"]),
        (json!({"properties": wide}), &["subschemas", "3000"]),
        (json!({"description": "x".repeat(100_000)}), &["bytes"]),
        (product(8), &["too large"]),
        (deep, &["depth"]),
    ] {
        let shown: String = schema.to_string().chars().take(200).collect();
        let error = model.compile_constraint(&Constraint::JsonSchema(schema)).unwrap_err();
        assert!(matches!(error, InferenceError::Constraint(_)), "{shown} {error}");
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{shown} {error}");
    }
}

#[test]
fn regexes_and_grammars_that_are_not_valid_are_refused() {
    let model = Model::embedded().unwrap();
    let nested = |count: usize| format!("start: {}\"a\"{}", "(".repeat(count), ")".repeat(count));
    let hidden = format!("start: <\"> {}\"a\"{}", "(".repeat(9_000), ")".repeat(9_000));
    for (constraint, words) in [
        (Constraint::Regex(String::new()), &["empty"][..]),
        (Constraint::Regex("a(".into()), &["unclosed group"]),
        (Constraint::Regex("(?=a)b".into()), &["look-around"]),
        (Constraint::Regex("\\bfoo".into()), &["lookaround"]),
        (Constraint::Regex("abc\\".into()), &["escape"]),
        (Constraint::Regex("a{5,1}".into()), &["repetition"]),
        (Constraint::Regex("(?P<stop>a)".into()), &["stop"]),
        (Constraint::Regex("(".repeat(60_000)), &["unclosed"]),
        (Constraint::Regex("(".repeat(9_000) + "a" + &")".repeat(9_000)), &["nested"]),
        (Constraint::Regex("x".repeat(100_000)), &["bytes"]),
        (Constraint::Lark(String::new()), &["start"]),
        (Constraint::Lark(nested(60_000)), &["bytes"]),
        (Constraint::Lark(nested(20_000)), &["depth of brackets"]),
        (Constraint::Lark(hidden), &["depth of brackets"]),
        (Constraint::Lark("start: nowhere".into()), &["nowhere"]),
        (Constraint::Lark("start: start".into()), &["no token may follow"]),
        (Constraint::Lark("start: <|nowhere|>".into()), &["<|nowhere|>"]),
        (Constraint::Lark("start: \"\"".into()), &["empty"]),
        (Constraint::Lark("start: %json {\"not\": {}}".into()), &["not"]),
        (
            Constraint::Lark("start: %json {\"x-guidance\": {\"lenient\": true}}".into()),
            &["x-guidance"],
        ),
        (Constraint::Lark("start: a\na[temperature=0.5]: /b/".into()), &["temperature"]),
    ] {
        let error = model.compile_constraint(&constraint).unwrap_err();
        assert!(matches!(error, InferenceError::Constraint(_)), "{error}");
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{constraint:.99?} {error}");
    }
}

/// Large repeats cost nothing before they are written.
#[test]
fn large_repeats_are_followed() {
    let model = Model::embedded().unwrap();
    for constraint in [
        Constraint::Regex("(a{1000}){1000}".into()),
        Constraint::Regex("(a|b)*a(a|b){300}".into()),
        Constraint::Lark("start: b{1000000}\nb: \"a\" c\nc: \"a\"".into()),
        Constraint::JsonSchema(json!({"type": "array", "minItems": 10_000})),
        Constraint::JsonSchema(json!({"type": "string", "pattern": "^(a{1000}){1000}$"})),
    ] {
        let grammar = compile(&model, &constraint);
        let options = GenerateOptions { max_tokens: 50, ..options(&grammar, 0) };
        assert_eq!(write(&model, &options).unwrap().finish, FinishReason::Length);
    }
}
