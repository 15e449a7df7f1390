//! Llama-shaped ternary models (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E, TriLM): no extra norms, SiLU.

use bitnet_core::backend::RopeOrder;

/// GGUF files of architecture `llama` have the rows of Q and K permuted: components `2j` and `2j + 1` rotate
/// together.
pub const GGUF_ROPE_ORDER: RopeOrder = RopeOrder::Interleaved;

/// Hugging Face checkpoints keep the trained order: components `j` and `j + d/2` rotate together.
pub const HF_ROPE_ORDER: RopeOrder = RopeOrder::Halves;
