//! What is checked of a JSON Schema before it is compiled: that every keyword is one that can be enforced.
//!
//! The compiler behind it refuses most of what it can't enforce, without saying where, and ignores words that it does
//! not know. Here a word that is not known is an error: a misspelt `minLenght` must not be a schema that enforces less.

use std::collections::HashSet;

use llguidance::derivre::RegexBuilder;
use llguidance::regex_to_lark;
use serde_json::{Map, Value};

use super::ConstraintError;

const KIND: &str = "JSON Schema";

/// Subschemas within subschemas, at most.
const MAX_DEPTH: usize = 48;

/// Subschemas, at most.
const MAX_SCHEMAS: usize = 3_000;

/// Values of `enum` and `const`, at most.
const MAX_VALUES: usize = 10_000;

/// The product of all different multiples, without their decimal points: numbers that are multiples of several are
/// followed by a machine with so many states.
const MAX_MULTIPLES: u64 = 100_000;

/// The largest count that a keyword may name, such as `maxLength` or `minItems`.
const MAX_COUNT: u64 = 10_000;

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

/// The formats that are enforced.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Words that say nothing about which texts are valid.
const ANNOTATIONS: [&str; 17] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$anchor",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "discriminator",
    "externalDocs",
    "$defs",
    "definitions",
];

/// Versions of JSON Schema whose keywords are read.
const VERSIONS: [&str; 5] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// Returns an error naming the first keyword that can't be enforced, with its path.
pub(super) fn check(schema: &Value) -> Result<(), ConstraintError> {
    let mut walk = Walk {
        root: schema,
        todo: Vec::new(),
        seen: HashSet::new(),
        schemas: 0,
        values: 0,
        multiples: HashSet::new(),
    };
    walk.push(schema, "#".into(), 0)?;
    while let Some(Place { schema, path, depth }) = walk.todo.pop() {
        walk.check(schema, &path, depth)?;
    }
    Ok(())
}

/// Returns the path of the first subschema that has a keyword.
pub(super) fn place_of(schema: &Value, keyword: &str) -> Option<String> {
    let mut todo = vec![(schema, "#".to_owned())];
    while let Some((value, path)) = todo.pop() {
        if value.get(keyword).is_some() {
            return Some(path);
        }
        match value {
            Value::Object(map) => {
                todo.extend(map.iter().rev().map(|(key, value)| (value, at(&path, key))));
            }
            Value::Array(items) => {
                let items = items.iter().enumerate().rev();
                todo.extend(items.map(|(index, value)| (value, format!("{path}/{index}"))));
            }
            _ => {}
        }
    }
    None
}

struct Place<'a> {
    schema: &'a Value,
    path: String,
    depth: usize,
}

struct Walk<'a> {
    root: &'a Value,
    todo: Vec<Place<'a>>,
    /// Targets of references that were visited.
    seen: HashSet<&'a str>,
    schemas: usize,
    values: usize,
    multiples: HashSet<u64>,
}

/// Where a keyword stands, for messages.
struct At<'p> {
    path: &'p str,
    keyword: &'p str,
}

impl At<'_> {
    fn bad<T>(&self, problem: impl Into<String>) -> Result<T, ConstraintError> {
        Err(ConstraintError::Keyword {
            path: self.path.to_owned(),
            keyword: self.keyword.to_owned(),
            problem: problem.into(),
        })
    }

    fn object<'a>(&self, value: &'a Value) -> Result<&'a Map<String, Value>, ConstraintError> {
        value.as_object().map_or_else(|| self.bad("must be an object"), Ok)
    }

    fn array<'a>(&self, value: &'a Value) -> Result<&'a Vec<Value>, ConstraintError> {
        value.as_array().map_or_else(|| self.bad("must be an array"), Ok)
    }

    fn text<'a>(&self, value: &'a Value) -> Result<&'a str, ConstraintError> {
        value.as_str().map_or_else(|| self.bad("must be a string"), Ok)
    }

    fn ensure(&self, holds: bool, problem: &str) -> Result<(), ConstraintError> {
        if holds { Ok(()) } else { self.bad(problem) }
    }
}

