//! The header of a safetensors file, strictly validated and compactly stored.
//!
//! A header may describe a million tensors, so that an entry is 32 bytes: names stay in the file, shapes are contiguous
//! in one vector, names are found by a sorted table of 32-bit hashes.
//! A name written with JSON escapes is copied next to it.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::dtype::Dtype;

/// A validated header; its ranges refer to the parsed bytes.
#[derive(Debug)]
pub struct Header {
    pub(super) data_start: usize,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) entries: Vec<Entry>,
    pub(super) shapes: Vec<u64>,
    pub(super) escaped_names: String,
    /// (hash of the name, index of the entry), sorted.
    pub(super) by_hash: Vec<(u32, u32)>,
    pub(super) hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name_start: u32,
    pub(super) name_len: u32,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) shape_start: u32,
    pub(super) n_dims: u8,
    pub(super) dtype: Dtype,
    /// Whether the name is in `escaped_names` instead of the file.
    pub(super) escaped: bool,
}

impl Entry {
    /// Returns the offset for error messages: that of the name, or of the header if the name has escapes.
    pub(super) fn offset(&self) -> u64 {
        if self.escaped { 8 } else { self.name_start.into() }
    }
}

/// The result of [`Header::find`].
pub(super) struct Found {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its byte range in the file.
    pub(super) range: Range<usize>,
}

impl Header {
    /// Returns the number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the offset of the tensor data in the file, in bytes.
    #[must_use]
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Returns the `__metadata__` of the file, in file order.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Iterates over the tensor names in file order; `bytes` are those of the file.
    pub fn names<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a str> {
        self.entries.iter().map(move |entry| self.name(entry, bytes))
    }

    pub(super) fn name<'a>(&'a self, entry: &Entry, bytes: &'a [u8]) -> &'a str {
        let start = entry.name_start as usize;
        let range = start..start + entry.name_len as usize;
        if entry.escaped {
            return self.escaped_names.get(range).unwrap_or("");
        }
        // Validated as UTF-8 by the parser; empty if the file has changed since.
        bytes.get(range).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }

    pub(super) fn hash(&self, name: &str) -> u32 {
        (self.hasher.hash_one(name) >> 32) as u32
    }

    pub(super) fn find(&self, bytes: &[u8], name: &str) -> Option<Found> {
        let hash = self.hash(name);
        let first = self.by_hash.partition_point(|&(other, _)| other < hash);
        let same = self.by_hash.get(first..)?.iter().take_while(|&&(other, _)| other == hash);
        let mut entries = same.filter_map(|&(_, index)| self.entries.get(index as usize));
        let entry = entries.find(|entry| self.name(entry, bytes) == name)?;
        let shape = self
            .shape(entry)
            .iter()
            .map(|&dim| usize::try_from(dim).ok())
            .collect::<Option<_>>()?;
        let begin = self.data_start + usize::try_from(entry.begin).ok()?;
        let end = self.data_start + usize::try_from(entry.end).ok()?;
        Some(Found { dtype: entry.dtype, shape, range: begin..end })
    }

    pub(super) fn shape(&self, entry: &Entry) -> &[u64] {
        let start = entry.shape_start as usize;
        self.shapes.get(start..start + usize::from(entry.n_dims)).unwrap_or(&[])
    }
}
