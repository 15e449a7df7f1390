//! A file of named byte arrays, written and mapped by this program: a cache, not an exchange format.
//!
//! ```text
//! 0   magic "BITNETSC"      32  bytes of the directory: u64
//! 8   version: u32          40  checksum of the directory: u64
//! 12  byte order: u32       48  zero
//! 16  bytes of the file     56  checksum of bytes 0..56: u64
//! 24  zero
//! 64  directory: key, then sections, each with a length in front:
//!     key      u32, bytes
//!     count    u32
//!     section  name: u32, bytes; offset: u64, bytes: u64, checksum: u64
//! ..  sections, each at a multiple of 64, zeros between them
//! ```
//!
//! Numbers have the byte order of the machine. Files of the other order, or whose length differs from the header, are
//! rejected. Each access to a section verifies its checksum. Files are written atomically and never modified; a new
//! version replaces the file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::atomic::{PIECE, write_atomically};
use crate::error::{Error, Result, check_limit, shown, shown_bytes, shown_path};
use crate::mmap::{MappedFile, Region};

const MAGIC: &[u8; 8] = b"BITNETSC";
const VERSION: u32 = 1;
/// Detects the byte order.
const ORDER: u32 = 0x0102_0304;
const HEADER: usize = 64;
/// Alignment of sections in bytes.
pub const ALIGNMENT: usize = 64;
/// Maximum number of sections; a model of a thousand layers has fewer.
const MAX_SECTIONS: u64 = 1 << 20;

/// An open file of sections.
#[derive(Debug)]
pub struct SectionFile {
    file: Arc<MappedFile>,
    key: Vec<u8>,
    sections: BTreeMap<String, Section>,
}

#[derive(Debug)]
struct Section {
    bytes: Region,
    checksum: u64,
}

impl SectionFile {
    /// Maps a file and checks its header and its directory.
    ///
    /// # Errors
    /// Same as [`MappedFile::open`]; [`Error::WrongFormat`], [`Error::Header`] or [`Error::UnexpectedEnd`] for a file
    /// of another kind or version, with an inconsistent length, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        file.advise_huge();
        let name = file.name().to_owned();
        let bytes = file.bytes();
        let magic = &bytes[..bytes.len().min(8)];
        if magic != MAGIC {
            return Err(Error::WrongFormat {
                file: name,
                expected: "those of a file of sections",
                found: shown_bytes(magic),
                advice: "remove it",
            });
        }
        let mut header = Cursor { file: &name, bytes, at: 8 };
        let wrong = |field, at, problem: &str| Err(Error::header(&name, field, at, problem));
        if header.u32()? != VERSION || header.u32()? != ORDER {
            return wrong("version", 8, "written by another version or on another machine");
        }
        let (len, _) = (header.u64()?, header.u64()?);
        let (directory_len, directory_sum) = (header.u64()?, header.u64()?);
        let (_, header_sum) = (header.u64()?, header.u64()?);
        if header_sum != checksum(&bytes[..HEADER - 8]) {
            return wrong("header", 0, "does not agree with its checksum");
        }
        if len != bytes.len() as u64 {
            return wrong("length", 16, "is not that of the file");
        }
        let directory = header.take(directory_len)?;
        if checksum(directory) != directory_sum {
            return wrong("directory", HEADER as u64, "does not agree with its checksum");
        }
        let (key, sections) = read_directory(&file, HEADER + directory.len())?;
        Ok(Self { file, key, sections })
    }

    /// Returns the key: the identity of the data that the file was built from.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns the mapped file.
    #[must_use]
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// Returns the names of all sections with the prefix `prefix`, in order.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.sections.range(prefix.to_owned()..).map(|(name, _)| name.as_str());
        from.take_while(move |name| name.starts_with(prefix))
    }

    /// Verifies the checksum of a section and returns its bytes without copying; `None` if there is no such section.
    ///
    /// # Errors
    /// [`Error::Header`] if the checksum differs, [`Error::Truncated`] or [`Error::Changed`] if the file has
    /// changed.
    pub fn section(&self, name: &str) -> Result<Option<Region>> {
        let Some(section) = self.sections.get(name) else { return Ok(None) };
        if checksum(&section.bytes) != section.checksum {
            self.file.check()?;
            let field = format!("section \"{}\"", shown(name));
            let problem = "does not agree with its checksum";
            return Err(Error::header(self.file.name(), &field, section.bytes.offset(), problem));
        }
        Ok(Some(section.bytes.clone()))
    }

    /// Checks that the file has not changed; see [`MappedFile::check`].
    ///
    /// # Errors
    /// Same as [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.file.check()
    }
}

