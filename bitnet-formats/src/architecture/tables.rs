//! The table of each family: what its files say and leave unsaid.

use bitnet_core::backend::{Activation, RopeOrder};

use super::{Architecture, ArchitectureTable, GgufArchitecture, ModelClass, Role, Windowed};

const LLAMA: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Llama,
    name: "llama",
    gguf: &[GgufArchitecture { name: "llama", activation: None }],
    classes: &[LLAMA_CLASS],
    extra: &[],
    gguf_renamed: &[],
    biased: &[],
    native_ternary: false,
    int8_block_types: true,
    sliding_window: false,
    experts: false,
    local_rope: false,
    windowed: None,
    window_beyond: 0,
    recurrent: false,
    gated_attention: false,
    partial_rope: false,
    scaled_stream: false,
    root_scaled: false,
    query_scalar: false,
    hf_activation: "hidden_act",
    hf_norm_offset: 0.0,
    gguf_rope_order: RopeOrder::Interleaved,
    hf_rope_order: RopeOrder::Halves,
};

const LLAMA_CLASS: ModelClass = ModelClass {
    name: "LlamaForCausalLM",
    config: "LlamaConfig",
    model_type: "llama",
    architecture: Architecture::Llama,
    renamed: &[],
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    hidden_act: "silu",
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    eos_token_id: Some(2),
    has_head: true,
};

const QWEN2: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Qwen2,
    name: "qwen2",
    gguf: &[GgufArchitecture { name: "qwen2", activation: None }],
    classes: &[ModelClass {
        name: "Qwen2ForCausalLM",
        config: "Qwen2Config",
        model_type: "qwen2",
        architecture: Architecture::Qwen2,
        head_dim: None,
        ..QWEN3_CLASS
    }],
    extra: &[],
    biased: &[Role::Query, Role::Key, Role::Value],
    ..QWEN3
};

const QWEN3: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Qwen3,
    name: "qwen3",
    gguf: &[GgufArchitecture { name: "qwen3", activation: None }],
    classes: &[QWEN3_CLASS, ModelClass { name: "Qwen3Model", has_head: false, ..QWEN3_CLASS }],
    extra: &[Role::QueryNorm, Role::KeyNorm],
    int8_block_types: false,
    sliding_window: true,
    gguf_rope_order: RopeOrder::Halves,
    ..LLAMA
};

const QWEN3_CLASS: ModelClass = ModelClass {
    name: "Qwen3ForCausalLM",
    config: "Qwen3Config",
    model_type: "qwen3",
    architecture: Architecture::Qwen3,
    vocab_size: 151_936,
    intermediate_size: 22_016,
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32_768,
    eos_token_id: None,
    ..LLAMA_CLASS
};

const BITNET: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::BitNet,
    name: "bitnet",
    gguf: &[
        GgufArchitecture { name: "bitnet-b1.58", activation: Some(Activation::Relu2) },
        GgufArchitecture { name: "bitnet-25", activation: Some(Activation::Relu2) },
        GgufArchitecture { name: "bitnet", activation: None },
    ],
    classes: &[
        // Microsoft's 2B-4T.
        ModelClass {
            name: "BitNetForCausalLM",
            config: "BitNetConfig",
            model_type: "bitnet",
            architecture: Architecture::BitNet,
            vocab_size: 128_256,
            hidden_size: 2560,
            intermediate_size: 6912,
            num_hidden_layers: 30,
            num_attention_heads: 20,
            num_key_value_heads: Some(5),
            hidden_act: "relu2",
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            eos_token_id: Some(128_001),
            ..LLAMA_CLASS
        },
        // 1bitLLM's reproduction; its files say `llama` and a class of its own.
        ModelClass {
            name: "BitnetForCausalLM",
            config: "BitnetConfig",
            architecture: Architecture::BitNet,
            renamed: &[
                (Role::AttentionSubNorm, "self_attn.inner_attn_ln"),
                (Role::FeedForwardSubNorm, "mlp.ffn_layernorm"),
            ],
            ..LLAMA_CLASS
        },
    ],
    extra: &[Role::AttentionSubNorm, Role::FeedForwardSubNorm],
    native_ternary: true,
    gguf_rope_order: RopeOrder::Halves,
    ..LLAMA
};

