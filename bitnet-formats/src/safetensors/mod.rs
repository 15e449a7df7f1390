//! safetensors: one file, a sharded index or a model folder, with zero-copy access to tensors.
//!
//! ```text
//! u64 N (little-endian)
//! N bytes of JSON: {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {...}}
//! data: every byte belongs to exactly one tensor
//! ```
//! Source: the safetensors README. The rules of its security audit are enforced: no gaps, no overlaps, the last offset
//! is the end of the file, names are unique.

mod describe;
mod dtype;
mod header;
mod index;
mod json;
mod numbers;
mod tensors;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, shown, shown_path};
use crate::mmap::{MappedFile, Region};

pub use describe::parse_header;
pub use dtype::Dtype;
pub use header::Header;
pub use index::{Index, parse_index};
pub use tensors::write_tensors;
pub use writer::{TensorSpec, layout, write};

/// One tensor: its description and its bytes.
#[derive(Debug, Clone)]
pub struct TensorView {
    /// Its name, unique in the model.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, the last dimension contiguous; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, little-endian, row-major. They need not be aligned to the element type.
    pub data: Region,
}

/// An open safetensors model: one file, or all the files that an index names.
#[derive(Debug)]
pub struct SafeTensors {
    name: String,
    shards: Vec<Shard>,
    /// Of a model with an index: its tensors in order, with their shards.
    index: Option<ShardIndex>,
}

#[derive(Debug)]
struct Shard {
    file: Arc<MappedFile>,
    header: Header,
}

#[derive(Debug, Default)]
struct ShardIndex {
    names: Vec<String>,
    shards: HashMap<String, usize>,
    /// Tensors in the index that no file contains, with the expected file.
    absent: HashMap<String, String>,
}

impl SafeTensors {
    /// Opens a `.safetensors` file, an `*.index.json`, or a folder that holds one model.
    ///
    /// A folder is searched for `model.safetensors`, then `model.safetensors.index.json`, then the only file of either
    /// kind.
    ///
    /// # Errors
    /// Returns an error if the file is unreadable, damaged or unsupported; it names file, tensor and offset.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open(&model_in(path)?);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            return index::open(path);
        }
        let shard = Shard::new(MappedFile::open(path)?)?;
        Ok(Self { name: shard.file.name().to_owned(), shards: vec![shard], index: None })
    }

    /// Validates a file in memory; error messages call it `name`.
    ///
    /// # Errors
    /// Same as [`SafeTensors::open`].
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        let shard = Shard::new(MappedFile::from_bytes(bytes, name))?;
        Ok(Self { name: name.to_owned(), shards: vec![shard], index: None })
    }

    /// Returns the name of the file or index for error messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.index {
            Some(index) => index.names.len(),
            None => self.shards.iter().map(|shard| shard.header.len()).sum(),
        }
    }

    /// Returns whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tensors in the index that no file contains, with the expected file. Only requesting one of them
    /// is an error.
    pub fn absent(&self) -> impl Iterator<Item = (&str, &str)> {
        let absent = self.index.iter().flat_map(|index| &index.absent);
        absent.map(|(tensor, file)| (tensor.as_str(), file.as_str()))
    }

    /// Returns the error for a missing tensor.
    #[must_use]
    pub fn missing(&self, name: &str) -> Error {
        let shard = self.index.as_ref().and_then(|index| index.absent.get(name));
        match shard {
            None => Error::MissingTensor { file: self.name.clone(), tensor: shown(name) },
            Some(shard) => {
                let problem = format!(
                    "it does not hold tensor \"{}\", which the index puts there; download both again",
                    shown(name)
                );
                Error::shard(&self.name, shard, problem)
            }
        }
    }

    /// Iterates over all tensor names, in the order of the file, or of the index and then of its files.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.index {
            Some(index) => Box::new(index.names.iter().map(String::as_str)),
            None => Box::new(
                self.shards.iter().flat_map(|shard| shard.header.names(shard.file.bytes())),
            ),
        }
    }

    /// Returns the tensor named `name`, if it exists.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TensorView> {
        let shard = match &self.index {
            Some(index) => *index.shards.get(name)?,
            None => 0,
        };
        self.shards.get(shard)?.find(name)
    }

    /// Returns the tensor named `name`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Shard`] if the index names a file that does not contain it.
    pub fn tensor(&self, name: &str) -> Result<TensorView> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// Iterates over all tensors, in the order of [`SafeTensors::names`].
    pub fn tensors(&self) -> impl Iterator<Item = TensorView> {
        self.names().filter_map(|name| self.find(name))
    }

    /// Returns the `__metadata__` of the (first) file.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        self.shards.first().map_or(&[], |shard| shard.header.metadata())
    }

    /// Returns the files of the model.
    pub fn files(&self) -> impl Iterator<Item = &Arc<MappedFile>> {
        self.shards.iter().map(|shard| &shard.file)
    }

    /// Checks that no file has changed since it was mapped. Call this after decoding tensors.
    ///
    /// # Errors
    /// Same as [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.shards.iter().try_for_each(|shard| shard.file.check())
    }
}

impl Shard {
    fn new(file: Arc<MappedFile>) -> Result<Self> {
        let header = parse_header(file.bytes(), file.name())?;
        Ok(Self { file, header })
    }

    fn find(&self, name: &str) -> Option<TensorView> {
        let found = self.header.find(self.file.bytes(), name)?;
        let data = self.file.region().slice(found.range).ok()?;
        Some(TensorView { name: name.to_owned(), dtype: found.dtype, shape: found.shape, data })
    }
}

/// Returns the file to open in a model folder.
fn model_in(folder: &Path) -> Result<PathBuf> {
    let name = shown_path(folder);
    for usual in ["model.safetensors", "model.safetensors.index.json"] {
        let path = folder.join(usual);
        if path.is_file() {
            return Ok(path);
        }
    }
    let unreadable = |source| Error::io(&name, "list the folder", source);
    let mut indexes = Vec::new();
    let mut files = Vec::new();
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let file =
            path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
        if file.ends_with(".safetensors.index.json") {
            indexes.push(path);
        } else if file.ends_with(".safetensors") {
            files.push(path);
        } else if [".bin", ".pt", ".pth"].iter().any(|ending| file.ends_with(ending)) {
            pickles.push(path);
        }
    }
    let problem = match (indexes.as_slice(), files.as_slice()) {
        ([only], _) | ([], [only]) => return Ok(only.clone()),
        ([], []) => match pickles.first() {
            Some(pickle) => {
                let kind = "a model in PyTorch's own format";
                return Err(Error::Pickle { file: shown_path(pickle), kind });
            }
            None => "there is no .safetensors file in this folder; use a model folder or file"
                .to_owned(),
        },
        ([], several) => {
            format!("there are {} .safetensors files and no index; give one of them", several.len())
        }
        (several, _) => {
            format!("there are {} *.safetensors.index.json files; give one of them", several.len())
        }
    };
    Err(Error::Folder { folder: name, problem })
}
