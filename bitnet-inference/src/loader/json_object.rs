//! Typed reading of JSON side files, with errors that name file and field.

use std::path::Path;

use serde_json::Value;

use super::python_json;
use crate::{InferenceError, Result};

/// Largest JSON side file that is read: those of published models are below 4 MiB.
const MAX_JSON: u64 = 16 << 20;

/// A JSON object with the file that it is from.
pub(crate) struct Object<'a> {
    pub(crate) file: &'a str,
    pub(crate) value: &'a Value,
}

impl Object<'_> {
    pub(crate) fn bad(&self, field: &str, problem: String) -> InferenceError {
        InferenceError::Config { file: self.file.into(), field: field.into(), problem }
    }

    /// The field's value, unless it is absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        self.get(field)
            .map(|v| {
                v.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                    self.bad(field, format!("{} is not a whole number of at least 0", short(v)))
                })
            })
            .transpose()
    }

    pub(crate) fn usize(&self, field: &str) -> Result<usize> {
        self.opt_usize(field)?
            .ok_or_else(|| self.bad(field, "missing; the file is incomplete".into()))
    }

    pub(crate) fn opt_f32(&self, field: &str) -> Result<Option<f32>> {
        self.get(field)
            .map(|v| {
                v.as_f64()
                    .map(|n| n as f32)
                    .filter(|n| n.is_finite())
                    .ok_or_else(|| self.bad(field, format!("{} is not a finite number", short(v))))
            })
            .transpose()
    }

    pub(crate) fn opt_bool(&self, field: &str) -> Result<Option<bool>> {
        self.get(field)
            .map(|v| {
                v.as_bool()
                    .ok_or_else(|| self.bad(field, format!("{} is not true or false", short(v))))
            })
            .transpose()
    }

    pub(crate) fn opt_str(&self, field: &str) -> Result<Option<&str>> {
        self.get(field)
            .map(|v| {
                v.as_str().ok_or_else(|| self.bad(field, format!("{} is not a string", short(v))))
            })
            .transpose()
    }

    /// A list of strings.
    pub(crate) fn opt_strings(&self, field: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let strings = value.as_array().map(|list| list.iter().map(Value::as_str).collect());
        let strings: Option<Vec<&str>> = strings.flatten();
        let strings = strings
            .ok_or_else(|| self.bad(field, format!("{} is not a list of strings", short(value))))?;
        Ok(Some(strings))
    }

    /// One token id or a list of them; -1 stands for none, as in files of transformers.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| match v.as_i64() {
            Some(-1) => Ok(None),
            Some(n) if u32::try_from(n).is_ok() => Ok(u32::try_from(n).ok()),
            _ => Err(self.bad(field, format!("{} is not a token id", short(v)))),
        };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().filter_map(|v| one(v).transpose()).collect(),
            Some(v) => Ok(one(v)?.into_iter().collect()),
        }
    }
}

/// A value in a message: its first characters, control characters escaped.
fn short(value: &Value) -> String {
    if let Some(number) = python_json::non_finite(value) {
        return number.to_owned();
    }
    let text: String = value.to_string().chars().take(40).collect();
    text.escape_debug().to_string()
}

/// Reads and parses a JSON file of at most 16 MiB, as Python's `json` does.
///
/// # Errors
/// [`InferenceError::Io`], or [`InferenceError::Config`] if it is too large or not JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let io = |source| InferenceError::Io { path: path.to_owned(), source };
    let bad = |problem: String| InferenceError::Config {
        file: path.display().to_string(),
        field: "the file".into(),
        problem,
    };
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(bad("not found; a Hugging Face folder has it beside the weights".into()));
        }
        other => other.map_err(io)?,
    };
    if !metadata.is_file() {
        return Err(bad("not a regular file".into()));
    }
    if metadata.len() > MAX_JSON {
        return Err(bad(format!("{} bytes; at most {MAX_JSON} are read", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    python_json::parse(&bytes).map_err(bad)
}
