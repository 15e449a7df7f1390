//! Fields of the JSON files beside the weights that no other part of the loader reads.

use std::path::Path;

use super::json_object::side_file;
use crate::Result;
use crate::known_fields::{self, TokenizerView};
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// What the side files of a folder ask for and do not get.
///
/// # Errors
/// If a file can't be read, or holds a field whose value is not obeyed and would change prompt or text.
pub(crate) fn assumptions(folder: &Path, tokenizer: Option<&Tokenizer>) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Some(value) = side_file(folder, "generation_config.json")? {
        lines.extend(known_fields::generation_config(&value, "generation_config.json")?);
    }
    let id_of = |token: &str| tokenizer?.id_of(token);
    let view = tokenizer.map(|tokenizer| TokenizerView { id_of: &id_of, puts: puts(tokenizer) });
    let config = side_file(folder, "tokenizer_config.json")?;
    if let Some(value) = &config {
        let file = "tokenizer_config.json";
        lines.extend(known_fields::tokenizer_config(value, file, view.as_ref())?);
    }
    if let Some(value) = side_file(folder, "special_tokens_map.json")? {
        let file = "special_tokens_map.json";
        let (beside, view) = (config.as_ref(), view.as_ref());
        lines.extend(known_fields::special_tokens_map(&value, file, beside, view)?);
    }
    Ok(lines)
}

/// Whether a tokenizer puts tokens before a text, and after it; unknown if it can't write the letter that is tried.
fn puts(tokenizer: &Tokenizer) -> Option<(bool, bool)> {
    let encode = |add_special| {
        tokenizer.encode("a", EncodeOptions { add_special, parse_special: false }).ok()
    };
    let (plain, whole) = (encode(false)?, encode(true)?);
    let before = whole.windows(plain.len().max(1)).position(|part| part == plain)?;
    Some((before > 0, before + plain.len() < whole.len()))
}
