//! A meter for the work and memory of one rendering: everything that a template makes is paid for before it is stored.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::python;

/// Price of one list element, map entry or call, in bytes.
const ITEM: u64 = 64;
/// Deepest nesting of lists and maps.
const MAX_DEPTH: usize = 100;

/// What one rendering may still use.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicU64,
    /// Longest single text.
    longest: u64,
    /// Why the rendering was stopped, if it was.
    stopped: Mutex<Option<Stop>>,
}

/// Why a rendering was stopped by us and not by the engine.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    /// A limit was reached.
    Limit(String),
    /// The template called `raise_exception`.
    Raised(String),
}

impl Budget {
    /// A budget of `bytes` of work, with no single text longer than `longest` bytes.
    pub(crate) fn new(bytes: u64, longest: u64) -> Self {
        Self { left: AtomicU64::new(bytes), longest, stopped: Mutex::new(None) }
    }

    /// Why the rendering was stopped.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Stops the rendering: notes the reason and makes the engine's error.
    pub(crate) fn stop(&self, why: Stop) -> Error {
        let text = match &why {
            Stop::Limit(text) | Stop::Raised(text) => text.clone(),
        };
        *self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(why);
        Error::new(ErrorKind::InvalidOperation, text)
    }

    fn limit(&self, what: &str) -> Error {
        self.stop(Stop::Limit(what.to_owned()))
    }

    /// Pays for `bytes` of work.
    pub(crate) fn pay(&self, bytes: u64) -> Result<(), Error> {
        let paid = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        paid.map(|_| ()).map_err(|_| self.limit("it requires too much work or memory"))
    }

    /// Pays for a text of `bytes` before it is made.
    pub(crate) fn pay_text(&self, bytes: u64) -> Result<(), Error> {
        self.pay_appended(0, usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Pays for `added` bytes that are appended to a text of `length` bytes.
    pub(crate) fn pay_appended(&self, length: usize, added: usize) -> Result<(), Error> {
        let (length, added) = (length as u64, added as u64);
        if length.saturating_add(added) > self.longest {
            return Err(self.limit(&format!("it makes a text of more than {} bytes", self.longest)));
        }
        self.pay(added)
    }

    /// Pays for reading a value through and returns its size: texts by length, items by number, shared ones each time.
    pub(crate) fn weigh(&self, value: &Value) -> Result<u64, Error> {
        self.weigh_at(value, 0)
    }

    /// Pays for reading each of these values through.
    pub(crate) fn weigh_all(&self, values: &[Value]) -> Result<(), Error> {
        values.iter().try_for_each(|value| self.weigh(value).map(drop))
    }

    fn weigh_at(&self, value: &Value, depth: usize) -> Result<u64, Error> {
        if depth > MAX_DEPTH {
            return Err(self.limit(&format!("it nests lists or maps more than {MAX_DEPTH} deep")));
        }
        let own = value.as_str().map(str::len).or(value.as_bytes().map(<[u8]>::len)).unwrap_or(0)
            as u64
            + ITEM;
        self.pay(own)?;
        let mut total = own;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    total = total.saturating_add(self.weigh_at(&item?, depth + 1)?);
                }
            }
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    total = total.saturating_add(self.weigh_at(&key, depth + 1)?);
                    total = total.saturating_add(self.weigh_at(&value.get_item(&key)?, depth + 1)?);
                }
            }
            _ => {}
        }
        Ok(total)
    }

    /// Pays for a result before it is stored, and turns a lazy sequence into a list, so that it is computed once.
    pub(crate) fn keep(&self, value: Value) -> Result<Value, Error> {
        match value.kind() {
            ValueKind::Iterable => self.list(&value).map(Value::from),
            ValueKind::Seq | ValueKind::Map => {
                self.pay(value.len().unwrap_or(1) as u64 * ITEM)?;
                Ok(value)
            }
            _ => {
                self.pay_text(value.as_str().map_or(0, str::len) as u64)?;
                Ok(value)
            }
        }
    }

    /// The items of a sequence, paid for one by one.
    pub(crate) fn list(&self, value: &Value) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()?.checked() {
            self.pay(ITEM)?;
            items.push(item?);
        }
        Ok(items)
    }

    /// A value as Python's `str` writes it, paid for while it is written.
    pub(crate) fn text(&self, value: &Value) -> Result<String, Error> {
        if let Some(text) = value.as_str() {
            self.pay_text(text.len() as u64)?;
            return Ok(text.to_owned());
        }
        self.weigh(value)?;
        self.written(|out| python::write_str(value, out))
    }

    /// What a writer writes, paid for while it is written.
    pub(crate) fn written(
        &self,
        write: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result,
    ) -> Result<String, Error> {
        let mut writer = Metered { budget: self, text: String::new() };
        write(&mut writer).map_err(|_| self.limit("it makes a text that is too long"))?;
        Ok(writer.text)
    }
}

/// A text that stops growing when the budget ends.
struct Metered<'a> {
    budget: &'a Budget,
    text: String,
}

impl fmt::Write for Metered<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let length = (self.text.len() + part.len()) as u64;
        if length > self.budget.longest || self.budget.pay(part.len() as u64).is_err() {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}
