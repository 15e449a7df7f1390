//! The writer of GGUF v3: metadata in insertion order, streamed tensor data, atomic files.

use std::io::{self, Write};
use std::path::Path;

use super::metadata::Metadata;
use super::parse::{CLIMBS, KEY_BYTES, NAME_BYTES, climbs};
use super::types::GgmlType;
use super::value::{ARRAY_LIMIT, Value, ValueType};
use crate::atomic::{Exact, Layout, write_atomically};
use crate::error::{Error, Result, shown_path};

const ALIGNMENT_KEY: &str = "general.alignment";

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTensor {
    /// Its name, at most 64 bytes.
    pub name: String,
    /// Its dimensions in ggml order (`dims[0]` contiguous).
    pub dims: Vec<u64>,
    /// Its storage type.
    pub ggml_type: GgmlType,
    /// Its size in bytes, which follows from type and dimensions.
    pub nbytes: u64,
}

/// Collects keys and tensor descriptions, then writes the file in one pass.
///
/// ```no_run
/// # use bitnet_formats::gguf::{GgmlType, GgufWriter, Value};
/// # use std::path::Path;
/// let mut writer = GgufWriter::new();
/// writer.put("general.architecture", Value::String("bitnet"))?;
/// writer.add_tensor("output_norm.weight", &[4], GgmlType::F32)?;
/// writer.write(Path::new("model.gguf"), |tensor, sink| sink.write_all(&vec![0; tensor.nbytes as usize]))?;
/// # Ok::<(), bitnet_formats::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GgufWriter {
    alignment: u64,
    keys: Vec<(String, Vec<u8>)>,
    tensors: Vec<PendingTensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// Creates an empty model with the default alignment of 32 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self { alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// Sets a key. Keys are written in the order of their first `put`; a second `put` replaces the value.
    /// `general.alignment` also sets the alignment of the data.
    ///
    /// # Errors
    /// [`Error::Key`] for a key that readers reject (empty, too long, with control characters, an alignment that is not
    /// a u32 power of two of at least 8).
    pub fn put(&mut self, key: &str, value: Value<'_>) -> Result<()> {
        if key == ALIGNMENT_KEY {
            match value {
                Value::U32(bytes) if bytes.is_power_of_two() && (8..=1 << 20).contains(&bytes) => {
                    self.alignment = bytes.into();
                }
                _ => {
                    let problem = "the alignment is a u32, a power of two of 8 to 2^20";
                    return Err(refused_key(key, problem));
                }
            }
        }
        let mut encoded = Vec::new();
        encode(&mut encoded, &value);
        self.put_encoded(key, value.value_type(), encoded)
    }

    /// Sets a key to an array of strings.
    ///
    /// # Errors
    /// Same as [`GgufWriter::put`], and for more than 2^22 elements.
    pub fn put_strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) -> Result<()> {
        self.put_array(key, ValueType::String, values, |sink, value| {
            encode_string(sink, value.as_ref())
        })
    }

    /// Sets a key to an array of 32-bit floats.
    ///
    /// # Errors
    /// Same as [`GgufWriter::put_strings`].
    pub fn put_f32s(&mut self, key: &str, values: &[f32]) -> Result<()> {
        self.put_array(key, ValueType::F32, values, |sink, value| sink.extend(value.to_le_bytes()))
    }

    /// Sets a key to an array of signed 32-bit integers.
    ///
    /// # Errors
    /// Same as [`GgufWriter::put_strings`].
    pub fn put_i32s(&mut self, key: &str, values: &[i32]) -> Result<()> {
        self.put_array(key, ValueType::I32, values, |sink, value| sink.extend(value.to_le_bytes()))
    }

    /// Sets a key to an array of booleans.
    ///
    /// # Errors
    /// Same as [`GgufWriter::put_strings`].
    pub fn put_bools(&mut self, key: &str, values: &[bool]) -> Result<()> {
        self.put_array(key, ValueType::Bool, values, |sink, value| sink.push(u8::from(*value)))
    }

    /// Copies every key of a file that `wanted` accepts, except `general.alignment` and `split.*`.
    ///
    /// # Errors
    /// Same as [`GgufWriter::put`].
    pub fn copy_metadata(
        &mut self,
        from: &Metadata,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        for (key, value) in from.iter() {
            if key != ALIGNMENT_KEY && !key.starts_with("split.") && wanted(key) {
                self.put(key, value)?;
            }
        }
        Ok(())
    }

    /// Adds a tensor; data is requested in this order. `dims` are in ggml order, `dims[0]` contiguous.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a name or dimensions that readers reject, [`Error::DuplicateTensor`].
    pub fn add_tensor(&mut self, name: &str, dims: &[u64], ggml_type: GgmlType) -> Result<()> {
        let refused =
            |field, problem: String| Err(Error::tensor("new GGUF file", name, field, 0, problem));
        if name.is_empty() || name.len() as u64 > NAME_BYTES || name.chars().any(char::is_control) {
            let problem = format!("it must have 1 to {NAME_BYTES} bytes and no control characters");
            return refused("name", problem);
        }
        if climbs(name) {
            return refused("name", CLIMBS.to_owned());
        }
        if !(1..=4).contains(&dims.len()) || dims.contains(&0) {
            return refused("dimensions", format!("{dims:?} are not 1 to 4 positive numbers"));
        }
        let Some(nbytes) = ggml_type.nbytes(dims) else {
            return refused("dimensions", format!("{dims:?} do not fit type {ggml_type}"));
        };
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(Error::duplicate_tensor("new GGUF file", name, 0));
        }
        self.tensors.push(PendingTensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            ggml_type,
            nbytes,
        });
        Ok(())
    }

    /// Returns the tensors added so far, in order.
    #[must_use]
    pub fn tensors(&self) -> &[PendingTensor] {
        &self.tensors
    }

    /// Writes the file atomically, through a temporary file in the same folder. `data` is called once per tensor, in
    /// order, and writes exactly `nbytes` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if writing or `data` fails; [`Error::Tensor`] if `data` writes another number of bytes.
    pub fn write(
        &self,
        path: &Path,
        mut data: impl FnMut(&PendingTensor, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let file = shown_path(path);
        let Layout { header, offsets, len } = self.layout(&file)?;
        let ends = offsets.iter().skip(1).copied().chain([len]);
        write_atomically(path, |sink| {
            let failed = |source| Error::io(&file, "write", source);
            sink.write_all(&header).map_err(failed)?;
            for ((tensor, &offset), end) in self.tensors.iter().zip(&offsets).zip(ends) {
                Exact::fill(&file, &tensor.name, (offset, tensor.nbytes), sink, |sink| {
                    data(tensor, sink)
                })?;
                let padding = end - offset - tensor.nbytes;
                io::copy(&mut io::Read::take(io::repeat(0), padding), sink).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Returns the layout of the file, for writers that fill it out of order. Bytes between tensors and after the last
    /// one are zero. Error messages call the file `file`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensors exceed 2^64 bytes.
    pub fn layout(&self, file: &str) -> Result<Layout> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3_u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.keys.len() as u64).to_le_bytes());
        for (key, encoded) in &self.keys {
            encode_string(&mut header, key);
            header.extend(encoded);
        }
        let mut offset = 0_u64;
        let mut offsets = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            offsets.push(offset);
            encode_string(&mut header, &tensor.name);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| header.extend(dim.to_le_bytes()));
            header.extend(tensor.ggml_type.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let problem = "the tensors together exceed 2^64 bytes";
            offset = offset
                .checked_add(tensor.nbytes)
                .and_then(|end| end.checked_next_multiple_of(self.alignment))
                .ok_or_else(|| Error::tensor(file, &tensor.name, "offset", 0, problem))?;
        }
        let padded = header.len().next_multiple_of(self.alignment as usize);
        header.resize(padded, 0);
        let data = header.len() as u64;
        Ok(Layout {
            header,
            offsets: offsets.into_iter().map(|offset| offset.saturating_add(data)).collect(),
            len: offset.saturating_add(data),
        })
    }

    fn put_array<T>(
        &mut self,
        key: &str,
        element: ValueType,
        values: &[T],
        encode_one: impl Fn(&mut Vec<u8>, &T),
    ) -> Result<()> {
        if values.len() as u64 > ARRAY_LIMIT {
            return Err(refused_key(key, "the array has more than 2^22 elements"));
        }
        let mut encoded = Vec::new();
        encoded.extend(element.id().to_le_bytes());
        encoded.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| encode_one(&mut encoded, value));
        self.put_encoded(key, ValueType::Array, encoded)
    }

    fn put_encoded(&mut self, key: &str, value_type: ValueType, value: Vec<u8>) -> Result<()> {
        if key.is_empty() || key.len() as u64 > KEY_BYTES || key.chars().any(char::is_control) {
            let problem = format!("it must have 1 to {KEY_BYTES} bytes and no control characters");
            return Err(refused_key(key, &problem));
        }
        let mut encoded = value_type.id().to_le_bytes().to_vec();
        encoded.extend(value);
        match self.keys.iter_mut().find(|(present, _)| present == key) {
            Some((_, present)) => *present = encoded,
            None => self.keys.push((key.to_owned(), encoded)),
        }
        Ok(())
    }
}

