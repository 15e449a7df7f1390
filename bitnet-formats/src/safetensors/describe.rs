//! The strict parser of a safetensors header, from JSON into the tables of [`Header`], and checks of these tables.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::RandomState;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::dtype::Dtype;
use super::header::{Entry, Header};
use super::json::{Entries, JSON_BYTES, Object, Progress, TENSOR_LIMIT, Text};
use crate::error::{self, Error, check_limit, shown, shown_bytes};
use crate::sniff::{Format, refuse_pickle};

/// Maximum number of dimensions of a tensor.
pub(super) const DIMS_LIMIT: usize = 32;
/// Maximum size of `__metadata__` in bytes.
const METADATA_BYTES: usize = 16 << 20;

/// Validates a safetensors file in memory; error messages call it `name`.
///
/// # Errors
/// [`Error::Pickle`], [`Error::WrongFormat`], [`Error::UnexpectedEnd`], [`Error::Limit`] or [`Error::Header`] for an
/// invalid file; [`Error::Tensor`], [`Error::UnsupportedType`] or [`Error::DuplicateTensor`] for an invalid tensor.
pub fn parse_header(bytes: &[u8], name: &str) -> error::Result<Header> {
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
fn json_of<'a>(bytes: &'a [u8], file: &str) -> error::Result<&'a [u8]> {
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
        return Err(Error::unexpected_end(file, "header length", 0, 8, bytes.len() as u64));
    };
    let length = u64::from_le_bytes(*length);
    check_limit(file, "header length", 0, length, JSON_BYTES)?;
    if length < 2 {
        let problem = format!("it is {length}, too short for any header");
        return Err(Error::header(file, "header length", 0, problem));
    }
    let json = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let json =
        json.ok_or_else(|| Error::unexpected_end(file, "header", 8, length, rest.len() as u64))?;
    if json.first() != Some(&b'{') {
        return Err(Error::header(file, "header", 8, "it does not begin with '{'"));
    }
    Ok(json)
}

/// Checks that spans match shape and type, are contiguous without gaps or overlaps, and end at the end of the file.
fn check_places(header: &Header, bytes: &[u8], file: &str) -> error::Result<()> {
    let data_len = (bytes.len() - header.data_start) as u64;
    let wrong = |entry: &Entry, field, problem: String| {
        Err(Error::tensor(file, header.name(entry, bytes), field, entry.offset(), problem))
    };
    let misplaced = |entry: &Entry, problem| wrong(entry, "data_offsets", problem);
    for entry in &header.entries {
        let Entry { begin, end, dtype, .. } = *entry;
        let shape = header.shape(entry);
        if begin > end {
            return misplaced(entry, format!("it begins at {begin}, behind its end {end}"));
        }
        if end > data_len {
            let text = format!("it ends at {end}, but the file has {data_len} bytes of data");
            return misplaced(entry, text);
        }
        let Some(nbytes) = dtype.nbytes(shape) else {
            let text = format!("{shape:?} of {dtype} has more than 2^64 bytes");
            return wrong(entry, "shape", text);
        };
        let len = end - begin;
        if nbytes != len {
            let text =
                format!("{begin}..{end} are {len} bytes, but {shape:?} of {dtype} has {nbytes}");
            return misplaced(entry, text);
        }
    }
    let mut order: Vec<&Entry> = header.entries.iter().collect();
    order.sort_unstable_by_key(|entry| (entry.begin, entry.end));
    let mut end = 0;
    for entry in order {
        let begin = entry.begin;
        if begin < end {
            let text = format!("it begins at {begin}, inside another tensor that ends at {end}");
            return misplaced(entry, text);
        }
        if begin > end {
            let text = format!("there is a hole of data before it, {end}..{begin}");
            return misplaced(entry, text);
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
fn check_unique(header: &mut Header, bytes: &[u8], file: &str) -> error::Result<()> {
    let hashed = |(index, entry)| (header.hash(header.name(entry, bytes)), index as u32);
    let mut by_hash: Vec<(u32, u32)> = header.entries.iter().enumerate().map(hashed).collect();
    by_hash.sort_unstable();
    for same in by_hash.chunk_by(|one, other| one.0 == other.0).filter(|same| same.len() > 1) {
        let entries = same.iter().filter_map(|&(_, index)| header.entries.get(index as usize));
        let mut names: Vec<(&str, &Entry)> =
            entries.map(|entry| (header.name(entry, bytes), entry)).collect();
        names.sort_by_key(|&(name, _)| name);
        if let Some([_, (name, entry)]) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::duplicate_tensor(file, name, entry.offset()));
        }
    }
    header.by_hash = by_hash;
    Ok(())
}

/// Fills the tables of `header` from `json`, which begins at byte 8 of the file.
fn describe(header: &mut Header, json: &[u8], file: &str) -> error::Result<()> {
    let progress = Progress { field: "header", ..Progress::default() };
    let mut builder = Builder { file, text: json, header, progress, has_metadata: false };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed =
        Entries(&mut builder).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    parsed.map_err(|error| builder.progress.explain(&error, file, json, 8))
}

/// A header under construction.
struct Builder<'h> {
    file: &'h str,
    text: &'h [u8],
    header: &'h mut Header,
    progress: Progress,
    has_metadata: bool,
}

