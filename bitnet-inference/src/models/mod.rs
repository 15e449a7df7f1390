//! The decoder of all model families; a family is a table of `bitnet_formats::architecture`.

mod activation;
mod architecture;
mod calibrate;
mod compute;
mod config;
mod decoder;
mod decoder_files;
mod delta_net;
mod draft_head;
mod layer;
mod linear;
mod observer;
mod rope;
mod rotation;
mod source_files;
mod token_cost;
mod top_logits;

pub(crate) use activation::unknown_name;
pub use activation::{activation_by_name, activation_name};
pub use architecture::{TensorSpec, tensors};
pub use bitnet_formats::architecture::{Architecture, LayerKind};
pub(crate) use compute::Compute;
pub use config::{ContextLimit, LimitReason, ModelConfig, RecurrentConfig, RopeScaling};
pub use decoder::{Decoder, Head, Sequence};
pub use delta_net::DeltaNet;
pub use draft_head::DraftHead;
pub use layer::{Attention, FeedForward, Layer, Mixer};
pub use linear::{Linear, Projection};
pub use observer::{LayerInput, ObserveFn};
pub(crate) use rope::SharedRope;
pub use rotation::WeightRotations;
pub(crate) use source_files::SourceFiles;
pub use token_cost::TokenCost;
pub use top_logits::HeadMode;
pub(crate) use top_logits::LazyTopLogits;