const QWEN35: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Qwen35,
    name: "qwen35",
    gguf: &[GgufArchitecture { name: "qwen35", activation: None }],
    classes: &[
        ModelClass {
            name: "Qwen3_5ForCausalLM",
            config: "Qwen3_5TextConfig",
            model_type: "qwen3_5_text",
            ..QWEN35_CLASS
        },
        // The text part of models that also see.
        ModelClass { name: "Qwen3_5ForConditionalGeneration", ..QWEN35_CLASS },
    ],
    extra: &[
        Role::QueryNorm,
        Role::KeyNorm,
        Role::DeltaQkv,
        Role::DeltaGate,
        Role::DeltaStep,
        Role::DeltaWrite,
        Role::DeltaConv,
        Role::DeltaRate,
        Role::DeltaStepBias,
        Role::DeltaNorm,
        Role::DeltaOutput,
        Role::DraftJoin,
        Role::DraftEmbeddingNorm,
        Role::DraftStateNorm,
        Role::DraftOutputNorm,
    ],
    gguf_renamed: &[(Role::FeedForwardNorm, "post_attention_norm")],
    sliding_window: false,
    recurrent: true,
    gated_attention: true,
    partial_rope: true,
    hf_norm_offset: 1.0,
    ..QWEN3
};

const QWEN35_CLASS: ModelClass = ModelClass {
    name: "Qwen3_5ForConditionalGeneration",
    config: "Qwen3_5Config",
    model_type: "qwen3_5",
    architecture: Architecture::Qwen35,
    vocab_size: 248_320,
    intermediate_size: 12_288,
    num_attention_heads: 16,
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    ..QWEN3_CLASS
};

const MINICPM: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::MiniCpm,
    name: "minicpm",
    gguf: &[GgufArchitecture { name: "minicpm", activation: None }],
    classes: &[ModelClass {
        name: "MiniCPMForCausalLM",
        config: "MiniCPMConfig",
        model_type: "minicpm",
        architecture: Architecture::MiniCpm,
        eos_token_id: Some(2),
        ..LLAMA_CLASS
    }],
    extra: &[Role::RopeShortFactors, Role::RopeLongFactors],
    int8_block_types: false,
    scaled_stream: true,
    ..LLAMA
};

// Source: config.json of deepgrove/maple-preview; its model code calls FlashAttention with `(window, 0)`, which sees a
// position more than a window elsewhere.
const MAPLE: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Maple,
    name: "maple",
    gguf: &[GgufArchitecture { name: "maple", activation: Some(Activation::Silu) }],
    classes: &[ModelClass {
        name: "MapleForCausalLM",
        config: "MapleConfig",
        model_type: "maple",
        architecture: Architecture::Maple,
        renamed: &[(Role::TokenEmbedding, "model.word_embeddings")],
        hidden_size: 2048,
        intermediate_size: 512,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        num_key_value_heads: Some(4),
        max_position_embeddings: 131_072,
        ..QWEN3_CLASS
    }],
    experts: true,
    local_rope: true,
    window_beyond: 1,
    partial_rope: true,
    ..QWEN3
};

const GEMMA3: ArchitectureTable = ArchitectureTable {
    architecture: Architecture::Gemma3,
    name: "gemma3",
    gguf: &[GgufArchitecture { name: "gemma3", activation: Some(Activation::GeluTanh) }],
    classes: &[
        GEMMA3_CLASS,
        ModelClass { name: "Gemma3TextModel", has_head: false, ..GEMMA3_CLASS },
    ],
    extra: &[Role::QueryNorm, Role::KeyNorm, Role::AttentionPostNorm, Role::FeedForwardPostNorm],
    gguf_renamed: &[(Role::AttentionPostNorm, "post_attention_norm")],
    windowed: Some(Windowed { full_every: 6, rope_theta: 10_000.0, positions: 4096 }),
    root_scaled: true,
    query_scalar: true,
    hf_activation: "hidden_activation",
    hf_norm_offset: 1.0,
    ..QWEN3
};

const GEMMA3_CLASS: ModelClass = ModelClass {
    name: "Gemma3ForCausalLM",
    config: "Gemma3TextConfig",
    model_type: "gemma3_text",
    architecture: Architecture::Gemma3,
    renamed: &[(Role::FeedForwardNorm, "pre_feedforward_layernorm")],
    vocab_size: 262_208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    hidden_act: "gelu_pytorch_tanh",
    max_position_embeddings: 131_072,
    rope_theta: 1_000_000.0,
    eos_token_id: Some(1),
    ..QWEN3_CLASS
};

/// The table of each family, in the order of the variants.
pub(super) static TABLES: [ArchitectureTable; 8] =
    [LLAMA, QWEN2, QWEN3, BITNET, QWEN35, MINICPM, MAPLE, GEMMA3];
