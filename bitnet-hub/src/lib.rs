//! Models from a Hugging Face compatible hub, in the cache that its Python library uses.
//!
//! [`ModelName`] is what a user types, [`HubCache`] the folder that both libraries share, [`choose`] what somebody wants who names
//! a repository only. With the feature `download` (on by default), [`Hub`] lists repositories and pulls files: it goes on where an
//! earlier download ended, and keeps only what has the length and the checksum that the hub announced.
//!
//! ```
//! use bitnet_hub::{HubCache, ModelName};
//!
//! let name = ModelName::parse("hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf")?;
//! let cache = HubCache::new("there-is-no-such-folder");
//! let missing = cache.find(&name).unwrap_err();
//! assert!(missing.to_string().contains("bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf"));
//! # Ok::<(), bitnet_hub::HubError>(())
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
pub mod recommend;
mod settings;
pub mod stored;

pub use cache::HubCache;
pub use error::{HubError, Result};
#[cfg(feature = "download")]
pub use hub::{Event, Hold, Hub, Listing, Pulled, RemoteFile, State, Watch};
pub use name::{ModelName, Repository, path_problem};
pub use settings::{Settings, Token};

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
