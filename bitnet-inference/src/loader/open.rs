//! Opening a model's files: all of them, or the tokenizer alone.

use std::path::Path;

use bitnet_formats::gguf::GgufFile;

use super::{Checkpoint, GgufCheckpoint, HfCheckpoint, LoadOptions};
use crate::Result;
use crate::model::{EMBEDDED, EMBEDDED_NAME, ModelSource};
use crate::tokenizer::Tokenizer;

/// Opens a checkpoint: reads the headers, and both tables of a tied folder that stores a head too (they are compared).
pub(crate) fn open(source: ModelSource<'_>, options: &LoadOptions) -> Result<Box<dyn Checkpoint>> {
    let is_of_folder =
        |path: &Path| path.extension().is_some_and(|e| e == "safetensors" || e == "json");
    let file = match source {
        ModelSource::Embedded => GgufFile::from_static(EMBEDDED, EMBEDDED_NAME)?,
        ModelSource::Path(path) if path.is_dir() || is_of_folder(path) => {
            return Ok(Box::new(HfCheckpoint::open(path, options)?));
        }
        ModelSource::Path(path) => GgufFile::open(path)?,
    };
    Ok(Box::new(GgufCheckpoint::new(file, options)?))
}

/// The tokenizer of a model, if it came with one; nothing but the header and the tokenizer is read.
///
/// # Errors
/// As loading the model, except for what is wrong with the weights.
pub fn tokenizer_of(source: ModelSource<'_>, options: &LoadOptions) -> Result<Option<Tokenizer>> {
    Ok(open(source, options)?.describe(options)?.tokenizer)
}
