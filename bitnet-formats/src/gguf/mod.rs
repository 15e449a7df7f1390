//! GGUF v2 and v3: a reader that validates everything once at open and hands out tensors without copying, and a writer.
//!
//! ```text
//! "GGUF" u32 version  u64 tensors  u64 keys
//! keys:     string key, u32 type, value
//! tensors:  string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset (from the data's start)
//! zeros up to general.alignment (32 unless told)
//! data:     each tensor at a multiple of the alignment
//! ```
//! Little-endian throughout. Source: ggml `docs/gguf.md`.

mod cursor;
mod layout;
mod metadata;
mod parse;
mod split;
mod types;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result, shown};
use crate::mmap::{MappedFile, Region};

pub use layout::TensorInfo;
pub use metadata::Metadata;
pub use parse::{Parsed, TrailingBytes, parse};
pub use types::GgmlType;
pub use value::{Array, Value, ValueType};
pub use writer::{GgufWriter, PendingTensor};

/// An open GGUF model: one file, or all the files of a split one.
#[derive(Debug, Clone)]
pub struct GgufFile {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    shards: Vec<Arc<MappedFile>>,
    /// Of all files together.
    trailing: TrailingBytes,
}

impl GgufFile {
    /// Maps and validates a file. Given the first file of a split model (`NAME-00001-of-0000N.gguf`), opens all of them.
    ///
    /// # Errors
    /// Every way in which a file can be unreadable, damaged or unsupported; the message names file, field and offset.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let parsed = parse(file.bytes(), file.name())?;
        let first = Self::single(file, parsed)?;
        split::open_rest(first, path)
    }

    /// Validates a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`GgufFile::open`]; a split model needs its path and is refused.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        Self::from_mapped(MappedFile::from_bytes(bytes, name))
    }

    /// Validates a file that is part of the program, without copying it.
    ///
    /// # Errors
    /// As [`GgufFile::from_bytes`].
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Self> {
        Self::from_mapped(MappedFile::from_static(bytes, name))
    }

    fn from_mapped(file: Arc<MappedFile>) -> Result<Self> {
        let parsed = parse(file.bytes(), file.name())?;
        let whole = Self::single(file, parsed)?;
        split::refuse(&whole)?;
        Ok(whole)
    }

    fn single(file: Arc<MappedFile>, parsed: Parsed) -> Result<Self> {
        let Parsed { version, entries, tensors, trailing, .. } = parsed;
        let metadata = Metadata::new(file.region(), entries);
        let mut whole = Self {
            version,
            metadata,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            shards: vec![Arc::clone(&file)],
            trailing,
        };
        whole.add_tensors(&file, tensors)?;
        Ok(whole)
    }

    /// Takes over the tensors of one file, which must have no name that is already there.
    fn add_tensors(&mut self, file: &Arc<MappedFile>, tensors: Vec<TensorInfo>) -> Result<()> {
        for tensor in tensors {
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                let (file, name) = (file.name().to_owned(), shown(&tensor.name));
                return Err(Error::DuplicateTensor { file, tensor: name, offset: tensor.offset });
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// The GGUF version of the (first) file: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The name of the (first) file as messages show it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.file_name()
    }

    /// The metadata, in file order.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order, those of a split model's files one after the other.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            file: self.name().to_owned(),
            tensor: shown(name),
        })
    }

    /// What follows the last tensor of a file and belongs to nothing, if there is such.
    #[must_use]
    pub fn trailing_bytes(&self) -> Option<TrailingBytes> {
        (self.trailing.count > 0).then_some(self.trailing)
    }

    /// The bytes of a tensor, `tensor.nbytes` of them, not copied.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`] where `tensor` is not of this model.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Region> {
        let outside = || Error::UnexpectedEnd {
            file: self.name().to_owned(),
            what: format!("tensor \"{}\"", shown(&tensor.name)),
            offset: tensor.offset,
            needed: tensor.nbytes,
            available: 0,
        };
        let file = self.shards.get(tensor.shard).ok_or_else(outside)?;
        let end = tensor.offset.checked_add(tensor.nbytes).ok_or_else(outside)?;
        let start = usize::try_from(tensor.offset).map_err(|_| outside())?;
        let end = usize::try_from(end).map_err(|_| outside())?;
        file.region().slice(start..end)
    }

    /// The files that the model consists of, in order; more than one where it is split.
    #[must_use]
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.shards
    }

    /// Whether every file is still what was mapped; to be called after the tensors have been decoded.
    ///
    /// # Errors
    /// Those of [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.shards.iter().try_for_each(|file| file.check())
    }
}
