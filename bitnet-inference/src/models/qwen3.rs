//! Qwen3-shaped ternary models (Bonsai, BitNet-embedding): an RMS norm on every query and key head, SiLU, and a
//! head size that is not hidden / heads.

use bitnet_core::backend::RopeOrder;

/// Neither GGUF nor Hugging Face files permute Q and K: components `j` and `j + d/2` rotate together.
pub const ROPE_ORDER: RopeOrder = RopeOrder::Halves;
