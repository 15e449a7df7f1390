//! The parser of GGUF headers. Counts, keys and tensor descriptions are checked against the available bytes.

use std::collections::HashSet;

use super::cursor::Cursor;
use super::layout::{self, Described, StoredType, TensorInfo};
use super::metadata::Entry;
use super::value::{self, Value, ValueType};
use crate::error::{Error, Result, check_limit, shown, shown_bytes};
use crate::sniff::refuse_pickle;

/// Maximum number of keys; models have fewer than a hundred.
const KEY_LIMIT: u64 = 1 << 16;
/// Maximum number of tensors; the largest models have a few thousand (experts are stacked).
const TENSOR_LIMIT: u64 = 1 << 17;
/// Maximum length of a key in bytes (the format's limit).
pub(super) const KEY_BYTES: u64 = (1 << 16) - 1;
/// Maximum total length of all keys in bytes.
const ALL_KEYS_BYTES: u64 = 8 << 20;
/// Maximum length of a tensor name in bytes (the format's limit).
pub(super) const NAME_BYTES: u64 = 64;
/// Maximum end of the metadata in bytes; the largest vocabularies need about 20 MB.
const METADATA_BYTES: u64 = 128 << 20;
/// Maximum alignment of tensors in bytes.
const ALIGNMENT_LIMIT: u32 = 1 << 20;
/// Minimum bytes of a key and its value: length, one character, type, one byte.
const SHORTEST_KEY: u64 = 8 + 1 + 4 + 1;
/// Minimum bytes of a tensor description: length, one character, n_dims, one dimension, type, offset.
const SHORTEST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Maximum number of bytes inspected after the last tensor.
const TAIL_LOOKED_AT: usize = 1 << 20;

/// Unused bytes after the last tensor, which readers of GGUF ignore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailingBytes {
    /// The number of bytes.
    pub count: u64,
    /// Whether the first MiB of them is zero.
    pub zeros: bool,
}

impl std::fmt::Display for TrailingBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.zeros { "zeros follow" } else { "bytes that are not zero follow" };
        write!(f, "{} {what} the last tensor: ignored", self.count)
    }
}

/// A validated header; its offsets refer to the parsed bytes.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The format's version, 2 or 3.
    pub version: u32,
    /// The alignment of tensor data in bytes.
    pub alignment: u64,
    /// The offset of the tensor data in bytes.
    pub data_start: u64,
    /// The tensors in file order.
    pub tensors: Vec<TensorInfo>,
    /// The bytes after the last tensor.
    pub trailing: TrailingBytes,
    pub(super) entries: Vec<Entry>,
}

/// Validates a GGUF file in memory; error messages call it `name`.
///
/// # Errors
/// See [`super::GgufFile::open`].
pub fn parse(bytes: &[u8], name: &str) -> Result<Parsed> {
    refuse_pickle(bytes, name)?;
    let mut cursor = Cursor::new(name, bytes);
    let version = read_magic_and_version(&mut cursor)?;
    let at = cursor.offset();
    let tensor_count = cursor.u64(format_args!("tensor count"))?;
    let key_count = cursor.u64(format_args!("key count"))?;
    bound(&cursor, "tensor count", at, tensor_count, SHORTEST_TENSOR, TENSOR_LIMIT)?;
    bound(&cursor, "key count", at + 8, key_count, SHORTEST_KEY, KEY_LIMIT)?;

    let entries = read_keys(&mut cursor, key_count)?;
    let alignment = alignment(name, bytes, &entries)?;
    let described = read_tensors(&mut cursor, tensor_count)?;
    let data_start = cursor.offset().checked_next_multiple_of(alignment);
    let data_start = data_start
        .ok_or_else(|| Error::header(name, "tensor data", cursor.offset(), "out of range"))?;
    let (tensors, tail) =
        layout::place(name, described, data_start, alignment, bytes.len() as u64)?;
    // In range: both are offsets in the file.
    let trailing = bytes.get(tail.start as usize..).unwrap_or_default();
    let trailing = TrailingBytes {
        count: trailing.len() as u64,
        zeros: trailing.iter().take(TAIL_LOOKED_AT).all(|&byte| byte == 0),
    };
    Ok(Parsed { version, alignment, data_start, tensors, trailing, entries })
}

fn read_magic_and_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let file = cursor.file();
    let magic: [u8; 4] = cursor.array(format_args!("magic"))?;
    if &magic != b"GGUF" {
        let legacy = matches!(&magic, b"lmgg" | b"tjgg" | b"fmgg" | b"algg");
        let advice = if legacy {
            "it is a file from before GGUF: convert the model again with a current converter"
        } else {
            "use a .gguf file, a .safetensors file or a model folder"
        };
        let found = shown_bytes(&magic);
        return Err(Error::WrongFormat { file: file.to_owned(), expected: "GGUF", found, advice });
    }
    let version = cursor.u32(format_args!("version"))?;
    match version {
        2 | 3 => Ok(version),
        _ if (1..=3).contains(&version.swap_bytes()) => {
            Err(Error::BigEndian { file: file.to_owned() })
        }
        0 | 1 => {
            let advice = "convert the model again with a current converter";
            Err(Error::UnsupportedVersion { file: file.to_owned(), version, advice })
        }
        _ => {
            let advice = "the file is newer than this program, or damaged: update the program or convert the model to version 3";
            Err(Error::UnsupportedVersion { file: file.to_owned(), version, advice })
        }
    }
}

