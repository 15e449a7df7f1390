//! Downloads models from a Hugging Face compatible hub into the cache of `huggingface_hub`.
//!
//! [`ModelName`] parses names such as `OWNER/NAME@REVISION:FILE`, [`HubCache`] finds cached models, and [`choose`]
//! selects the files that a model needs. With the feature `download` (on by default), [`Hub`] lists repositories and
//! downloads files; it resumes interrupted downloads and verifies length and checksum.
//!
//! ```
//! use bitnet_hub::{HubCache, ModelName};
//!
//! let name = ModelName::parse("hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf")?;
//! let cache = HubCache::new("there-is-no-such-folder");
//! let missing = cache.find(&name).unwrap_err();
//! assert!(missing.to_string().contains("bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf"));
//! # Ok::<(), bitnet_hub::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod cache;
pub mod choose;
mod complete;
mod error;
#[cfg(feature = "download")]
mod hub;
mod link;
mod name;
mod no_model;
mod onnx;
pub mod recommend;
mod settings;
pub mod storage;
pub mod stored;

pub use cache::HubCache;
pub use error::{Error, Result};
#[cfg(feature = "download")]
pub use hub::{Event, Hold, Hub, Listing, Pulled, RemoteFile, State, Watch};
pub use name::{ModelName, Repository, path_problem};
pub use settings::{Settings, Token};

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