impl Builder<'_> {
    /// Returns the offset of a name in the file; `None` if it contains escapes, because its decoded form is stored
    /// elsewhere.
    fn place_of(&self, name: &str) -> Option<u64> {
        let distance = (name.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        (distance < self.text.len()).then_some(8 + distance as u64)
    }

    /// Returns the offset for error messages: that of the name, or of the header if the name's is unknown.
    fn offset_of(&self, name: &str) -> u64 {
        self.place_of(name).unwrap_or(8)
    }

    /// Stores a name. Returns (start, length, whether in `escaped_names`).
    fn store_name(&mut self, name: &str) -> Option<(u32, u32, bool)> {
        let len = u32::try_from(name.len()).ok()?;
        if let Some(start) = self.place_of(name) {
            return Some((u32::try_from(start).ok()?, len, false));
        }
        let start = u32::try_from(self.header.escaped_names.len()).ok()?;
        self.header.escaped_names.push_str(name);
        Some((start, len, true))
    }
}

impl<'h> Object<'h> for Builder<'h> {
    const EXPECTED: &'static str = "an object of tensors";

    fn entry<A: MapAccess<'h>>(&mut self, name: Cow<'h, str>, map: &mut A) -> Result<(), A::Error> {
        if name == "__metadata__" {
            self.progress.field = "__metadata__";
            if std::mem::replace(&mut self.has_metadata, true) {
                return Err(A::Error::custom("it appears twice"));
            }
            let into = &mut self.header.metadata;
            map.next_value_seed(Entries(&mut Notes { into, bytes: 0, seen: HashSet::new() }))?;
        } else {
            let (at, count) = (self.offset_of(&name), self.header.entries.len() as u64 + 1);
            check_limit(self.file, "number of tensors", at, count, TENSOR_LIMIT)
                .map_err(|error| self.progress.fail(error))?;
            map.next_value_seed(OneTensor { builder: self, name })?;
        }
        self.progress.field = "header";
        Ok(())
    }
}

/// The value of `__metadata__`: strings only.
struct Notes<'b> {
    into: &'b mut Vec<(String, String)>,
    /// Of all pairs so far.
    bytes: usize,
    seen: HashSet<String>,
}

impl<'de> Object<'de> for Notes<'_> {
    const EXPECTED: &'static str = "an object of strings";

    fn entry<A: MapAccess<'de>>(
        &mut self,
        key: Cow<'de, str>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let value = map.next_value_seed(Text)?;
        // The pair itself counts as well.
        self.bytes += key.len() + value.len() + size_of::<(String, String)>();
        if self.bytes > METADATA_BYTES {
            return Err(A::Error::custom(format!("it takes more than {METADATA_BYTES} bytes")));
        }
        if !self.seen.insert(key.clone().into_owned()) {
            return Err(A::Error::custom(format!("key \"{key}\" appears twice")));
        }
        self.into.push((key.into_owned(), value.into_owned()));
        Ok(())
    }
}

