//! What is done about each field of a model's files: one decision for each,
//! in tables that documentation and tests read too.
//!
//! A file's own reader obeys the fields marked [`Decision::Read`]. The functions here check all others: a value that
//! would change numbers, prompt or stopping and is not obeyed is an error or an assumption, and so is a field that no
//! table has.

mod adapter;
mod config;
mod generation;
mod gguf;
mod quantization;
mod tokenizer;
mod tokenizer_json;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use adapter::adapter_config;
pub(crate) use config::config;
pub(crate) use generation::generation_config;
pub(crate) use gguf::{gguf_assumptions, gguf_refusals};
pub(crate) use tokenizer::{TokenizerView, special_tokens_map, tokenizer_config};
pub(crate) use tokenizer_json::tokenizer_json;

/// Unknown fields of one file that are listed one by one; the rest are counted.
const MAX_UNKNOWN: usize = 16;
/// Longest value in a message, in characters.
const MAX_SHOWN: usize = 60;
/// Longest array whose elements are compared one by one.
const MAX_ELEMENTS: usize = 4096;

/// A value at which a field changes nothing. `null` is always one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Inert {
    Is(bool),
    Number(f64),
    Text(&'static str),
    /// An empty list, object or text.
    Empty,
}

/// What is done about a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decision {
    /// Obeyed, or checked where it is read; the text names where, if not by every command.
    Read(&'static str),
    /// An error unless it has one of these values; the text gives the reason.
    RefusedUnless(&'static [Inert], &'static str),
    /// Listed by `inspect` unless it has one of these values; the text names what is done instead.
    Assumption(&'static [Inert], &'static str),
    /// Changes no number, no prompt and no end of a text here; the text gives the reason.
    NoEffect(&'static str),
}

/// Names of fields, as a file spells them.
type Names = &'static [&'static str];

/// Fields with one decision. A name that ends in `*` stands for all that begin so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) names: Names,
    pub(crate) decision: Decision,
}

const fn read(names: Names) -> Fields {
    Fields { names, decision: Decision::Read("") }
}

const fn read_by(names: Names, by: &'static str) -> Fields {
    Fields { names, decision: Decision::Read(by) }
}

const fn refused(names: Names, unless: &'static [Inert], why: &'static str) -> Fields {
    Fields { names, decision: Decision::RefusedUnless(unless, why) }
}

const fn assumed(names: Names, unless: &'static [Inert], instead: &'static str) -> Fields {
    Fields { names, decision: Decision::Assumption(unless, instead) }
}

const fn unused(names: Names, why: &'static str) -> Fields {
    Fields { names, decision: Decision::NoEffect(why) }
}

const FALSE: &[Inert] = &[Inert::Is(false)];
const TRUE: &[Inert] = &[Inert::Is(true)];
const ZERO: &[Inert] = &[Inert::Number(0.0), Inert::Is(false)];
const ONE: &[Inert] = &[Inert::Number(1.0)];
const ZERO_OR_ONE: &[Inert] = &[Inert::Number(0.0), Inert::Number(1.0)];
const EMPTY: &[Inert] = &[Inert::Empty];
const NEVER: &[Inert] = &[];

/// A field whose value is not obeyed and would change what the model computes, reads or writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {field}: {problem}")]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The field, as the file spells it.
    pub field: String,
    /// Its value and the reason.
    pub problem: String,
}

impl Inert {
    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Is(wanted), Value::Bool(found)) => wanted == *found,
            (Self::Number(wanted), Value::Number(found)) => found.as_f64() == Some(wanted),
            (Self::Text(wanted), Value::String(found)) => wanted == found,
            (Self::Empty, Value::Array(found)) => found.is_empty(),
            (Self::Empty, Value::Object(found)) => found.is_empty(),
            (Self::Empty, Value::String(found)) => found.is_empty(),
            _ => false,
        }
    }
}

/// Whether a value changes nothing: `null`, one of `inert`, or a list of such values.
fn is_inert(value: &Value, inert: &[Inert]) -> bool {
    if value.is_null() || inert.iter().any(|one| one.holds(value)) {
        return true;
    }
    match value {
        Value::Array(all) if !all.is_empty() && all.len() <= MAX_ELEMENTS => {
            all.iter().all(|element| inert.iter().any(|one| one.holds(element)))
        }
        _ => false,
    }
}

/// All names with their decisions.
fn named(fields: &[Fields]) -> impl Iterator<Item = (&'static str, Decision)> {
    fields.iter().flat_map(|fields| fields.names.iter().map(|&name| (name, fields.decision)))
}

/// The decision about a field, from the first table that has it.
fn decision(tables: &[&[Fields]], name: &str) -> Option<Decision> {
    let all = || tables.iter().copied().flat_map(named);
    let begins = |known: &str| known.strip_suffix('*').is_some_and(|start| name.starts_with(start));
    let exact = all().find(|(known, _)| *known == name);
    exact.or_else(|| all().find(|(known, _)| begins(known))).map(|(_, decision)| decision)
}

/// A name or value in a message: its first characters, control characters escaped.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars().take(MAX_SHOWN) {
        if letter.is_control() {
            shown.extend(letter.escape_debug());
        } else {
            shown.push(letter);
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Collects what a file's fields come to.
struct Findings<'a> {
    file: &'a str,
    lines: Vec<String>,
    unknown: usize,
}

impl<'a> Findings<'a> {
    fn new(file: &'a str) -> Self {
        Self { file, lines: Vec::new(), unknown: 0 }
    }

    /// Takes one field; `path` is what messages call it.
    fn field(
        &mut self,
        tables: &[&[Fields]],
        name: &str,
        path: &str,
        value: &Value,
    ) -> Result<(), Refusal> {
        match decision(tables, name) {
            None if value.is_null() => {}
            None => self.unknown(path),
            Some(Decision::RefusedUnless(inert, why)) if !is_inert(value, inert) => {
                return Err(self.refusal(
                    path,
                    format!("{} is not supported: {why}", shown(&value.to_string())),
                ));
            }
            Some(Decision::Assumption(inert, instead)) if !is_inert(value, inert) => {
                let value = shown(&value.to_string());
                self.lines.push(format!("{}: {path} is {value}: {instead}", self.file));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Takes all fields of an object; `prefix` stands before their names in messages.
    fn object(
        &mut self,
        tables: &[&[Fields]],
        prefix: &str,
        object: &Map<String, Value>,
    ) -> Result<(), Refusal> {
        for (name, value) in object {
            self.field(tables, name, &format!("{prefix}{}", shown(name)), value)?;
        }
        Ok(())
    }

    fn unknown(&mut self, path: &str) {
        self.unknown += 1;
        if self.unknown <= MAX_UNKNOWN {
            self.lines.push(format!("{}: field {path:?} is not known to this program", self.file));
        }
    }

    fn refusal(&self, field: &str, problem: String) -> Refusal {
        Refusal { file: self.file.into(), field: field.into(), problem }
    }

    fn finish(mut self) -> Vec<String> {
        if self.unknown > MAX_UNKNOWN {
            let more = self.unknown - MAX_UNKNOWN;
            self.lines
                .push(format!("{}: {more} more fields are not known to this program", self.file));
        }
        self.lines
    }
}

/// All tables, by the file that they are about and the part of it.
#[cfg(test)]
fn tables() -> Vec<(&'static str, &'static str, &'static [Fields])> {
    let parts = [
        config::TABLES,
        quantization::TABLES,
        generation::TABLES,
        tokenizer::TABLES,
        tokenizer_json::TABLES,
        adapter::TABLES,
        gguf::TABLES,
    ];
    parts.concat()
}
