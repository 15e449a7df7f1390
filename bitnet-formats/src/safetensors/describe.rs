//! The strict parser of a safetensors header, from JSON into the tables of [`Header`], and checks of these tables.

use std::borrow::Cow;
use std::fmt;
use std::hash::RandomState;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::dtype::Dtype;
use super::header::{Entry, Header};
use super::json::{JSON_BYTES, Progress, TENSOR_LIMIT, Text};
use crate::error::{Error, Result, shown, shown_bytes};
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

/// Fills the tables of `header` from `json`, which begins at byte 8 of the file.
fn describe(header: &mut Header, json: &[u8], file: &str) -> Result<()> {
    let progress = Progress { field: "header", ..Progress::default() };
    let mut builder = Builder { file, text: json, header, progress, has_metadata: false };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let parsed = deserializer.deserialize_map(&mut builder).and_then(|()| deserializer.end());
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

impl<'h> Visitor<'h> for &mut Builder<'h> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'h>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        loop {
            (self.progress.tensor, self.progress.field) = (None, "header");
            let Some(name) = map.next_key_seed(Text)? else { return Ok(()) };
            if name == "__metadata__" {
                self.progress.field = "__metadata__";
                if std::mem::replace(&mut self.has_metadata, true) {
                    return Err(A::Error::custom("it appears twice"));
                }
                map.next_value_seed(Notes { into: &mut self.header.metadata })?;
                continue;
            }
            if self.header.entries.len() as u64 >= TENSOR_LIMIT {
                let at = self.offset_of(&name);
                let error = Error::limit(
                    self.file,
                    "number of tensors",
                    at,
                    TENSOR_LIMIT + 1,
                    TENSOR_LIMIT,
                );
                return Err(self.progress.fail(error));
            }
            map.next_value_seed(OneTensor { builder: self, name })?;
        }
    }
}

/// The value of `__metadata__`: strings only.
struct Notes<'b> {
    into: &'b mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for Notes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Notes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut bytes = 0;
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key_seed(Text)? {
            let value = map.next_value_seed(Text)?;
            // The pair itself counts as well.
            bytes += key.len() + value.len() + size_of::<(String, String)>();
            if bytes > METADATA_BYTES {
                return Err(A::Error::custom(format!("it takes more than {METADATA_BYTES} bytes")));
            }
            if !seen.insert(key.clone().into_owned()) {
                return Err(A::Error::custom(format!("key \"{key}\" appears twice")));
            }
            self.into.push((key.into_owned(), value.into_owned()));
        }
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

    fn deserialize<D: Deserializer<'h>>(
        self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
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
            let error = Error::tensor(
                builder.file,
                &name,
                missing,
                builder.offset_of(&name),
                "it is missing",
            );
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

    fn visit_map<A: MapAccess<'h>>(self, mut map: A) -> std::result::Result<(), A::Error> {
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

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<u8, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = u8;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<u8, A::Error> {
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
