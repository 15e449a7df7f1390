//! Files beside the weights of a Hugging Face folder.

use std::path::Path;

use bitnet_hub::choose::SIDE_FILES;
use bitnet_inference::loader::parse_python_json;
use serde_json::Value as Json;

use crate::{Error, Result};

/// Maximum size of a side file in bytes.
const MAX_SIDE_FILE: u64 = 256 << 20;

/// Returns the names of side files that are copied unchanged.
pub(crate) fn copied() -> impl Iterator<Item = &'static str> {
    SIDE_FILES.into_iter().chain(["README.md"])
}

/// Reads a side file.
pub(crate) fn read_side_file(path: &Path) -> Result<Vec<u8>> {
    let facts = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
    if !facts.is_file() || facts.len() > MAX_SIDE_FILE {
        let problem = format!("not a file of at most {MAX_SIDE_FILE} bytes");
        return Err(Error::refused(path.display().to_string(), problem));
    }
    std::fs::read(path).map_err(Error::io(path, "read"))
}

/// Reads a JSON side file, if it exists.
pub(crate) fn read_json(path: &Path) -> Result<Option<Json>> {
    if !path.exists() {
        return Ok(None);
    }
    let parsed = parse_python_json(&read_side_file(path)?);
    parsed.map(Some).map_err(|problem| Error::refused(path.display().to_string(), problem))
}
