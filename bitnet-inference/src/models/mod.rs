//! Model architectures: one decoder, and one short file for each family that says how it differs.

pub mod bitnet;
mod config;
mod decoder;
mod layer_input;
pub mod llama;
pub mod qwen3;
mod row_range;
mod source_files;
mod token_cost;
mod top;

pub use bitnet::activation_name;
pub use config::{Architecture, ContextLimit, LimitReason, ModelConfig, RopeScaling};
pub use decoder::{Attention, Decoder, FeedForward, Head, Layer, Linear, Projection, Sequence};
pub use layer_input::{LayerInput, Observe};
pub(crate) use source_files::SourceFiles;
pub use token_cost::TokenCost;
pub use top::HeadMode;
pub(crate) use top::TopHead;
