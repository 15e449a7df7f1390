//! Runs ternary language models: files to a model, text to tokens, tokens to logits, logits to text.
//!
//! A [`Model`] is opened once and shared. A [`Session`] is one sequence of tokens with its cache; many can read from
//! one model, on any thread. The tour below compiles and runs with the small model that is part of the crate.
//!
//! Text in, text out:
//!
//! ```
//! use bitnet_inference::Model;
//!
//! let model = Model::embedded()?; // or Model::open("model.gguf")?
//! println!("{}", model.complete("Once upon a time", 20)?.text);
//! # Ok::<(), bitnet_inference::InferenceError>(())
//! ```
//!
//! Token by token, with a sampler: [`Session::generate`] is an iterator.
//!
//! ```
//! use bitnet_inference::{GenerateOptions, KvType, Model, sampler::SamplerConfig};
//!
//! let model = Model::builder().threads(2).kv(KvType::Int8).embedded()?;
//! let prompt = model.encode_prompt("Once upon a time")?;
//! let sampler = SamplerConfig { temperature: 0.7, seed: 1, ..SamplerConfig::default() };
//! let options = GenerateOptions { sampler, max_tokens: 20, ..GenerateOptions::default() };
//! let mut session = model.session(None)?;
//! for token in session.generate(&prompt, &options)? {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), bitnet_inference::InferenceError>(())
//! ```
//!
//! Logits instead of text, and several sequences in one pass:
//!
//! ```
//! use bitnet_inference::sampler::{Sampler, SamplerConfig};
//! use bitnet_inference::{BatchItem, LogitRows, Model, choose_batch, extend_batch};
//!
//! let model = Model::embedded()?;
//! let (mut a, mut b) = (model.session(Some(64))?, model.session(Some(64))?);
//! let logits = a.extend(&[1, 40, 50])?.logits()?; // [vocabulary]
//! assert_eq!(logits.len(), model.config().vocab_size);
//!
//! let batch = extend_batch(&mut [
//!     BatchItem { session: &mut a, tokens: &[60], logits: LogitRows::Last },
//!     BatchItem { session: &mut b, tokens: &[1, 40], logits: LogitRows::All },
//! ])?;
//! assert_eq!((batch.of(0)?.len(), batch.of(1)?.len()), (1, 2));
//!
//! let greedy = Sampler::new(SamplerConfig::default(), logits.len())?;
//! let mut samplers = [greedy.clone(), greedy];
//! let [first, second] = &mut samplers;
//! let tokens = choose_batch(&mut [(&a, first), (&b, second)])?; // the next token of each
//! assert_eq!(tokens.len(), 2);
//! # Ok::<(), bitnet_inference::InferenceError>(())
//! ```
//!
//! Embeddings of texts ([`Model::embed`]), also of models without a head:
//!
//! ```
//! use bitnet_inference::{EmbedOptions, Model};
//!
//! let model = Model::embedded()?;
//! let of = model.embed(&["a cat", "a dog"], &EmbedOptions::default())?;
//! println!("{:.3}", of[0].cosine(&of[1]));
//! # Ok::<(), bitnet_inference::InferenceError>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`loader`] | containers, the facts that files leave open, decoding |
//! | [`models`] | the decoder, its layers and settings |
//! | [`tokenizer`], [`chat`] | text to tokens and back; conversations, tools, reasoning and calls in answers |
//! | [`constraint`] | JSON Schemas, regexes and grammars that written text must follow |
//! | [`sampler`] | logits to a token |
//! | [`engine`] | many requests at a time, with a scheduler and shared prefixes |
#![forbid(unsafe_code)]

mod backends;
mod batch;
mod bounded_json;
mod cache;
pub mod chat;
pub mod constraint;
mod draft;
mod embed;
pub mod engine;
mod error;
mod generate;
mod in_parallel;
mod known_fields;
pub mod loader;
mod memory_stats;
mod model;
mod model_builder;
pub mod models;
mod read_ahead;
pub mod sampler;
mod session;
pub mod tokenizer;
mod weight_cache;

pub use batch::{BatchItem, BatchLogits, LogitRows, choose_batch, extend_batch};
pub use bitnet_core::kv::{KvCache, KvType};
pub use draft::{DraftMode, DraftStats};
pub use embed::{EmbedOptions, Embedding, Pooling, Prompt};
pub use error::{InferenceError, Result};
pub use generate::{FinishReason, GenerateOptions, Generated, Generation, StopFilter, Token};
pub use known_fields::{Refusal, adapter_config};
pub use loader::{
    DraftSource, EmbeddingSettings, Inspection, LoadOptions, MemoryNeed, ModelFacts, ModelFiles,
    Notice, PreparedCache, SuggestedSampling, backend_by_name, backend_in_pool, tokenizer_of,
};
pub use memory_stats::{Fragmentation, MemoryStats};
pub use model::{EMBEDDED, EMBEDDED_NAME, Model, ModelSource};
pub use model_builder::ModelBuilder;
pub use read_ahead::MAX_DRAFT;
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
