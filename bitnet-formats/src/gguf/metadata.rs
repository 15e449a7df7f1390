//! The metadata of a GGUF file: keys in file order, and typed getters whose errors name file, key and expected type.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::value::{self, Array, Value, ValueType};
use crate::error::{Error, Result, shown};
use crate::mmap::Region;

/// The positions of a key and its value, both validated by the parser.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_offset: u64,
    pub(super) value_type: ValueType,
    pub(super) start: usize,
}

/// Keys and values of a GGUF file, in file order. Values are decoded on access.
///
/// Getters are `get_*` for required keys and `opt_*` for optional ones. A value of the wrong type is an error
/// in both. Integers of any width are accepted if the value fits.
#[derive(Debug, Clone)]
pub struct Metadata {
    region: Region,
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn new(region: Region, entries: Vec<Entry>) -> Self {
        let by_key =
            entries.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
        Self { region, entries, by_key }
    }

    /// Returns the file's name as shown in error messages.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.region.file().name()
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Iterates over keys and values in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), self.decode(entry).ok()?)))
    }

    /// Returns the value of a key, of any type.
    ///
    /// # Errors
    /// Only if the file was modified after it was opened.
    pub fn value(&self, key: &str) -> Result<Option<Value<'_>>> {
        let entry = self.by_key.get(key).and_then(|&index| self.entries.get(index));
        entry.map(|entry| self.decode(entry)).transpose()
    }

    fn decode(&self, entry: &Entry) -> Result<Value<'_>> {
        let mut cursor = Cursor::at(self.file_name(), &self.region, entry.start);
        value::read(&mut cursor, entry.value_type, &entry.key, 0)
    }

    fn opt<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let converted = convert(value).ok_or_else(|| Error::KeyType {
            file: self.file_name().to_owned(),
            key: shown(key),
            expected,
            found: value.described(),
        })?;
        Ok(Some(converted))
    }

    fn required<T>(
        &self,
        key: &str,
        expected: &'static str,
        found: Result<Option<T>>,
    ) -> Result<T> {
        let missing =
            || Error::MissingKey { file: self.file_name().to_owned(), key: shown(key), expected };
        found?.ok_or_else(missing)
    }

    fn opt_array<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.opt(key, expected, |value| collect(value.as_array()?, convert))
    }
}

/// Converts all elements of an array; `None` if one does not convert.
fn collect<'a, T>(array: Array<'a>, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(array.len()).ok()?;
    for element in array.iter() {
        all.push(convert(element)?);
    }
    (all.len() == array.len()).then_some(all)
}

const U32: &str = "an integer of 0 to 2^32-1";
const U64: &str = "an integer of 0 to 2^64-1";
const F32: &str = "a float";
const BOOL: &str = "a bool";
const STRING: &str = "a string";
const STRINGS: &str = "an array of strings";
const F32S: &str = "an array of floats";
const I32S: &str = "an array of integers of -2^31 to 2^31-1";

/// Typed getters. All fail with [`Error::KeyType`] for a value of another type or out of range; `get_*` also fail with
/// [`Error::MissingKey`].
impl Metadata {
    /// Returns a required integer that fits 32 bits.
    pub fn get_u32(&self, key: &str) -> Result<u32> {
        self.required(key, U32, self.opt_u32(key))
    }

    /// Returns an optional integer that fits 32 bits.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.opt(key, U32, |value| value.as_u64()?.try_into().ok())
    }

    /// Returns a required integer.
    pub fn get_u64(&self, key: &str) -> Result<u64> {
        self.required(key, U64, self.opt_u64(key))
    }

    /// Returns an optional integer.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        self.opt(key, U64, |value| value.as_u64())
    }

    /// Returns a required float of either width, rounded to 32 bits; it may be NaN or infinite.
    pub fn get_f32(&self, key: &str) -> Result<f32> {
        self.required(key, F32, self.opt_f32(key))
    }

    /// Returns an optional float of either width; it may be NaN or infinite.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.opt(key, F32, |value| value.as_f32())
    }

    /// Returns a required boolean.
    pub fn get_bool(&self, key: &str) -> Result<bool> {
        self.required(key, BOOL, self.opt_bool(key))
    }

    /// Returns an optional boolean.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key, BOOL, |value| value.as_bool())
    }

    /// Returns a required string.
    pub fn get_str(&self, key: &str) -> Result<&str> {
        self.required(key, STRING, self.opt_str(key))
    }

    /// Returns an optional string.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.opt(key, STRING, |value| value.as_str())
    }

    /// Returns a required array of strings.
    pub fn get_array_str(&self, key: &str) -> Result<Vec<&str>> {
        self.required(key, STRINGS, self.opt_array_str(key))
    }

    /// Returns an optional array of strings.
    pub fn opt_array_str(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.opt_array(key, STRINGS, |value| value.as_str())
    }

    /// Returns an optional array of floats of either width.
    pub fn opt_array_f32(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.opt_array(key, F32S, |value| value.as_f32())
    }

    /// Returns an optional array of integers that fit 32 signed bits.
    pub fn opt_array_i32(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.opt_array(key, I32S, |value| value.as_i64()?.try_into().ok())
    }

    /// Returns the length of an optional array of any type, without decoding it.
    pub fn opt_array_len(&self, key: &str) -> Result<Option<usize>> {
        self.opt(key, "an array", |value| Some(value.as_array()?.len()))
    }
}
