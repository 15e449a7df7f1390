//! Every tensor that some family has: role, shape and names.

use super::{Dim, LayerKind, Role, TensorSpec};

/// A tensor of each layer.
const fn layer(role: Role, shape: [Dim; 2], gguf: &'static str, hf: &'static str) -> TensorSpec {
    TensorSpec {
        role,
        shape,
        in_layer: true,
        kind: None,
        whole_name: false,
        optional: false,
        gguf,
        hf: Some(hf),
    }
}

/// A tensor of each layer with attention.
const fn attention(
    role: Role,
    shape: [Dim; 2],
    gguf: &'static str,
    hf: &'static str,
) -> TensorSpec {
    TensorSpec { kind: Some(LayerKind::Attention), ..layer(role, shape, gguf, hf) }
}

/// A tensor of each recurrent layer.
const fn recurrent(
    role: Role,
    shape: [Dim; 2],
    gguf: &'static str,
    hf: &'static str,
) -> TensorSpec {
    TensorSpec { kind: Some(LayerKind::Recurrent), ..layer(role, shape, gguf, hf) }
}

/// A tensor of each layer that drafts tokens.
const fn draft(role: Role, shape: [Dim; 2], gguf: &'static str, hf: &'static str) -> TensorSpec {
    TensorSpec { kind: Some(LayerKind::Draft), ..layer(role, shape, gguf, hf) }
}

/// A tensor that is there once.
const fn once(role: Role, shape: [Dim; 2], gguf: &'static str, hf: &'static str) -> TensorSpec {
    TensorSpec { in_layer: false, ..layer(role, shape, gguf, hf) }
}

/// Every tensor that some family has, in the order of published files.
pub(crate) const TENSORS: &[TensorSpec] = {
    use Dim::*;
    use Role::*;
    &[
        once(TokenEmbedding, [Vocabulary, Hidden], "token_embd", "model.embed_tokens"),
        draft(DraftEmbeddingNorm, [One, Hidden], "nextn.enorm", "pre_fc_norm_embedding"),
        draft(DraftStateNorm, [One, Hidden], "nextn.hnorm", "pre_fc_norm_hidden"),
        draft(DraftJoin, [Hidden, TwiceHidden], "nextn.eh_proj", "fc"),
        layer(AttentionNorm, [One, Hidden], "attn_norm", "input_layernorm"),
        attention(Query, [QueryRows, Hidden], "attn_q", "self_attn.q_proj"),
        attention(Key, [Keys, Hidden], "attn_k", "self_attn.k_proj"),
        attention(Value, [Keys, Hidden], "attn_v", "self_attn.v_proj"),
        attention(QueryNorm, [One, Head], "attn_q_norm", "self_attn.q_norm"),
        attention(KeyNorm, [One, Head], "attn_k_norm", "self_attn.k_norm"),
        attention(AttentionSubNorm, [One, Queries], "attn_sub_norm", "self_attn.attn_sub_norm"),
        attention(AttentionOutput, [Hidden, Queries], "attn_output", "self_attn.o_proj"),
        recurrent(DeltaQkv, [ConvChannels, Hidden], "attn_qkv", "linear_attn.in_proj_qkv"),
        recurrent(DeltaGate, [DeltaValues, Hidden], "attn_gate", "linear_attn.in_proj_z"),
        recurrent(DeltaStep, [DeltaHeads, Hidden], "ssm_alpha", "linear_attn.in_proj_a"),
        recurrent(DeltaWrite, [DeltaHeads, Hidden], "ssm_beta", "linear_attn.in_proj_b"),
        recurrent(DeltaConv, [ConvChannels, ConvTaps], "ssm_conv1d", "linear_attn.conv1d"),
        TensorSpec {
            whole_name: true,
            ..recurrent(DeltaRate, [One, DeltaHeads], "ssm_a", "linear_attn.A_log")
        },
        TensorSpec {
            whole_name: true,
            ..recurrent(DeltaStepBias, [One, DeltaHeads], "ssm_dt.bias", "linear_attn.dt_bias")
        },
        recurrent(DeltaNorm, [One, DeltaHead], "ssm_norm", "linear_attn.norm"),
        recurrent(DeltaOutput, [Hidden, DeltaValues], "ssm_out", "linear_attn.out_proj"),
        layer(FeedForwardNorm, [One, Hidden], "ffn_norm", "post_attention_layernorm"),
        // Families without it call the norm above so: a name that no class explains is that norm's.
        attention(AttentionPostNorm, [One, Hidden], "attn_post_norm", "post_attention_layernorm"),
        layer(Gate, [Intermediate, Hidden], "ffn_gate", "mlp.gate_proj"),
        layer(Up, [Intermediate, Hidden], "ffn_up", "mlp.up_proj"),
        layer(FeedForwardSubNorm, [One, Intermediate], "ffn_sub_norm", "mlp.ffn_sub_norm"),
        layer(Down, [Hidden, Intermediate], "ffn_down", "mlp.down_proj"),
        layer(FeedForwardPostNorm, [One, Hidden], "post_ffw_norm", "post_feedforward_layernorm"),
        layer(Router, [Experts, Hidden], "ffn_gate_inp", "mlp.gate"),
        layer(ExpertGate, [IntermediateOfAll, Hidden], "ffn_gate_exps", "mlp.experts.gate_proj"),
        layer(ExpertUp, [IntermediateOfAll, Hidden], "ffn_up_exps", "mlp.experts.up_proj"),
        layer(ExpertDown, [HiddenOfAll, Intermediate], "ffn_down_exps", "mlp.experts.down_proj"),
        TensorSpec {
            optional: true,
            ..draft(DraftOutputNorm, [One, Hidden], "nextn.shared_head_norm", "norm")
        },
        once(OutputNorm, [One, Hidden], "output_norm", "model.norm"),
        TensorSpec { optional: true, ..once(Output, [Vocabulary, Hidden], "output", "lm_head") },
        TensorSpec {
            optional: true,
            hf: None,
            ..once(RopeFrequencies, [One, HeadPairs], "rope_freqs", "")
        },
        TensorSpec {
            optional: true,
            hf: None,
            ..once(RopeShortFactors, [One, HeadPairs], "rope_factors_short", "")
        },
        TensorSpec {
            optional: true,
            hf: None,
            ..once(RopeLongFactors, [One, HeadPairs], "rope_factors_long", "")
        },
    ]
};
