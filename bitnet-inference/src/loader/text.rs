//! The tokenizer of a model, without its weights.

use crate::Result;
use crate::loader::LoadOptions;
use crate::model::{ModelSource, open};
use crate::tokenizer::Tokenizer;

/// The tokenizer of a model, if it came with one; nothing but the header and the tokenizer is read.
///
/// # Errors
/// As loading the model, except for what is wrong with the weights.
pub fn tokenizer_of(source: ModelSource<'_>, options: &LoadOptions) -> Result<Option<Tokenizer>> {
    Ok(open(source, options)?.describe(options)?.tokenizer)
}