/// Writes sections with unique names, in order. `key` identifies the data that they were built from.
///
/// # Errors
/// [`Error::Io`] if the file can't be written; an existing file is unchanged then.
pub fn write(path: &Path, key: &[u8], sections: &[(String, &[u8])]) -> Result<()> {
    let name = shown_path(path);
    let fixed = 4 + key.len() + 4;
    let directory_len =
        sections.iter().fold(fixed, |len, (name, _)| len + 4 + name.len() + 3 * size_of::<u64>());
    let mut directory = Vec::with_capacity(directory_len);
    put_text(&mut directory, key);
    directory.extend((sections.len() as u32).to_ne_bytes());
    let mut end = HEADER + directory_len;
    for (name, bytes) in sections {
        let offset = end.next_multiple_of(ALIGNMENT);
        put_text(&mut directory, name.as_bytes());
        for number in [offset as u64, bytes.len() as u64, checksum(bytes)] {
            directory.extend(number.to_ne_bytes());
        }
        end = offset + bytes.len();
    }
    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(VERSION.to_ne_bytes());
    header.extend(ORDER.to_ne_bytes());
    for number in [end as u64, 0, directory.len() as u64, checksum(&directory), 0] {
        header.extend(number.to_ne_bytes());
    }
    header.extend(checksum(&header).to_ne_bytes());
    write_atomically(path, |sink| {
        let mut at = 0;
        let mut put = |mut bytes: &[u8]| -> Result<usize> {
            // In pieces that end where the sink's buffer does, so that it writes whole ones.
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(bytes.len().min(PIECE - at % PIECE));
                sink.write_all(piece).map_err(|source| Error::io(&name, "write", source))?;
                at += piece.len();
                bytes = rest;
            }
            Ok(at)
        };
        put(&header)?;
        let mut at = put(&directory)?;
        for (_, bytes) in sections {
            put(&[0; ALIGNMENT][..at.next_multiple_of(ALIGNMENT) - at])?;
            at = put(bytes)?;
        }
        Ok(())
    })
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u32).to_ne_bytes());
    out.extend(text);
}

/// Parses the key and the sections of a directory that ends at byte `end`.
fn read_directory(
    file: &Arc<MappedFile>,
    end: usize,
) -> Result<(Vec<u8>, BTreeMap<String, Section>)> {
    let name = file.name();
    let mut cursor = Cursor { file: name, bytes: &file.bytes()[..end], at: HEADER };
    let key = cursor.text()?.to_vec();
    let count = cursor.u32()?;
    check_limit(name, "sections", cursor.at as u64, count.into(), MAX_SECTIONS)?;
    let mut sections = BTreeMap::new();
    for _ in 0..count {
        let at = cursor.at as u64;
        let wrong = |problem: &str| Error::header(name, "section", at, problem);
        let title =
            std::str::from_utf8(cursor.text()?).map_err(|_| wrong("has no readable name"))?;
        let (offset, len, checksum) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let range = range.and_then(|(start, len)| Some(start..start.checked_add(len)?));
        let range = range.filter(|range| range.start >= end && range.start % ALIGNMENT == 0);
        let range = range.ok_or_else(|| wrong("is not where a section may be"))?;
        let section = Section { bytes: file.region().slice(range)?, checksum };
        if sections.insert(title.to_owned(), section).is_some() {
            return Err(wrong("has the name of another one"));
        }
    }
    if cursor.at != end {
        let problem = "is longer than its content";
        return Err(Error::header(name, "directory", cursor.at as u64, problem));
    }
    Ok((key, sections))
}

struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let taken = taken.ok_or_else(|| {
            Error::unexpected_end(self.file, "a field", self.at as u64, len, rest.len() as u64)
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64> {
        let (low, high) = (self.take(4)?, self.take(4)?);
        Ok(u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()?;
        self.take(len.into())
    }
}

/// Returns a fast checksum against damage, not against forgery. It detects with certainty any difference within one
/// aligned group of eight bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    const LANES: usize = 8;
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    // Each step is a bijection of the lane for a fixed word, and of the word for a fixed lane.
    let step = |lane: u64, word: [u8; 8]| {
        (lane ^ u64::from_le_bytes(word)).rotate_left(29).wrapping_mul(ODD)
    };
    let mut lanes = [0u64; LANES];
    for (index, lane) in lanes.iter_mut().enumerate() {
        *lane = ODD.rotate_left(8 * index as u32);
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let (runs, words) = words.as_chunks::<LANES>();
    for run in runs {
        for (lane, word) in lanes.iter_mut().zip(run) {
            *lane = step(*lane, *word);
        }
    }
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = step(*lane, *word);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let sum = lanes.into_iter().fold(bytes.len() as u64, |sum, lane| step(sum, lane.to_le_bytes()));
    let sum = step(sum, last);
    sum ^ (sum >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_single_byte_changes_the_checksum() {
        for len in [1, 7, 8, 63, 64, 65, 200] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let sum = checksum(&bytes);
            for at in 0..len {
                for bit in 0..8 {
                    let mut other = bytes.clone();
                    other[at] ^= 1 << bit;
                    assert_ne!(checksum(&other), sum, "byte {at}, bit {bit}");
                }
            }
        }
        assert_ne!(checksum(&[0; 64]), checksum(&[0; 65]));
    }
}
