//! The training loop: one AdamW step per batch of stories, with the same bits for any number of threads.
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, PoolBuffer, Purpose};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    checkpoint::{self, Counters},
    config::TrainConfig,
    error::{Error, Result},
    model::{Batch, Model, Workspace},
    optimizer::{AdamW, schedule},
    stories::story,
    vocabulary::Vocabulary,
};

/// First seed of the held-out stories; training never reaches it.
const HELD_OUT: u64 = 1 << 60;
/// Elements per task of the gradient sum; it affects the rounding of the norm.
const CHUNK: usize = 1 << 14;

/// The report of one optimiser step.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Steps taken, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Mean loss of the batch, nats per token.
    pub loss: f64,
    /// Mean loss on held-out stories, on validation steps.
    pub validation_loss: Option<f64>,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens seen since the start of the run.
    pub tokens: u64,
    /// Seconds of training since the start of the run, including resumed parts.
    pub seconds: f64,
    /// Tokens per second of this session.
    pub tokens_per_second: f64,
    /// Estimated remaining seconds.
    pub eta_seconds: f64,
}

#[derive(Debug)]
struct Shard {
    batch: Batch,
    work: Workspace,
    gradients: PoolBuffer<f32>,
    loss: f64,
}

/// A run in memory.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    model: Model,
    vocabulary: Vocabulary,
    parameters: PoolBuffer<f32>,
    effective: PoolBuffer<f32>,
    optimizer: AdamW,
    shards: Vec<Shard>,
    validation: Vec<Batch>,
    threads: Arc<rayon::ThreadPool>,
    pool: HybridMemoryPool,
    tokens: u64,
    seconds: f64,
}

impl Trainer {
    /// Learns the vocabulary and creates the model with initial weights, in a new pool.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Vocabulary`] or [`Error::Memory`].
    pub fn new(config: TrainConfig) -> Result<Self> {
        Self::in_pool(config, &HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?)
    }

    /// Like [`Trainer::new`], with all large arrays in `pool`: latent weights and moments under
    /// [`Purpose::OptimizerState`], the quantised weights under [`Purpose::Weights`], gradients, activations and data
    /// under their own purposes.
    ///
    /// # Errors
    /// Same as [`Trainer::new`].
    pub fn in_pool(config: TrainConfig, pool: &HybridMemoryPool) -> Result<Self> {
        config.validate()?;
        let texts: Vec<String> = (0..config.vocabulary_stories)
            .into_par_iter()
            .map(|i| story(config.seed.wrapping_add(i)))
            .collect();
        let vocabulary =
            Vocabulary::learn(texts.iter().map(String::as_str), config.model.vocab_size)?;
        let model = Model::new(config.model.clone());
        let len = model.layout.len;
        let state = pool.for_purpose(Purpose::OptimizerState);
        let mut parameters = PoolBuffer::scratch(len, &state)?;
        model.layout.initial(&config.model, config.seed, &mut parameters);
        let shard = || {
            Ok(Shard {
                batch: Batch::new(pool),
                work: Workspace::new(pool),
                gradients: PoolBuffer::zeroed(len, &pool.for_purpose(Purpose::Gradients))?,
                loss: 0.0,
            })
        };
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .build()
            .map_err(|e| Error::Config { field: "threads", reason: e.to_string() })?;
        let mut trainer = Self {
            shards: (0..config.shards).map(|_| shard()).collect::<Result<_>>()?,
            effective: PoolBuffer::zeroed(len, &pool.for_purpose(Purpose::Weights))?,
            optimizer: AdamW::new(len, &model.layout.decayed(), pool)?,
            validation: Vec::new(),
            tokens: 0,
            seconds: 0.0,
            config,
            model,
            vocabulary,
            parameters,
            threads: Arc::new(threads),
            pool: pool.clone(),
        };
        trainer.validation = trainer.held_out()?;
        Ok(trainer)
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Returns the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Returns the model's sizes and layout.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the pool that holds the arrays of the run.
    #[must_use]
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the latent parameters in the layout of [`Model::layout`].
    #[must_use]
    pub fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// Returns the parameters of the forward pass: quantised ternary matrices, all others unchanged.
    #[must_use]
    pub fn effective_parameters(&self) -> Vec<f32> {
        let mut effective = vec![0.0; self.parameters.len()];
        self.model.layout.quantize(&mut effective, &self.parameters);
        effective
    }

    /// Returns the tokens seen.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the seconds of training.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Returns the steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.optimizer.steps
    }

    fn held_out(&self) -> Result<Vec<Batch>> {
        let seeds: Vec<u64> = (0..self.config.validation_stories).map(|i| HELD_OUT + i).collect();
        let batch = |seeds: &[u64]| {
            let mut batch = Batch::new(&self.pool);
            seeds.iter().try_for_each(|&seed| self.push_story(&mut batch, seed))?;
            Ok(batch)
        };
        seeds.chunks(16).map(batch).collect()
    }

    fn push_story(&self, batch: &mut Batch, seed: u64) -> Result<()> {
        let mut ids = vec![self.vocabulary.begin()];
        self.vocabulary.encode(&story(seed), &mut ids);
        ids.push(self.vocabulary.end());
        batch.push(&ids, self.config.model.context_length)
    }

