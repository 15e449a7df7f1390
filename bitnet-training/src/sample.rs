//! Sampling from the model in training, without a KV cache: slow, for samples during a run.
use crate::{
    error::Result,
    model::{Batch, Workspace},
    rng::Rng,
    trainer::Trainer,
};

impl Trainer {
    /// Continues `prompt` until the end token or the end of the context; temperature 0 is greedy.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if memory is exhausted.
    pub fn sample(&self, prompt: &str, temperature: f32, seed: u64) -> Result<String> {
        let effective = self.effective_parameters();
        let mut rng = Rng::new(seed);
        let mut ids = vec![self.vocabulary().begin()];
        self.vocabulary().encode(prompt, &mut ids);
        let (vocab, end) = (self.model().config.vocab_size, self.vocabulary().end());
        let (mut work, mut batch) = (Workspace::new(self.pool()), Batch::new(self.pool()));
        while ids.len() < self.model().config.context_length {
            batch.clear();
            batch.inputs.extend_from_slice(&ids)?;
            batch.segments.push(0..ids.len());
            self.model().forward(&effective, &batch, &mut work)?;
            let next = sample(&work.logits()[(ids.len() - 1) * vocab..], temperature, &mut rng);
            if next == end {
                break;
            }
            ids.push(next);
        }
        Ok(String::from_utf8_lossy(&self.vocabulary().decode(&ids)).into_owned())
    }
}

fn sample(logits: &[f32], temperature: f32, rng: &mut Rng) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
    if temperature <= 0.0 {
        return best as u32;
    }
    let weights: Vec<f64> =
        logits.iter().map(|l| f64::from((l - logits[best]) / temperature).exp()).collect();
    let mut left = rng.uniform() * weights.iter().sum::<f64>();
    weights
        .iter()
        .position(|w| {
            left -= w;
            left < 0.0
        })
        .unwrap_or(best) as u32
}
