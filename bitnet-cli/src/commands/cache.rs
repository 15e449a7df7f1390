//! `bitnet cache`: the disk cache of prepared weights.

use anyhow::{Context, Result};
use serde_json::json;

use crate::args::{CacheAction, CacheArgs};
use crate::load;
use crate::output::{self, Output};

/// Lists or clears the cache.
pub(crate) fn run(args: &CacheArgs, output: &mut Output) -> Result<()> {
    let cache = load::cache().context("there is no cache folder: set BITNET_CACHE to a folder")?;
    let (files, key, label) = match args.action {
        CacheAction::List => (cache.files()?, "files", "cached"),
        CacheAction::Clear => (cache.clear()?, "removed", "removed"),
    };
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if output.json {
        let list: Vec<_> = files
            .iter()
            .map(|(path, bytes)| json!({ "file": path.display().to_string(), "bytes": bytes }))
            .collect();
        return output.json(&json!({ "folder": cache.folder.display().to_string(), key: list }));
    }
    for (path, bytes) in &files {
        output.line(&format!("{:>6} MiB  {}", bytes >> 20, path.display()))?;
    }
    let count = output::count(files.len(), "file");
    output.line(&format!("{label}: {count}, {} MiB, in {}", bytes >> 20, cache.folder.display()))
}
