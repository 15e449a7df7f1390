//! AdamW with decoupled weight decay, and the two-stage learning-rate schedule of b1.58 training.
use std::ops::Range;

use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Purpose};
use rayon::prelude::*;

use crate::{config::TrainConfig, error::Result};

/// Elements per parallel task; it does not affect the result, because the update is elementwise.
const CHUNK: usize = 1 << 14;

/// Moments of every parameter and the number of steps taken.
#[derive(Debug)]
pub struct AdamW {
    /// First moment.
    pub m: PoolBuffer<f32>,
    /// Second moment.
    pub v: PoolBuffer<f32>,
    /// Steps taken.
    pub steps: u64,
    /// 1 where weight decay applies, 0 elsewhere.
    decayed: PoolBuffer<u8>,
}

/// Rates of one step.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Learning rate.
    pub learning_rate: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// First-moment decay.
    pub beta1: f32,
    /// Second-moment decay.
    pub beta2: f32,
}

impl AdamW {
    /// Creates zero moments for `len` parameters, in `pool` as [`Purpose::OptimizerState`]; weight decay applies to the
    /// `decayed` ranges only.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if memory is exhausted.
    pub fn new(len: usize, decayed: &[Range<usize>], pool: &HybridMemoryPool) -> Result<Self> {
        let pool = pool.for_purpose(Purpose::OptimizerState);
        let mut mask = PoolBuffer::zeroed(len, &pool)?;
        for range in decayed {
            mask[range.clone()].fill(1);
        }
        let (m, v) = (PoolBuffer::zeroed(len, &pool)?, PoolBuffer::zeroed(len, &pool)?);
        Ok(Self { m, v, steps: 0, decayed: mask })
    }

    /// Applies one step: `p ← p·(1 - lr·wd) - lr · m̂ / (sqrt(v̂) + 1e-8)`,
    /// with the gradient scaled by `factor` (clipping).
    pub fn step(&mut self, parameters: &mut [f32], gradients: &[f32], factor: f32, rates: Rates) {
        self.steps += 1;
        let Rates { learning_rate, weight_decay, beta1, beta2 } = rates;
        let t = self.steps as f64;
        let step_size = (f64::from(learning_rate) / (1.0 - f64::from(beta1).powf(t))) as f32;
        let root = (1.0 - f64::from(beta2).powf(t)).sqrt() as f32;
        let keep = 1.0 - learning_rate * weight_decay;
        let state = self
            .m
            .par_chunks_mut(CHUNK)
            .zip(self.v.par_chunks_mut(CHUNK))
            .zip(self.decayed.par_chunks(CHUNK));
        parameters.par_chunks_mut(CHUNK).zip(gradients.par_chunks(CHUNK)).zip(state).for_each(
            |((p, g), ((m, v), d))| {
                for i in 0..p.len() {
                    let g = g[i] * factor;
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                    let decayed = if d[i] != 0 { p[i] * keep } else { p[i] };
                    p[i] = decayed - step_size * m[i] / (v[i].sqrt() / root + 1e-8);
                }
            },
        );
    }
}

/// Returns the rates of step `step` (0-based).
///
/// Linear warm-up to the peak; linear decay to 4/5 of the peak at `stage_two_step`; a drop to 2/3 of the peak there;
/// linear decay to zero at the end. Weight decay applies in the first stage only.
#[must_use]
pub fn schedule(config: &TrainConfig, step: u64) -> Rates {
    let peak = f64::from(config.peak_learning_rate);
    let (stage, weight_decay) = if step < config.stage_two_step {
        (1.0 - 0.2 * step as f64 / config.stage_two_step as f64, config.weight_decay)
    } else {
        let left = config.steps.saturating_sub(step) as f64
            / (config.steps - config.stage_two_step).max(1) as f64;
        (2.0 / 3.0 * left, 0.0)
    };
    let warmup = ((step + 1) as f64 / config.warmup_steps.max(1) as f64).min(1.0);
    let learning_rate = (peak * stage * warmup) as f32;
    Rates { learning_rate, weight_decay, beta1: config.beta1, beta2: config.beta2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;

    fn config() -> TrainConfig {
        let model = ModelConfig {
            vocab_size: 300,
            context_length: 16,
            hidden_size: 128,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            feed_forward: 128,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
        };
        TrainConfig {
            name: String::new(),
            model,
            seed: 0,
            vocabulary_stories: 1,
            steps: 200,
            stage_two_step: 100,
            shards: 1,
            stories_per_shard: 1,
            threads: 1,
            peak_learning_rate: 3e-3,
            warmup_steps: 10,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            gradient_clip: 1.0,
            validate_every: 1,
            validation_stories: 1,
            checkpoint_every: 1,
        }
    }

    #[test]
    fn the_schedule_has_two_stages() {
        let rate = |step| schedule(&config(), step).learning_rate;
        assert!((rate(0) - 3e-4).abs() < 1e-8);
        assert!((rate(10) - 3e-3 * 0.98).abs() < 1e-8);
        assert!((rate(100) - 2e-3).abs() < 1e-8);
        assert!((rate(150) - 1e-3).abs() < 1e-8);
        assert!(rate(99) > 1.19 * rate(100));
        assert_eq!(rate(200), 0.0);
        assert_eq!([99, 100].map(|step| schedule(&config(), step).weight_decay), [0.1, 0.0]);
    }

    #[test]
    fn first_stage_is_independent_of_run_length() {
        let longer = TrainConfig { steps: 1000, ..config() };
        for step in 0..100 {
            assert_eq!(
                schedule(&config(), step).learning_rate,
                schedule(&longer, step).learning_rate
            );
        }
    }

    #[test]
    fn first_step_moves_by_learning_rate_and_decay() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut adam = AdamW::new(2, std::slice::from_ref(&(0..1)), &pool).unwrap();
        let mut p = [1.0, 1.0];
        adam.step(
            &mut p,
            &[0.5, -0.5],
            1.0,
            Rates { learning_rate: 0.1, weight_decay: 0.2, beta1: 0.9, beta2: 0.95 },
        );
        assert!((p[0] - (0.98 - 0.1)).abs() < 1e-6 && (p[1] - 1.1).abs() < 1e-6, "{p:?}");
    }
}