/// A tensor's object: exactly `dtype`, `shape` and `data_offsets`, each once.
struct OneTensor<'b, 'h> {
    builder: &'b mut Builder<'h>,
    name: Cow<'h, str>,
}

impl<'h> DeserializeSeed<'h> for OneTensor<'_, 'h> {
    type Value = ();

    fn deserialize<D: Deserializer<'h>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { builder, name } = self;
        let before = builder.header.shapes.len();
        let mut fields =
            Fields { builder: &mut *builder, name: &name, dtype: None, shape: None, offsets: None };
        let parsed = deserializer.deserialize_map(&mut fields);
        let (dtype, shape, offsets) = (fields.dtype, fields.shape, fields.offsets);
        if parsed.is_err() {
            builder.progress.tensor = Some(name.clone().into_owned());
        }
        parsed?;
        let (Some(dtype), Some(n_dims), Some((begin, end))) = (dtype, shape, offsets) else {
            let missing = if dtype.is_none() {
                "dtype"
            } else if shape.is_none() {
                "shape"
            } else {
                "data_offsets"
            };
            let at = builder.offset_of(&name);
            let error = Error::tensor(builder.file, &name, missing, at, "it is missing");
            return Err(builder.progress.fail(error));
        };
        let stored = builder.store_name(&name);
        let (Some((name_start, name_len, escaped)), Ok(shape_start)) =
            (stored, u32::try_from(before))
        else {
            return Err(D::Error::custom("the header is too large"));
        };
        let entry = Entry { name_start, name_len, begin, end, shape_start, n_dims, dtype, escaped };
        builder.header.entries.push(entry);
        Ok(())
    }
}

struct Fields<'b, 'h> {
    builder: &'b mut Builder<'h>,
    name: &'b Cow<'h, str>,
    dtype: Option<Dtype>,
    shape: Option<u8>,
    offsets: Option<(u64, u64)>,
}

impl<'h> Visitor<'h> for &mut Fields<'_, 'h> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'h>>(self, mut map: A) -> Result<(), A::Error> {
        self.builder.progress.field = "description";
        while let Some(field) = map.next_key_seed(Text)? {
            let twice = match &*field {
                "dtype" => {
                    self.builder.progress.field = "dtype";
                    let name = map.next_value_seed(Text)?;
                    let Some(dtype) = Dtype::from_name(&name) else {
                        return Err(self.unknown_dtype(&name));
                    };
                    self.dtype.replace(dtype).is_some()
                }
                "shape" => {
                    self.builder.progress.field = "shape";
                    let n_dims =
                        map.next_value_seed(Shape { into: &mut self.builder.header.shapes })?;
                    self.shape.replace(n_dims).is_some()
                }
                "data_offsets" => {
                    self.builder.progress.field = "data_offsets";
                    self.offsets.replace(map.next_value()?).is_some()
                }
                other => return Err(A::Error::custom(format!("the field \"{other}\" is unknown"))),
            };
            if twice {
                return Err(A::Error::custom("the field appears twice"));
            }
            self.builder.progress.field = "description";
        }
        Ok(())
    }
}

impl Fields<'_, '_> {
    fn unknown_dtype<E: serde::de::Error>(&mut self, dtype: &str) -> E {
        let builder = &mut *self.builder;
        let error = Error::UnsupportedType {
            file: builder.file.to_owned(),
            tensor: shown(self.name),
            type_name: format!("dtype \"{}\"", shown(dtype)),
            offset: builder.offset_of(self.name),
            advice: "save the tensor as F32, F16, BF16 or U8",
        };
        builder.progress.fail(error)
    }
}

/// Appends a shape to the others.
struct Shape<'b> {
    into: &'b mut Vec<u64>,
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = u8;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u8, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = u8;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u8, A::Error> {
        let mut n_dims = 0_u8;
        while let Some(dim) = seq.next_element()? {
            if usize::from(n_dims) == DIMS_LIMIT {
                return Err(A::Error::custom(format!(
                    "there are more than {DIMS_LIMIT} dimensions"
                )));
            }
            self.into.push(dim);
            n_dims += 1;
        }
        Ok(n_dims)
    }
}
