//! Quantisation-aware training of ternary language models.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
mod curve;
mod error;
pub mod export;
pub mod grown;
pub mod layers;
pub mod model;
pub mod optimizer;
pub mod parameters;
mod rng;
mod run;
mod stories;
mod tell;
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
