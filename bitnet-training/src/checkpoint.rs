//! The state of a run on disk: a safetensors file with the parameters and both moments, the configuration in its metadata.
//!
//! ```text
//! u64 header length | JSON {"__metadata__": {step, config}, name: {dtype, shape, data_offsets}} | parameters | m | v   (f32, little-endian)
//! ```
use std::path::Path;

use serde_json::{Value, json};

use crate::{
    config::TrainConfig,
    error::{Error, Result},
};

/// Parameters, first and second moment, in this order in the file.
const NAMES: [&str; 3] = ["parameters", "first_moment", "second_moment"];

/// What a checkpoint restores.
#[derive(Debug)]
pub struct Checkpoint {
    /// Steps taken.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Parameters, first and second moment.
    pub vectors: [Vec<f32>; 3],
}

/// Writes a checkpoint through a temporary file, so that a crash leaves the previous one.
///
/// # Errors
/// [`Error::Io`].
pub fn save(
    path: &Path,
    config: &TrainConfig,
    counters: (u64, u64, f64),
    vectors: [&[f32]; 3],
) -> Result<()> {
    let (step, tokens, seconds) = counters;
    let mut header = json!({"__metadata__": {
        "step": step.to_string(),
        "tokens": tokens.to_string(),
        "seconds": seconds.to_string(),
        "config": json!(config).to_string(),
    }});
    let mut offset = 0;
    for (name, vector) in NAMES.iter().zip(vectors) {
        let end = offset + 4 * vector.len();
        header[name] =
            json!({"dtype": "F32", "shape": [vector.len()], "data_offsets": [offset, end]});
        offset = end;
    }
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    for vector in vectors {
        bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    }
    write_atomic(path, &bytes)
}

/// Writes `bytes` to a temporary file beside `path`, syncs it and renames it.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads a checkpoint back and checks that it belongs to `config` (`threads`, `steps` and the file habits may differ).
///
/// # Errors
/// [`Error::Io`], or [`Error::Checkpoint`] if the file is damaged or of another run.
pub fn load(path: &Path, config: &TrainConfig, len: usize) -> Result<Checkpoint> {
    let bytes =
        std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let bad = |reason: &str| Error::Checkpoint { path: path.to_owned(), reason: reason.to_owned() };
    let (length, rest) =
        bytes.split_first_chunk::<8>().ok_or_else(|| bad("it is shorter than its header"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let text = rest.get(..length).ok_or_else(|| bad("it is shorter than its header"))?;
    let data = rest.get(length..).unwrap_or_default();
    let header: Value =
        serde_json::from_slice(text).map_err(|e| bad(&format!("its header is not JSON ({e})")))?;
    let meta = |key: &str| {
        header["__metadata__"][key].as_str().ok_or_else(|| bad(&format!("it has no `{key}`")))
    };
    let number =
        |key: &str| meta(key)?.parse::<u64>().map_err(|_| bad(&format!("`{key}` is not a number")));
    let stored: TrainConfig = serde_json::from_str(meta("config")?)
        .map_err(|e| bad(&format!("its configuration: {e}")))?;
    let comparable = TrainConfig {
        threads: config.threads,
        steps: config.steps,
        checkpoint_every: config.checkpoint_every,
        ..stored
    };
    if comparable != *config {
        return Err(bad("it belongs to another configuration"));
    }
    if data.len() != 12 * len {
        return Err(bad(&format!(
            "it holds {} bytes of data, the model needs {}",
            data.len(),
            12 * len
        )));
    }
    let vector = |index: usize| {
        let part = &data[4 * len * index..][..4 * len];
        part.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    Ok(Checkpoint {
        step: number("step")?,
        tokens: number("tokens")?,
        seconds: meta("seconds")?.parse().map_err(|_| bad("`seconds` is not a number"))?,
        vectors: [vector(0), vector(1), vector(2)],
    })
}
