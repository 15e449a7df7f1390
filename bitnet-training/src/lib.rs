//! Quantisation-aware training of small ternary language models on the CPU.
//!
//! # Tour
//!
//! A [`Trainer`] holds a run in memory; [`train_from_config`] runs it in a folder with log and checkpoints. The text
//! comes from a grammar: [`story`] returns the same story for the same seed.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//!
//! use bitnet_training::{TrainConfig, train_from_config};
//!
//! println!("{}", bitnet_training::story(7));
//! let config = TrainConfig::load(Path::new("models/stories.json"))?;
//! let stop = AtomicBool::new(false); // set it to end after the current step
//! let report = train_from_config(&config, Path::new("run"), false, &stop, &mut |step| {
//!     println!("step {}: loss {:.4}", step.step, step.loss);
//! })?;
//! println!("held-out loss {:.4}, {}", report.validation_loss, report.model.display());
//! # Ok::<(), bitnet_training::Error>(())
//! ```
//!
//! # Modules
//!
//! - [`layers`]: forward and backward pass of every layer, tested against finite differences.
//! - [`model`], [`parameters`]: the model and its parameter layout.
//! - [`optimizer`]: AdamW and the learning-rate schedule.
//! - [`checkpoint`], [`export`]: checkpoints that resume bit for bit, and GGUF export.
//! - [`config`], [`vocabulary`]: the recipe, and the BPE vocabulary.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
mod curve;
mod error;
pub mod export;
pub mod layers;
pub mod model;
pub mod optimizer;
pub mod parameters;
pub mod pool_vec;
mod rng;
mod run;
mod sample;
mod stories;
mod trainer;
pub mod vocabulary;

pub use config::{ModelConfig, TrainConfig};
pub use curve::training_curve;
pub use error::{Error, Result};
pub use run::{TrainReport, train_from_config, train_in_pool};
pub use stories::story;
pub use trainer::{Step, Trainer};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
