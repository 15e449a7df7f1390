//! GGUF v2 and v3: a zero-copy reader that validates the whole header when it opens a file, and a writer.
//!
//! ```text
//! "GGUF" u32 version  u64 tensors  u64 keys
//! keys:     string key, u32 type, value
//! tensors:  string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset (from the data's start)
//! zeros up to general.alignment (default 32)
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
    /// The tensors of all files.
    trailing: TrailingBytes,
}

impl GgufFile {
    /// Maps and validates a file. Opens all files of a split model if `path`
    /// is the first one (`NAME-00001-of-0000N.gguf`).
    ///
    /// # Errors
    /// Returns an error if the file is unreadable, damaged or unsupported; it names file, field and offset.
    pub fn open(path: &Path) -> Result<Self> {
        split::open_rest(Self::single(MappedFile::open(path)?)?, path)
    }

    /// Validates a file in memory; error messages call it `name`.
    ///
    /// # Errors
    /// Same as [`GgufFile::open`]. A split model is an error, because it needs its path.
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        Self::from_mapped(MappedFile::from_bytes(bytes, name))
    }

    /// Validates a file embedded in the program, without copying it.
    ///
    /// # Errors
    /// Same as [`GgufFile::from_bytes`].
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Self> {
        Self::from_mapped(MappedFile::from_static(bytes, name))
    }

    fn from_mapped(file: Arc<MappedFile>) -> Result<Self> {
        let whole = Self::single(file)?;
        split::refuse(&whole)?;
        Ok(whole)
    }

    fn single(file: Arc<MappedFile>) -> Result<Self> {
        let parsed = parse(file.bytes(), file.name())?;
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

    /// Adds the tensors of one file, whose names must be new.
    fn add_tensors(&mut self, file: &Arc<MappedFile>, tensors: Vec<TensorInfo>) -> Result<()> {
        for tensor in tensors {
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(Error::duplicate_tensor(file.name(), &tensor.name, tensor.offset));
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// Returns the GGUF version of the (first) file: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the name of the (first) file for error messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.file_name()
    }

    /// Returns the metadata, in file order.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns all tensors in file order, over all files of a split model.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor named `name`, if it exists.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// Returns the tensor named `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::MissingTensor {
            file: self.name().to_owned(),
            tensor: shown(name),
        })
    }

    /// Returns the unused bytes after the last tensor, if any.
    #[must_use]
    pub fn trailing_bytes(&self) -> Option<TrailingBytes> {
        (self.trailing.count > 0).then_some(self.trailing)
    }

    /// Returns the `tensor.nbytes` bytes of a tensor without copying.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`] if `tensor` belongs to another model.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Region> {
        let outside = || {
            let what = format!("tensor \"{}\"", shown(&tensor.name));
            Error::unexpected_end(self.name(), what, tensor.offset, tensor.nbytes, 0)
        };
        let file = self.shards.get(tensor.shard).ok_or_else(outside)?;
        let end = tensor.offset.checked_add(tensor.nbytes).ok_or_else(outside)?;
        let start = usize::try_from(tensor.offset).map_err(|_| outside())?;
        let end = usize::try_from(end).map_err(|_| outside())?;
        file.region().slice(start..end)
    }

    /// Returns the files of the model, in order.
    #[must_use]
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.shards
    }

    /// Checks that no file has changed since it was mapped. Call this after decoding tensors.
    ///
    /// # Errors
    /// Same as [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.shards.iter().try_for_each(|file| file.check())
    }
}
