//! The files behind a decoder: those that it reads from, and the weight cache that it writes.

use super::Decoder;
use crate::Result;

impl Decoder {
    /// Begins to write the prepared weights and head to disk on threads of their own, if
    /// [`LoadOptions::cache`](crate::LoadOptions::cache) asks for it and it has not begun. Generation does so after the
    /// first token; the files are complete when the decoder is dropped.
    pub fn write_cache(&self) {
        if let Some(writer) = &self.cache_writer {
            writer.start();
        }
        self.top_logits.write_cache();
    }

    /// Returns an error if a file that weights are read from has changed since it was loaded. What was computed before
    /// an `Ok` was computed from the loaded bytes; [`Decoder::forward`], [`Decoder::logits`] and
    /// [`Decoder::top_logits`] end with this check.
    ///
    /// # Errors
    /// [`crate::InferenceError::Format`] naming the file and what has changed.
    pub fn check_files(&self) -> Result<()> {
        self.files.check()?;
        self.top_logits.check_file()
    }
}
