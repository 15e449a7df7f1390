//! The files that a loaded model still reads from.

use std::sync::{Arc, Weak};

use bitnet_formats::MappedFile;

use crate::Result;

/// The files behind a model's weights: those of the checkpoint and of the weight cache.
///
/// A file is held weakly. Once every weight that was mapped from it is gone, no result depends on it any more, and it
/// is not checked.
#[derive(Debug)]
pub(crate) struct SourceFiles {
    /// What messages call the model.
    pub(crate) name: String,
    files: Vec<Weak<MappedFile>>,
}

impl SourceFiles {
    /// The files of the model that messages call `name`.
    pub(crate) fn new(name: &str, files: &[Arc<MappedFile>]) -> Self {
        Self { name: name.to_owned(), files: files.iter().map(Arc::downgrade).collect() }
    }

    /// Returns an error if a file is no longer what was mapped: shorter, longer or written to. A file that was deleted,
    /// or whose name another file has taken, stays as it is for those that have it open, and is no error.
    pub(crate) fn check(&self) -> Result<()> {
        for file in self.files.iter().filter_map(Weak::upgrade) {
            file.check()?;
        }
        Ok(())
    }
}
