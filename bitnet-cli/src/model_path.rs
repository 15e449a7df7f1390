//! Paths of models as they are typed: `hf:OWNER/NAME` stands for what has been pulled from a hub.

use std::path::PathBuf;

use bitnet_hub::{HubError, ModelName, Settings};
use clap::builder::{PathBufValueParser, TypedValueParser};

/// The beginning of a name on a hub.
const PREFIX: &str = "hf:";

/// Reads a path, or finds what has been pulled. Nothing is downloaded.
pub(crate) fn parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(resolve)
}

fn resolve(path: PathBuf) -> Result<PathBuf, HubError> {
    let Some(text) = path.to_str().filter(|text| text.starts_with(PREFIX)) else {
        return Ok(path);
    };
    let name = ModelName::parse(text)?;
    Settings::from_environment()?.cache.find(&name)
}
