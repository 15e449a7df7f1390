//! Checkpoints: a safetensors file with parameters and both moments, and counters and configuration in its metadata.
use std::path::Path;

use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Purpose};
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorSpec, write};

use crate::{
    config::TrainConfig,
    error::{Error, Result},
};

/// Names of the three vectors in the file.
const NAMES: [&str; 3] = ["parameters", "first_moment", "second_moment"];
/// Values per write.
const CHUNK: usize = 1 << 14;

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counters {
    /// Steps taken.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds spent.
    pub seconds: f64,
}

/// The restored state.
#[derive(Debug)]
pub struct Checkpoint {
    /// The progress of the run.
    pub counters: Counters,
    /// Parameters, first and second moment.
    pub vectors: [PoolBuffer<f32>; 3],
}

/// Writes a checkpoint atomically; a crash leaves the previous one.
///
/// # Errors
/// [`Error::Checkpoint`] if the file cannot be written.
pub fn save(
    path: &Path,
    config: &TrainConfig,
    counters: Counters,
    vectors: [&[f32]; 3],
) -> Result<()> {
    let bad = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
    let text = serde_json::to_string(config).map_err(|e| bad(e.to_string()))?;
    let metadata = [
        ("step", counters.step.to_string()),
        ("tokens", counters.tokens.to_string()),
        ("seconds", counters.seconds.to_string()),
        ("config", text),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let spec = |(name, vector): (&str, &[f32])| TensorSpec {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: vec![vector.len()],
    };
    let specs: Vec<TensorSpec> = NAMES.into_iter().zip(vectors).map(spec).collect();
    let written = write(path, &specs, &metadata, |spec, sink| {
        let wanted = NAMES.iter().zip(vectors).filter(|(name, _)| **name == spec.name);
        for chunk in wanted.flat_map(|(_, vector)| vector.chunks(CHUNK)) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
            sink.write_all(&bytes)?;
        }
        Ok(())
    });
    written.map_err(|e| bad(e.to_string()))
}

/// Reads a checkpoint of `len` parameters and checks that it belongs to `config`;
/// `threads`, `steps` and the intervals may differ.
///
/// # Errors
/// [`Error::Checkpoint`] if the file is missing, damaged or of another run, [`Error::Memory`] if memory is exhausted.
pub fn load(
    path: &Path,
    config: &TrainConfig,
    len: usize,
    pool: &HybridMemoryPool,
) -> Result<Checkpoint> {
    let pool = pool.for_purpose(Purpose::OptimizerState);
    let bad = |reason: String| Error::Checkpoint { path: path.to_owned(), reason };
    let file = SafeTensors::open(path).map_err(|e| bad(e.to_string()))?;
    let meta = |key: &str| {
        let found = file.metadata().iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str()).ok_or_else(|| bad(format!("it has no `{key}`")))
    };
    let number =
        |key: &str| meta(key)?.parse::<u64>().map_err(|_| bad(format!("`{key}` is not a number")));
    let stored: TrainConfig = serde_json::from_str(meta("config")?)
        .map_err(|e| bad(format!("its configuration: {e}")))?;
    let comparable = TrainConfig {
        threads: config.threads,
        steps: config.steps,
        checkpoint_every: config.checkpoint_every,
        ..stored
    };
    if comparable != *config {
        return Err(bad("it belongs to another configuration".to_owned()));
    }
    let vector = |name: &str| {
        let tensor = file.tensor(name).map_err(|e| bad(e.to_string()))?;
        if tensor.dtype != Dtype::F32 || tensor.shape != [len] {
            return Err(bad(format!(
                "`{name}` is {:?} {:?}, not F32 [{len}]",
                tensor.dtype, tensor.shape
            )));
        }
        let mut values = PoolBuffer::scratch(len, &pool)?;
        for (value, bytes) in values.iter_mut().zip(tensor.data.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(values)
    };
    let vectors = [vector(NAMES[0])?, vector(NAMES[1])?, vector(NAMES[2])?];
    file.check().map_err(|e| bad(e.to_string()))?;
    let seconds =
        meta("seconds")?.parse().map_err(|_| bad("`seconds` is not a number".to_owned()))?;
    Ok(Checkpoint {
        counters: Counters { step: number("step")?, tokens: number("tokens")?, seconds },
        vectors,
    })
}
