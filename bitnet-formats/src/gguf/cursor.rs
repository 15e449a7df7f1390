//! A bounds-checked reader of little-endian fields; its errors name the field.

use std::fmt;

use crate::error::{Error, Result, check_limit};

/// A position in a file's bytes.
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Reads beyond this offset fail.
    limit: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self::at(file, bytes, 0)
    }

    /// Returns a cursor over the same bytes at another position. A position beyond the end makes every read fail.
    pub(super) fn at(file: &'a str, bytes: &'a [u8], at: usize) -> Self {
        Self { file, bytes, at: at.min(bytes.len()), limit: u64::MAX }
    }

    /// Limits further reads to offsets below `limit`, because a sparse file may be terabytes long.
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// Returns the remaining bytes.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }

    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// Reads `count` bytes.
    pub(super) fn take(&mut self, count: u64, what: fmt::Arguments<'_>) -> Result<&'a [u8]> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count))
            .and_then(|end| Some((end, self.bytes.get(self.at..end)?)));
        let Some((end, taken)) = taken else {
            let (at, available) = (self.offset(), self.remaining());
            return Err(Error::unexpected_end(self.file, what, at, count, available));
        };
        let what = format_args!("end of {what}");
        check_limit(self.file, what, self.offset(), end as u64, self.limit)?;
        self.at = end;
        Ok(taken)
    }

    /// Reads `N` bytes as an array.
    pub(super) fn array<const N: usize>(&mut self, what: fmt::Arguments<'_>) -> Result<[u8; N]> {
        let taken = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: fmt::Arguments<'_>) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: fmt::Arguments<'_>) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a string: its length, then its bytes.
    pub(super) fn string_bytes(&mut self, what: fmt::Arguments<'_>) -> Result<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(len, what)
    }
}
