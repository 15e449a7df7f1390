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
        InferenceError::config(self.file, field, problem)
    }

    /// The field's value, unless it is absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    /// What `read` makes of the field's value, which should be of this `kind`.
    fn opt<'s, T>(
        &'s self,
        field: &str,
        kind: &str,
        read: impl Fn(&'s Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let wrong = |v: &Value| self.bad(field, format!("{} is not {kind}", short(v)));
        self.get(field).map(|v| read(v).ok_or_else(|| wrong(v))).transpose()
    }

    pub(crate) fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        self.opt(field, "a whole number of at least 0", |v| usize::try_from(v.as_u64()?).ok())
    }

    pub(crate) fn usize(&self, field: &str) -> Result<usize> {
        self.opt_usize(field)?
            .ok_or_else(|| self.bad(field, "missing; the file is incomplete".into()))
    }

    pub(crate) fn opt_f32(&self, field: &str) -> Result<Option<f32>> {
        let finite = |v: &Value| Some(v.as_f64()? as f32).filter(|n| n.is_finite());
        self.opt(field, "a finite number", finite)
    }

    pub(crate) fn opt_bool(&self, field: &str) -> Result<Option<bool>> {
        self.opt(field, "true or false", Value::as_bool)
    }

    pub(crate) fn opt_str(&self, field: &str) -> Result<Option<&str>> {
        self.opt(field, "a string", Value::as_str)
    }

    /// A list of strings.
    pub(crate) fn opt_strings(&self, field: &str) -> Result<Option<Vec<&str>>> {
        self.opt(field, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
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
    let file = path.display().to_string();
    let bad = |problem: String| InferenceError::config(&file, "the file", problem);
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

/// Reads a JSON file of a folder as [`read_json`] does, if it is there.
pub(crate) fn side_file(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    path.exists().then(|| read_json(&path)).transpose()
}