fn refused_key(key: &str, problem: &str) -> Error {
    Error::key("new GGUF file", key, 0, problem)
}

fn encode_string(sink: &mut Vec<u8>, text: &str) {
    sink.extend((text.len() as u64).to_le_bytes());
    sink.extend(text.as_bytes());
}

fn encode(sink: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::U8(value) => sink.extend(value.to_le_bytes()),
        Value::I8(value) => sink.extend(value.to_le_bytes()),
        Value::U16(value) => sink.extend(value.to_le_bytes()),
        Value::I16(value) => sink.extend(value.to_le_bytes()),
        Value::U32(value) => sink.extend(value.to_le_bytes()),
        Value::I32(value) => sink.extend(value.to_le_bytes()),
        Value::F32(value) => sink.extend(value.to_le_bytes()),
        Value::U64(value) => sink.extend(value.to_le_bytes()),
        Value::I64(value) => sink.extend(value.to_le_bytes()),
        Value::F64(value) => sink.extend(value.to_le_bytes()),
        Value::Bool(value) => sink.push(u8::from(*value)),
        Value::String(text) => encode_string(sink, text),
        Value::Array(array) => {
            sink.extend(array.element.id().to_le_bytes());
            sink.extend((array.len as u64).to_le_bytes());
            sink.extend(array.bytes);
        }
    }
}