/// Returns the path of a member.
fn at(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl<'a> Walk<'a> {
    fn push(
        &mut self,
        schema: &'a Value,
        path: String,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        self.schemas += 1;
        within("subschemas", self.schemas, MAX_SCHEMAS)?;
        within("depth of subschemas", depth, MAX_DEPTH)?;
        self.todo.push(Place { schema, path, depth });
        Ok(())
    }

    fn check(
        &mut self,
        schema: &'a Value,
        path: &str,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            _ => return At { path, keyword: "schema" }.bad("must be an object or a boolean"),
        };
        for (keyword, value) in map {
            self.keyword(&At { path, keyword }, map, value, depth)?;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        place: &At<'_>,
        schema: &'a Map<String, Value>,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        let is_root = place.path == "#";
        match place.keyword {
            // First: an annotation's name begins like none of the others.
            word if ANNOTATIONS.contains(&word) => Ok(()),
            "$schema" => {
                let version = place.text(value)?.trim_end_matches('#');
                place.ensure(is_root && VERSIONS.contains(&version), "is not a known version here")
            }
            "$id" | "id" => {
                place.text(value)?;
                place.ensure(is_root, "is read at the root only: references are taken from there")
            }
            "$ref" => self.reference(place, value, depth),
            "type" => types(place, value),
            "enum" => {
                let values = place.array(value)?;
                place.ensure(!values.is_empty(), "must have a value")?;
                values.iter().try_for_each(|value| self.literal(value))
            }
            "const" => self.literal(value),
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => self.list(place, value, depth),
            "items" if value.is_array() => self.list(place, value, depth),
            "additionalItems" if schema.contains_key("prefixItems") => {
                place.bad("has no meaning beside `prefixItems`; use `items`")
            }
            "items" | "additionalItems" | "additionalProperties" => {
                self.push(value, at(place.path, place.keyword), depth + 1)
            }
            "properties" | "patternProperties" => self.members(place, value, depth),
            "required" => {
                let names = place.array(value)?;
                place.ensure(names.iter().all(Value::is_string), "must be names of properties")
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minLength"
            | "maxLength" => count(place, value),
            "minimum" | "maximum" => place.ensure(value.is_number(), "must be a number"),
            "exclusiveMinimum" | "exclusiveMaximum" => {
                let holds = value.is_number() || value.is_boolean();
                place.ensure(holds, "must be a number")
            }
            "multipleOf" => self.multiple(place, value),
            "pattern" => regex(place, place.text(value)?),
            "format" => {
                let problem = format!("the known formats are {}", FORMATS.join(", "));
                place.ensure(FORMATS.contains(&place.text(value)?), &problem)
            }
            "uniqueItems" | "nullable" if value == &Value::Bool(false) => Ok(()),
            "nullable" => place.bad("is not a keyword of JSON Schema; add \"null\" to `type`"),
            "x-guidance" => place.bad("options of the library behind it can't be set"),
            word if word.starts_with("x-") => Ok(()),
            _ => place.bad("can't be enforced; leave it out, and check the answer yourself"),
        }
    }

    /// Adds a non-empty list of subschemas.
    fn list(
        &mut self,
        place: &At<'_>,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        let items = place.array(value)?;
        place.ensure(!items.is_empty(), "must have a schema")?;
        let path = at(place.path, place.keyword);
        for (index, item) in items.iter().enumerate() {
            self.push(item, format!("{path}/{index}"), depth + 1)?;
        }
        Ok(())
    }

    /// Adds an object of subschemas.
    fn members(
        &mut self,
        place: &At<'_>,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        let path = at(place.path, place.keyword);
        for (name, schema) in place.object(value)? {
            if place.keyword == "patternProperties" {
                regex(&At { path: &at(&path, name), keyword: place.keyword }, name)?;
            }
            self.push(schema, at(&path, name), depth + 1)?;
        }
        Ok(())
    }

    /// Adds the target of a reference.
    fn reference(
        &mut self,
        place: &At<'_>,
        value: &'a Value,
        depth: usize,
    ) -> Result<(), ConstraintError> {
        let name = place.text(value)?;
        let inside = name == "#" || name.starts_with("#/");
        if !inside || name.contains(['~', '%']) {
            return place.bad(format!(
                "{name:?} is not read: a reference must point into this schema (`#/$defs/name`), without ~ or % escapes"
            ));
        }
        let mut target = self.root;
        for step in name.split('/').skip(1).filter(|_| name != "#/") {
            let found = match target {
                Value::Array(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => target.get(step),
            };
            match found {
                Some(found) => target = found,
                None => return place.bad(format!("{name:?} points at nothing")),
            }
        }
        if self.seen.insert(name) {
            // A chain of references is as deep for the compiler as a chain of subschemas.
            self.push(target, name.to_owned(), depth + 1)?;
        }
        Ok(())
    }

    fn multiple(&mut self, place: &At<'_>, value: &Value) -> Result<(), ConstraintError> {
        let number = value.as_f64().filter(|&number| number > 0.0);
        let Some(number) = number else { return place.bad("must be a number above 0") };
        let digits: String = number.to_string().chars().filter(char::is_ascii_digit).collect();
        self.multiples.insert(digits.parse().unwrap_or(u64::MAX));
        let product = self.multiples.iter().try_fold(1u64, |product, &m| product.checked_mul(m));
        let holds = product.is_some_and(|product| product <= MAX_MULTIPLES);
        place.ensure(holds, "is too large, alone or together with the other ones of this schema")
    }

    /// Counts the values of a literal.
    fn literal(&mut self, value: &Value) -> Result<(), ConstraintError> {
        let mut todo = vec![(value, 1)];
        while let Some((value, depth)) = todo.pop() {
            self.values += 1;
            within("values of `enum` and `const`", self.values, MAX_VALUES)?;
            within("depth of a value", depth, MAX_DEPTH)?;
            match value {
                Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
                Value::Object(map) => todo.extend(map.values().map(|item| (item, depth + 1))),
                _ => {}
            }
        }
        Ok(())
    }
}

fn within(what: &'static str, used: usize, limit: usize) -> Result<(), ConstraintError> {
    if used <= limit {
        Ok(())
    } else {
        Err(ConstraintError::TooLarge { kind: KIND, what, used, limit })
    }
}

fn types(place: &At<'_>, value: &Value) -> Result<(), ConstraintError> {
    let problem = format!("must be one of {}, or a list of them", TYPES.join(", "));
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    match value {
        Value::Array(names) => {
            place.ensure(!names.is_empty() && names.iter().all(is_type), &problem)
        }
        name => place.ensure(is_type(name), &problem),
    }
}

fn count(place: &At<'_>, value: &Value) -> Result<(), ConstraintError> {
    match value.as_u64() {
        Some(count) if count <= MAX_COUNT => Ok(()),
        Some(_) => place.bad(format!("must be at most {MAX_COUNT}")),
        None => place.bad("must be a whole number of at least 0"),
    }
}

fn regex(place: &At<'_>, pattern: &str) -> Result<(), ConstraintError> {
    let parsed = RegexBuilder::new().mk_regex_for_serach(pattern);
    match parsed
        .and_then(|_| RegexBuilder::new().mk_regex_for_serach(&regex_to_lark(pattern, "dw")))
    {
        Ok(_) => Ok(()),
        Err(error) => place.bad(format!("{pattern:?}: {}", super::compile::short(&error))),
    }
}