/// Reads a count, which must not exceed its limit or the number of items that fit the remaining bytes.
fn bound(
    cursor: &Cursor<'_>,
    what: &str,
    at: u64,
    count: u64,
    shortest: u64,
    limit: u64,
) -> Result<()> {
    check_limit(cursor.file(), what, at, count, limit)?;
    let (needed, available) = (count * shortest, cursor.remaining());
    if needed > available {
        let what = format!("{what} of {count}");
        return Err(Error::unexpected_end(cursor.file(), what, at, needed, available));
    }
    Ok(())
}

/// Reads a key or tensor name: bounded, UTF-8, not empty, without control characters.
fn read_name<'a>(cursor: &mut Cursor<'a>, what: &str, index: u64, limit: u64) -> Result<&'a str> {
    let at = cursor.offset();
    let len = cursor.u64(format_args!("length of {what} {index}"))?;
    check_limit(cursor.file(), format_args!("length of {what} {index}"), at, len, limit)?;
    let bytes = cursor.take(len, format_args!("{what} {index}"))?;
    let problem =
        |problem: &str| Error::header(cursor.file(), &format!("{what} {index}"), at, problem);
    let text = std::str::from_utf8(bytes).map_err(|_| problem("it is not UTF-8"))?;
    if text.is_empty() {
        return Err(problem("it is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(problem(&format!("\"{}\" has control characters", shown(text))));
    }
    Ok(text)
}

/// The error text for a name that [`climbs`].
pub(super) const CLIMBS: &str = "it looks like a path out of the model's folder";

/// Returns whether a tensor name, used as a path, would leave the folder that it is joined to.
pub(super) fn climbs(name: &str) -> bool {
    name.split(['/', '\\']).any(|part| part == "..")
}

fn read_keys(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>> {
    let file = cursor.file();
    cursor.set_limit(METADATA_BYTES);
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    let mut keys_bytes = 0;
    for index in 0..count {
        let key_offset = cursor.offset();
        let key = read_name(cursor, "key", index, KEY_BYTES)?;
        keys_bytes += key.len() as u64;
        let what = "length of all keys together";
        check_limit(file, what, key_offset, keys_bytes, ALL_KEYS_BYTES)?;
        if !seen.insert(key) {
            return Err(Error::DuplicateKey {
                file: file.to_owned(),
                key: shown(key),
                offset: key_offset,
            });
        }
        let short = shown(key);
        let type_offset = cursor.offset();
        let id = cursor.u32(format_args!("value type of key \"{short}\""))?;
        let value_type = ValueType::from_id(id).ok_or_else(|| {
            Error::key(file, key, type_offset, format!("the value has the unknown type {id}"))
        })?;
        let start = cursor.offset();
        value::read(cursor, value_type, &short, 0)?;
        // In range: it is an offset in a slice.
        entries.push(Entry { key: key.to_owned(), key_offset, value_type, start: start as usize });
    }
    cursor.set_limit(u64::MAX);
    Ok(entries)
}

/// Returns `general.alignment`; the default is 32.
fn alignment(file: &str, bytes: &[u8], entries: &[Entry]) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let Some(entry) = entries.iter().find(|entry| entry.key == KEY) else { return Ok(32) };
    let value = value::read(&mut Cursor::at(file, bytes, entry.start), entry.value_type, KEY, 0)?;
    let Value::U32(alignment) = value else {
        let (file, key, found) = (file.to_owned(), KEY.to_owned(), value.described());
        return Err(Error::KeyType { file, key, expected: "a u32", found });
    };
    if !alignment.is_power_of_two() || !(8..=ALIGNMENT_LIMIT).contains(&alignment) {
        let problem = format!("{alignment} is not a power of two of 8 to {ALIGNMENT_LIMIT}");
        return Err(Error::key(file, KEY, entry.key_offset, problem));
    }
    Ok(alignment.into())
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Described>> {
    let file = cursor.file();
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for index in 0..count {
        let at = cursor.offset();
        let name = read_name(cursor, "tensor name", index, NAME_BYTES)?;
        if climbs(name) {
            return Err(Error::tensor(file, name, "name", at, CLIMBS));
        }
        if !seen.insert(name) {
            return Err(Error::duplicate_tensor(file, name, at));
        }
        let dims_offset = cursor.offset();
        let dims = read_dims(cursor, name)?;
        let type_offset = cursor.offset();
        let id = cursor.u32(format_args!("type of tensor \"{}\"", name.escape_debug()))?;
        let id = StoredType::read(id, file, name, type_offset)?;
        let offset_offset = cursor.offset();
        let offset = cursor.u64(format_args!("offset of tensor \"{}\"", name.escape_debug()))?;
        tensors.push(Described {
            name: name.to_owned(),
            dims,
            dims_offset,
            id,
            offset,
            offset_offset,
        });
    }
    Ok(tensors)
}

fn read_dims(cursor: &mut Cursor<'_>, name: &str) -> Result<Vec<u64>> {
    let at = cursor.offset();
    let n_dims = cursor.u32(format_args!("n_dims of tensor \"{}\"", name.escape_debug()))?;
    let file = cursor.file();
    let problem = |problem: String| Err(Error::tensor(file, name, "dimensions", at, problem));
    if !(1..=4).contains(&n_dims) {
        return problem(format!("there are {n_dims} of them, not 1 to 4"));
    }
    let mut dims = Vec::new();
    for axis in 0..n_dims {
        dims.push(
            cursor.u64(format_args!("dimension {axis} of tensor \"{}\"", name.escape_debug()))?,
        );
    }
    if let Some(axis) = dims.iter().position(|&dim| dim == 0) {
        return problem(format!("dimension {axis} is 0"));
    }
    let product = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    if product.is_none_or(|product| i64::try_from(product).is_err()) {
        return problem(format!("{dims:?} make more than 2^63-1 elements"));
    }
    Ok(dims)
}
