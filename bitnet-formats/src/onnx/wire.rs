//! The wire format of protocol buffers: fields of a message, bounds-checked, without copies.

use std::ops::Range;

use crate::error::{Error, Result, check_limit};

/// A message of a file: a range of its bytes.
#[derive(Debug, Clone)]
pub(super) struct Message<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    end: usize,
    /// What the message is, for error messages.
    what: &'static str,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number of up to 64 bits.
    Varint(u64),
    /// Four bytes.
    Fixed32(u32),
    /// Eight bytes.
    Fixed64,
    /// A text, bytes, a message or packed numbers: a range of the file's bytes.
    Bytes(Range<usize>),
}

impl<'a> Message<'a> {
    /// The whole file as a message.
    pub(super) fn whole(file: &'a str, bytes: &'a [u8], what: &'static str) -> Self {
        Self { file, bytes, at: 0, end: bytes.len(), what }
    }

    /// A range that a field of this message has as its value.
    pub(super) fn inner(&self, range: &Range<usize>, what: &'static str) -> Self {
        let end = range.end.min(self.end);
        Self { at: range.start.min(end), end, what, ..self.clone() }
    }

    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Returns whether all fields were read.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// Reads the next field: its number and its value; `None` at the end of the message.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`] for a field that exceeds the message, [`Error::Header`] for one that is no field.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value)>> {
        if self.is_done() {
            return Ok(None);
        }
        let start = self.offset();
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok().filter(|field| (1..1 << 29).contains(field));
        let Some(field) = field else {
            let problem = format!("a field has the number {}", key >> 3);
            return Err(Error::header(self.file, self.what, start, problem));
        };
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let range = self.take(4)?;
                let four = self.bytes.get(range).and_then(|bytes| bytes.first_chunk());
                Value::Fixed32(four.map_or(0, |four| u32::from_le_bytes(*four)))
            }
            other => {
                let problem = format!("field {field} is of wire type {other}");
                return Err(Error::header(self.file, self.what, start, problem));
            }
        };
        Ok(Some((field, value)))
    }

    /// Reads a number of a packed field.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`], or [`Error::Header`] for a number of more than 64 bits.
    pub(super) fn varint(&mut self) -> Result<u64> {
        let (start, mut value) = (self.at, 0_u64);
        for index in 0..10 {
            let range = self.take(1)?;
            let byte = self.bytes.get(range.start).copied().unwrap_or(0);
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::header(self.file, self.what, start as u64, "a number has more than 64 bits"))
    }

    /// The text of a field.
    ///
    /// # Errors
    /// [`Error::Header`] if it is not UTF-8, [`Error::Limit`] if it is longer than any name.
    pub(super) fn text(&self, range: &Range<usize>, field: &str) -> Result<&'a str> {
        /// Length of a name at most; those of exporters have some hundred bytes.
        const NAME_BYTES: u64 = 4096;
        let offset = range.start as u64;
        check_limit(
            self.file,
            format_args!("length of {field}"),
            offset,
            range.len() as u64,
            NAME_BYTES,
        )?;
        let bytes = self.bytes.get(range.clone()).unwrap_or(&[]);
        str::from_utf8(bytes)
            .map_err(|_| Error::header(self.file, field, offset, "it is not UTF-8"))
    }

    fn take(&mut self, count: u64) -> Result<Range<usize>> {
        let available = self.end - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= available => {
                let start = self.at;
                self.at += count;
                Ok(start..self.at)
            }
            _ => {
                let what = format_args!("a field of {}", self.what);
                Err(Error::unexpected_end(self.file, what, self.offset(), count, available as u64))
            }
        }
    }
}
