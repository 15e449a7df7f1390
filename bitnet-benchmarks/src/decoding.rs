//! Token generation with the story model, whose decoder and back end allocate from the measured pool.

use bitnet_core::memory::HybridMemoryPool;
use bitnet_cpu::CpuOptions;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{InferenceError, LoadOptions, Model, ModelSource, Session, backend_in_pool};

use crate::sampling::{Plan, timed};

/// Tokens per restart, limited by the KV cache.
const TOKENS: usize = 128;

/// Measures nanoseconds per generated token, on one thread.
///
/// # Errors
/// A message if the model can't be loaded or run.
pub fn decoding(pool: HybridMemoryPool, plan: &Plan) -> Result<Vec<f64>, String> {
    let said = |error: InferenceError| error.to_string();
    let cpu = CpuOptions { threads: Some(1), isa: None };
    let backend = backend_in_pool("cpu", cpu, &pool).map_err(said)?;
    let options = LoadOptions { pool: Some(pool), ..LoadOptions::default() };
    let model =
        Model::load_with(ModelSource::Embedded, &options, backend, &mut |_, _| {}).map_err(said)?;
    let mut session = model.session(Some(TOKENS + 1)).map_err(said)?;
    let mut sampler =
        Sampler::new(SamplerConfig::default(), model.config().vocab_size).map_err(said)?;
    timed(plan, TOKENS as f64, || write(&mut session, &mut sampler)).map_err(said)
}

/// Restarts and generates `TOKENS` tokens greedily.
fn write(session: &mut Session, sampler: &mut Sampler) -> Result<(), InferenceError> {
    session.truncate(0);
    let mut token = 1;
    for _ in 0..TOKENS {
        session.extend(&[token])?;
        token = session.choose(sampler)?;
    }
    Ok(())
}
