//! API keys in a file.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::input_text::{LONGEST_SETTINGS, read_text};

/// Returns the keys of a file: its lines, without those that are empty or begin with `#`.
pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path, LONGEST_SETTINGS).context("--api-key-file")?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        bail!("{}: there is no key; write one in a line", path.display());
    }
    Ok(keys)
}
