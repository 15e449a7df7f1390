//! LongRoPE: a factor for each frequency up to the context of the first training, and others beyond it.
//!
//! Sequences up to that context are run; for longer ones every frequency changes, and with it every key that is cached.
//! Source: Ding et al., 2024; `_compute_longrope_parameters` of transformers 5.

use std::sync::Arc;

/// RoPE stretched by LongRoPE.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRopeScaling {
    /// What each frequency is divided by up to the original context, `[head_dim / 2]`.
    pub short_factors: Arc<[f32]>,
    /// What each is divided by beyond it, where the files say that; longer sequences are not run.
    pub long_factors: Option<Arc<[f32]>>,
    /// What cosines and sines are multiplied by.
    pub attention_factor: f32,
}

impl LongRopeScaling {
    /// The magnitude that the authors suggest for a context of `context` tokens after one of `original`.
    pub fn magnitude(context: f32, original: f32) -> f32 {
        let factor = f64::from(context) / f64::from(original);
        if factor <= 1.0 {
            return 1.0;
        }
        (1.0 + factor.ln() / f64::from(original).ln()).sqrt() as f32
    }

    /// The inverse frequencies of `dim` components with base `theta`, `[dim / 2]`.
    pub(super) fn inverse_frequencies(&self, dim: usize, theta: f32) -> Vec<f32> {
        let plain = (0..dim / 2).map(|j| theta.powf((2 * j) as f32 / dim as f32));
        plain.zip(&*self.short_factors).map(|(plain, factor)| 1.0 / (factor * plain)).collect()
    }

    /// Returns what is impossible, for `dim` components.
    pub(super) fn fault(&self, dim: usize) -> Option<String> {
        let long = self.long_factors.as_deref();
        for (kind, factors) in [("short", Some(&*self.short_factors)), ("long", long)] {
            if let Some(count) = factors.map(<[f32]>::len).filter(|&count| count != dim / 2) {
                return Some(format!("{count} {kind} factors for {dim} components"));
            }
        }
        let factors = self.short_factors.iter().chain(long.into_iter().flatten());
        let numbers = factors.chain([&self.attention_factor]);
        let wrong = numbers.copied().find(|number| !(number.is_finite() && *number > 0.0));
        wrong.map(|number| format!("{number} is not a positive number"))
    }
}
