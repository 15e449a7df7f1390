//! Training steps, whose trainer allocates from the measured pool.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::HybridMemoryPool;
use bitnet_training::{ModelConfig, TrainConfig, Trainer};
use std::time::Instant;

use crate::sampling::{Plan, sample};

/// Returns the story model's sizes with few stories per step, so that allocation has more weight.
fn config() -> TrainConfig {
    TrainConfig {
        name: "measured".to_owned(),
        model: ModelConfig {
            vocab_size: 1024,
            context_length: 256,
            hidden_size: 256,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            feed_forward: 512,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
        },
        seed: 7,
        vocabulary_stories: 200,
        steps: 1 << 40,
        stage_two_step: 1 << 39,
        shards: 1,
        stories_per_shard: 1,
        threads: 1,
        peak_learning_rate: 1e-3,
        warmup_steps: 10,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        gradient_clip: 1.0,
        validate_every: 1 << 40,
        validation_stories: 1,
        checkpoint_every: 1 << 40,
    }
}

/// Measures nanoseconds per optimiser step, on one thread.
///
/// # Errors
/// A message if the trainer can't be created or run.
pub fn training(pool: &HybridMemoryPool, plan: &Plan) -> Result<Vec<f64>, String> {
    let mut trainer = Trainer::in_pool(config(), pool).map_err(|error| error.to_string())?;
    let [samples] = sample(plan, 1.0, |rounds| {
        let stop = AtomicBool::new(false);
        let until = trainer.steps() + rounds;
        let start = Instant::now();
        let ended = trainer.train(&stop, &mut |_, step| {
            stop.store(step.step >= until, Ordering::Relaxed);
            Ok(())
        });
        let time = start.elapsed();
        ended.map(|_| [time]).map_err(|error| error.to_string())
    })?;
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use bitnet_core::memory::MemoryPoolConfig;

    use super::*;

    #[test]
    fn steps_are_taken_in_the_pool() {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let samples = training(&pool, &Plan::ONCE).unwrap();
        assert!(!samples.is_empty() && samples.iter().all(|&step| step > 0.0));
        assert!(pool.get_metrics().allocations > 100);
    }
}
