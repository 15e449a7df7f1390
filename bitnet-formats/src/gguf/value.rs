//! Metadata values as views into the file: scalars by value, strings and arrays borrowed.

use std::fmt;

use super::cursor::Cursor;
use crate::error::{Error, Result, check_limit, shown};

/// Maximum nesting depth of arrays; models use one level.
const DEPTH_LIMIT: u64 = 4;

/// Maximum length of an array; the largest vocabularies have about 300 thousand entries.
pub(super) const ARRAY_LIMIT: u64 = 1 << 22;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the format's own names")]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The types by their ids, each with its name and the bytes of one value (`None` for variable length).
    const TABLE: &[(Self, &'static str, Option<u64>)] = &[
        (Self::U8, "u8", Some(1)),
        (Self::I8, "i8", Some(1)),
        (Self::U16, "u16", Some(2)),
        (Self::I16, "i16", Some(2)),
        (Self::U32, "u32", Some(4)),
        (Self::I32, "i32", Some(4)),
        (Self::F32, "f32", Some(4)),
        (Self::Bool, "bool", Some(1)),
        (Self::String, "string", None),
        (Self::Array, "array", None),
        (Self::U64, "u64", Some(8)),
        (Self::I64, "i64", Some(8)),
        (Self::F64, "f64", Some(8)),
    ];

    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::TABLE.get(usize::try_from(id).ok()?).map(|row| row.0)
    }

    /// Returns the type's id in files.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Returns the type's name in GGUF.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Returns the bytes of one value; `None` for variable length.
    pub(super) fn size(self) -> Option<u64> {
        Self::TABLE[self as usize].2
    }
}

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own names")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array, decoded as it is iterated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Returns the type of the elements.
    #[must_use]
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Iterates over the elements, which were validated when the file was opened. Iteration ends early if the file has
    /// changed since.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new("", self.bytes);
        let element = self.element;
        (0..self.len).map_while(move |_| read(&mut cursor, element, "", 1).ok())
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element.name(), self.len)
    }
}

impl<'a> Value<'a> {
    /// Returns the value's type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Returns the value as an unsigned integer, if it is a non-negative integer of any width.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the value as a signed integer, if it is an integer of any width that fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => self.as_u64()?.try_into().ok(),
        }
    }

    /// Returns the value as a 32-bit float, if it is a float; rounds an f64.
    #[must_use]
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// Returns the value as a boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = *self { Some(value) } else { None }
    }

    /// Returns the value as text, if it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        if let Self::String(value) = *self { Some(value) } else { None }
    }

    /// Returns the value as an array, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Self::Array(value) = *self { Some(value) } else { None }
    }

    /// Describes the type and, for scalars, the value, for error messages.
    pub(super) fn described(&self) -> String {
        match self {
            Self::U8(value) => format!("the u8 {value}"),
            Self::I8(value) => format!("the i8 {value}"),
            Self::U16(value) => format!("the u16 {value}"),
            Self::I16(value) => format!("the i16 {value}"),
            Self::U32(value) => format!("the u32 {value}"),
            Self::I32(value) => format!("the i32 {value}"),
            Self::F32(value) => format!("the f32 {value}"),
            Self::Bool(value) => format!("the bool {value}"),
            Self::String(value) => format!("the string \"{}\"", shown(value)),
            Self::Array(array) => format!("an array of {} {}", array.len, array.element.name()),
            Self::U64(value) => format!("the u64 {value}"),
            Self::I64(value) => format!("the i64 {value}"),
            Self::F64(value) => format!("the f64 {value}"),
        }
    }
}

/// Reads and validates one value of key `key`; `depth` is the number of enclosing arrays.
pub(super) fn read<'a>(
    cursor: &mut Cursor<'a>,
    value_type: ValueType,
    key: &str,
    depth: u64,
) -> Result<Value<'a>> {
    let what = format_args!("value of key \"{key}\"");
    Ok(match value_type {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(cursor.u32(what)?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::U64 => Value::U64(cursor.u64(what)?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        ValueType::Bool => {
            let at = cursor.offset();
            match cursor.array(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    let problem = format!("a bool is 0 or 1, not {other}");
                    return Err(Error::key(cursor.file(), key, at, problem));
                }
            }
        }
        ValueType::String => {
            let at = cursor.offset();
            let bytes = cursor.string_bytes(what)?;
            let problem = || Error::key(cursor.file(), key, at, "the string is not UTF-8");
            Value::String(std::str::from_utf8(bytes).map_err(|_| problem())?)
        }
        ValueType::Array => Value::Array(read_array(cursor, key, depth)?),
    })
}

/// Reads an array and validates each element.
fn read_array<'a>(cursor: &mut Cursor<'a>, key: &str, depth: u64) -> Result<Array<'a>> {
    let what = format_args!("array of key \"{key}\"");
    let at = cursor.offset();
    let nested = format_args!("depth of nested arrays of key \"{key}\"");
    check_limit(cursor.file(), nested, at, depth + 1, DEPTH_LIMIT)?;
    let id = cursor.u32(what)?;
    let element = ValueType::from_id(id).ok_or_else(|| {
        Error::key(cursor.file(), key, at, format!("array elements have the unknown type {id}"))
    })?;
    let count = cursor.u64(what)?;
    let elements = format_args!("number of array elements of key \"{key}\"");
    check_limit(cursor.file(), elements, at + 4, count, ARRAY_LIMIT)?;
    // Every bit pattern is a valid value: skip the elements.
    let whole = element.size().filter(|_| element != ValueType::Bool);
    let bytes = if let Some(size) = whole {
        cursor.take(count * size, what)?
    } else {
        let rest = cursor.rest();
        let start = cursor.offset();
        for _ in 0..count {
            read(cursor, element, key, depth + 1)?;
        }
        let read = usize::try_from(cursor.offset() - start).unwrap_or(usize::MAX);
        rest.get(..read).unwrap_or(&[])
    };
    // In range: ARRAY_LIMIT fits every usize.
    Ok(Array { element, len: count as usize, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_id() {
        for row in ValueType::TABLE {
            assert_eq!(ValueType::from_id(row.0.id()), Some(row.0));
        }
        assert_eq!(ValueType::from_id(ValueType::TABLE.len() as u32), None);
    }
}