    /// Takes one optimiser step and returns `(mean loss, gradient norm, learning rate)`.
    fn step(&mut self) -> Result<(f64, f64, f32)> {
        let mut shards = std::mem::take(&mut self.shards);
        let step = self.optimizer.steps;
        let per_shard = self.config.stories_per_shard as u64;
        let first = self.config.seed.wrapping_add(step * per_shard * shards.len() as u64);
        let threads = Arc::clone(&self.threads);
        let result = threads.install(|| {
            shards.par_iter_mut().enumerate().try_for_each(|(index, shard)| {
                shard.batch.clear();
                for i in 0..per_shard {
                    self.push_story(
                        &mut shard.batch,
                        first.wrapping_add(index as u64 * per_shard + i) % HELD_OUT,
                    )?;
                }
                Ok::<_, Error>(())
            })?;
            let total: usize = shards.iter().map(|shard| shard.batch.len()).sum();
            self.model.layout.quantize(&mut self.effective, &self.parameters);
            shards.par_iter_mut().try_for_each(|shard| {
                shard.gradients.fill(0.0);
                let Shard { batch, work, gradients, loss } = shard;
                *loss = self.model.loss_and_gradients(
                    &self.effective,
                    batch,
                    1.0 / total as f32,
                    work,
                    gradients,
                )?;
                Ok::<_, Error>(())
            })?;
            let norm = sum_gradients(&mut shards);
            let rates = schedule(&self.config, step);
            let factor = (f64::from(self.config.gradient_clip) / (norm + 1e-6)).min(1.0) as f32;
            self.optimizer.step(&mut self.parameters, &shards[0].gradients, factor, rates);
            self.tokens += total as u64;
            let loss = shards.iter().map(|shard| shard.loss).sum::<f64>() / total as f64;
            Ok((loss, norm, rates.learning_rate))
        });
        self.shards = shards;
        result
    }

    /// Returns the mean loss on the held-out stories, nats per token.
    ///
    /// # Errors
    /// [`Error::Memory`] if memory is exhausted.
    pub fn validate(&mut self) -> Result<f64> {
        self.model.layout.quantize(&mut self.effective, &self.parameters);
        let (mut loss, mut tokens) = (0.0, 0);
        let mut work = Workspace::new(&self.pool);
        for batch in &self.validation {
            self.model.forward(&self.effective, batch, &mut work)?;
            loss += crate::layers::cross_entropy(
                work.logits_mut(),
                &batch.targets,
                self.config.model.vocab_size,
                1.0,
            );
            tokens += batch.len();
        }
        Ok(loss / tokens.max(1) as f64)
    }

    /// Trains for the configured number of steps, or until `stop` is set; `progress` receives every step.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is NaN or infinite, [`Error::Memory`], or the error of `progress`.
    pub fn train(
        &mut self,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&mut Self, &Step) -> Result<()>,
    ) -> Result<()> {
        let (start, tokens_before, seconds_before) = (Instant::now(), self.tokens, self.seconds);
        while self.optimizer.steps < self.config.steps && !stop.load(Ordering::Relaxed) {
            let (loss, gradient_norm, learning_rate) = self.step()?;
            let step = self.optimizer.steps;
            if !loss.is_finite() {
                return Err(Error::Diverged { step, loss });
            }
            let validates =
                step.is_multiple_of(self.config.validate_every) || step == self.config.steps;
            let validation_loss = validates.then(|| self.validate()).transpose()?;
            let elapsed = start.elapsed().as_secs_f64();
            self.seconds = seconds_before + elapsed;
            let tokens_per_second = (self.tokens - tokens_before) as f64 / elapsed.max(1e-9);
            let left = (self.config.steps - step) as f64 * self.tokens as f64 / step as f64;
            let report = Step {
                step,
                steps: self.config.steps,
                loss,
                validation_loss,
                learning_rate,
                gradient_norm,
                tokens: self.tokens,
                seconds: self.seconds,
                tokens_per_second,
                eta_seconds: left / tokens_per_second.max(1e-9),
            };
            progress(self, &report)?;
        }
        Ok(())
    }

    /// Writes a checkpoint for [`Trainer::resume`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let vectors = [&*self.parameters, &*self.optimizer.m, &*self.optimizer.v];
        let (step, tokens, seconds) = (self.optimizer.steps, self.tokens, self.seconds);
        checkpoint::save(path, &self.config, Counters { step, tokens, seconds }, vectors)
    }

    /// Resumes from a checkpoint; the following steps equal those of an uninterrupted run bit for bit.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is missing, damaged or of another configuration.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let stored = checkpoint::load(path, &self.config, self.model.layout.len, &self.pool)?;
        let [parameters, m, v] = stored.vectors;
        self.parameters = parameters;
        (self.optimizer.m, self.optimizer.v, self.optimizer.steps) = (m, v, stored.counters.step);
        (self.tokens, self.seconds) = (stored.counters.tokens, stored.counters.seconds);
        Ok(())
    }
}

/// Sums all gradients into those of the first shard, in shard order, and returns the norm.
fn sum_gradients(shards: &mut [Shard]) -> f64 {
    let Some((first, others)) = shards.split_first_mut() else { return 0.0 };
    let squares: Vec<f64> = first
        .gradients
        .par_chunks_mut(CHUNK)
        .enumerate()
        .map(|(index, chunk)| {
            for other in others.iter() {
                for (sum, g) in chunk.iter_mut().zip(&other.gradients[index * CHUNK..]) {
                    *sum += g;
                }
            }
            chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}
