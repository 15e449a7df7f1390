//! Model architectures: one decoder, and one short file for each family that says how it differs.

pub mod bitnet;
mod calibrate;
mod config;
mod decoder;
mod layer;
mod linear;
pub mod llama;
mod observer;
pub mod qwen3;
mod rope;
mod source_files;
mod token_cost;
mod top_logits;

pub use bitnet::activation_name;
pub use config::{Architecture, ContextLimit, LimitReason, ModelConfig, RopeScaling};
pub use decoder::{Decoder, Head, Sequence};
pub use layer::{Attention, FeedForward, Layer};
pub(crate) use linear::Compute;
pub use linear::{Linear, Projection};
pub use observer::{LayerInput, ObserveFn};
pub(crate) use rope::SharedRope;
pub(crate) use source_files::SourceFiles;
pub use token_cost::TokenCost;
pub use top_logits::HeadMode;
pub(crate) use top_logits::LazyTopLogits;
