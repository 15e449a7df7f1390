//! Tokenizers, chat templates, models, samplers and the engine that writes text.
//!
//! Three ways in, from simple to free:
//!
//! - **simple**: [`Model::complete`] continues a text;
//! - **streaming**: [`Session::generate`] gives each piece of text as soon as it is whole, with samplers, stop strings and
//!   cancellation;
//! - **advanced**: [`Session`] reads tokens and returns logits, and [`models::Decoder`] runs single layers.
#![forbid(unsafe_code)]

mod batch;
mod bounded_json;
mod cache;
pub mod chat;
mod error;
mod generate;
mod in_parallel;
mod known_fields;
pub mod loader;
mod memory_stats;
mod model;
mod model_builder;
pub mod models;
pub mod sampler;
mod session;
pub mod tokenizer;
mod weight_cache;

pub use batch::{BatchItem, BatchLogits, LogitRows, extend_batch};
pub use bitnet_core::kv::{KvCache, KvType};
pub use cache::SequenceCache;
pub use error::{InferenceError, Result};
pub use generate::{FinishReason, GenerateOptions, Generated, Generation, StopFilter, Token};
pub use known_fields::{Refusal, adapter_config};
pub use loader::{
    Inspection, LoadOptions, ModelFacts, ModelFiles, Notice, PreparedCache, SuggestedSampling,
    backend_by_name, backend_in_pool, tokenizer_of,
};
pub use memory_stats::{Fragmentation, MemoryStats};
pub use model::{EMBEDDED, EMBEDDED_NAME, Model, ModelSource};
pub use model_builder::ModelBuilder;
pub use session::{PREFILL_CHUNK, Prefill, Progress, Session};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ProjectReadme;

#[cfg(doctest)]
#[doc = include_str!("../../bitnet-cli/README.md")]
struct ProgramReadme;
