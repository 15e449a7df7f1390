//! The header of a safetensors file, strictly validated and compactly stored.
//!
//! A header may describe a million tensors, so that an entry is 32 bytes: names stay in the file, shapes are contiguous in one
//! vector, names are found by a sorted table of 32-bit hashes. A name written with JSON escapes is copied next to it.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::describe::describe;
use super::dtype::Dtype;
use super::json::JSON_BYTES;
use crate::error::{Error, Result, shown, shown_bytes};
use crate::sniff::{Format, refuse_pickle};

/// A validated header; its ranges refer to the parsed bytes.
#[derive(Debug)]
pub struct Header {
    data_start: usize,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) entries: Vec<Entry>,
    pub(super) shapes: Vec<u64>,
    pub(super) escaped_names: String,
    /// (hash of the name, index of the entry), sorted.
    by_hash: Vec<(u32, u32)>,
    hasher: RandomState,
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

    fn name<'a>(&'a self, entry: &Entry, bytes: &'a [u8]) -> &'a str {
        let start = entry.name_start as usize;
        let range = start..start + entry.name_len as usize;
        if entry.escaped {
            return self.escaped_names.get(range).unwrap_or("");
        }
        // Validated as UTF-8 by the parser; empty if the file has changed since.
        bytes.get(range).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("")
    }

    fn hash(&self, name: &str) -> u32 {
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

    fn shape(&self, entry: &Entry) -> &[u64] {
        let start = entry.shape_start as usize;
        self.shapes.get(start..start + usize::from(entry.n_dims)).unwrap_or(&[])
    }
}

/// Validates a safetensors file in memory; error messages call it `name`.
///
/// # Errors
/// [`Error::Pickle`], [`Error::WrongFormat`], [`Error::UnexpectedEnd`], [`Error::Limit`] or [`Error::Header`] for an
/// invalid file; [`Error::Tensor`], [`Error::UnsupportedType`] or [`Error::DuplicateTensor`] for an invalid tensor.
pub fn parse_header(bytes: &[u8], name: &str) -> Result<Header> {
    refuse_pickle(bytes, name)?;
    let json = json_of(bytes, name)?;
    let mut header = Header {
        data_start: 8 + json.len(),
        metadata: Vec::new(),
        entries: Vec::new(),
        shapes: Vec::new(),
        escaped_names: String::new(),
        by_hash: Vec::new(),
        hasher: RandomState::new(),
    };
    describe(&mut header, json, name)?;
    check_places(&header, bytes, name)?;
    check_unique(&mut header, bytes, name)?;
    Ok(header)
}

/// Returns the bytes of the JSON text.
fn json_of<'a>(bytes: &'a [u8], file: &str) -> Result<&'a [u8]> {
    let unexpected_end = |what: &str, offset, needed, available: usize| Error::UnexpectedEnd {
        file: file.to_owned(),
        what: what.to_owned(),
        offset,
        needed,
        available: available as u64,
    };
    if Format::of(bytes) == Format::Gguf {
        let (found, advice) = (shown_bytes(b"GGUF"), "open it as a GGUF file");
        return Err(Error::WrongFormat {
            file: file.to_owned(),
            expected: "a safetensors header length",
            found,
            advice,
        });
    }
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(unexpected_end("header length", 0, 8, bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > JSON_BYTES {
        return Err(Error::limit(file, "header length", 0, length, JSON_BYTES));
    }
    if length < 2 {
        return Err(Error::header(
            file,
            "header length",
            0,
            format!("it is {length}, too short for any header"),
        ));
    }
    let json = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let json = json.ok_or_else(|| unexpected_end("header", 8, length, rest.len()))?;
    if json.first() != Some(&b'{') {
        return Err(Error::header(file, "header", 8, "it does not begin with '{'"));
    }
    Ok(json)
}

/// Checks that spans match shape and type, are contiguous without gaps or overlaps, and end at the end of the file.
fn check_places(header: &Header, bytes: &[u8], file: &str) -> Result<()> {
    let data_len = (bytes.len() - header.data_start) as u64;
    let problem = |entry: &Entry, field, problem: String| {
        let offset = if entry.escaped { 8 } else { u64::from(entry.name_start) };
        Err(Error::tensor(file, header.name(entry, bytes), field, offset, problem))
    };
    for entry in &header.entries {
        let Entry { begin, end, dtype, .. } = *entry;
        let shape = header.shape(entry);
        if begin > end {
            return problem(
                entry,
                "data_offsets",
                format!("it begins at {begin}, behind its end {end}"),
            );
        }
        if end > data_len {
            return problem(
                entry,
                "data_offsets",
                format!("it ends at {end}, but the file has {data_len} bytes of data"),
            );
        }
        match dtype.nbytes(shape) {
            None => {
                return problem(
                    entry,
                    "shape",
                    format!("{shape:?} of {dtype} has more than 2^64 bytes"),
                );
            }
            Some(nbytes) if nbytes != end - begin => {
                let text = format!(
                    "{begin}..{end} are {} bytes, but {shape:?} of {dtype} has {nbytes}",
                    end - begin
                );
                return problem(entry, "data_offsets", text);
            }
            Some(_) => {}
        }
    }
    let mut order: Vec<u32> = (0..header.entries.len() as u32).collect();
    let span = |index: &u32| {
        header.entries.get(*index as usize).map_or((0, 0), |entry| (entry.begin, entry.end))
    };
    order.sort_unstable_by_key(span);
    let mut end = 0;
    for entry in order.iter().filter_map(|&index| header.entries.get(index as usize)) {
        if entry.begin < end {
            return problem(
                entry,
                "data_offsets",
                format!("it begins at {}, inside another tensor that ends at {end}", entry.begin),
            );
        }
        if entry.begin > end {
            return problem(
                entry,
                "data_offsets",
                format!("there is a hole of data before it, {end}..{}", entry.begin),
            );
        }
        end = entry.end;
    }
    if end != data_len {
        let text = format!("{} bytes follow the last tensor", data_len - end);
        return Err(Error::header(file, "data", header.data_start as u64 + end, text));
    }
    Ok(())
}

/// Fills the table of names, which must be unique.
fn check_unique(header: &mut Header, bytes: &[u8], file: &str) -> Result<()> {
    let mut by_hash = Vec::new();
    for (index, entry) in header.entries.iter().enumerate() {
        by_hash.push((header.hash(header.name(entry, bytes)), index as u32));
    }
    by_hash.sort_unstable();
    for same in by_hash.chunk_by(|one, other| one.0 == other.0).filter(|same| same.len() > 1) {
        let mut names: Vec<(&str, u32)> = same
            .iter()
            .filter_map(|&(_, index)| {
                Some((header.name(header.entries.get(index as usize)?, bytes), index))
            })
            .collect();
        names.sort_unstable();
        if let Some([_, (name, index)]) =
            names.windows(2).find(|pair| matches!(pair, [one, other] if one.0 == other.0))
        {
            let entry = header.entries.get(*index as usize);
            let offset =
                entry.filter(|entry| !entry.escaped).map_or(8, |entry| u64::from(entry.name_start));
            return Err(Error::DuplicateTensor {
                file: file.to_owned(),
                tensor: shown(name),
                offset,
            });
        }
    }
    header.by_hash = by_hash;
    Ok(())
}
