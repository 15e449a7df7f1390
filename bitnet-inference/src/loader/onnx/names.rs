//! What a node or an initializer is, by its name.
//!
//! Exporters spell names in their own ways, which agree in the number of the layer and the name of the module:
//! `/model/layers.3/attn/q_proj/MatMul_Quant`, `model.layers.3.attn.q_norm.layernorm.weight`,
//! `model_layers_3_self_attn_q_proj_MatMul_weight_scales`.

use bitnet_formats::architecture::Role;
use bitnet_formats::names::{Part, TensorName};

/// Modules of a layer; a name that ends as another one comes before it.
const MODULES: &[(&str, &[Role])] = &[
    ("_qkv_proj_", &[Role::Query, Role::Key, Role::Value]),
    ("_q_proj_", &[Role::Query]),
    ("_k_proj_", &[Role::Key]),
    ("_v_proj_", &[Role::Value]),
    ("_o_proj_", &[Role::AttentionOutput]),
    ("_gate_up_proj_", &[Role::Gate, Role::Up]),
    ("_gate_proj_", &[Role::Gate]),
    ("_up_proj_", &[Role::Up]),
    ("_down_proj_", &[Role::Down]),
    ("_input_layernorm_", &[Role::AttentionNorm]),
    ("_post_attention_layernorm_", &[Role::FeedForwardNorm]),
    ("_q_norm_", &[Role::QueryNorm]),
    ("_k_norm_", &[Role::KeyNorm]),
];

/// Modules outside the layers. ONNX Runtime's builder counts the last norm as one of a layer more.
const OUTSIDE: &[(&str, Role)] = &[
    ("_lm_head_", Role::Output),
    ("_embed_tokens_", Role::TokenEmbedding),
    ("_final_norm_", Role::OutputNorm),
    ("_model_norm_", Role::OutputNorm),
];

/// The tensors that a name stands for: several where projections are fused, one below the other.
pub(super) fn tensors(name: &str, layers: usize) -> Vec<TensorName> {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let plain = format!("_{plain}_");
    let part = if plain.contains("_bias_") { Part::Bias } else { Part::Weight };
    let outside = OUTSIDE.iter().find(|(module, _)| plain.contains(module));
    let in_layer = plain.split_once("_layers_").and_then(|(_, rest)| {
        let (number, _) = rest.split_once('_')?;
        let module = MODULES.iter().find(|(module, _)| rest.contains(module))?;
        Some((number.parse::<u32>().ok()?, module.1))
    });
    match (in_layer, outside) {
        (Some((layer, roles)), _) => {
            roles.iter().map(|role| TensorName::in_layer(layer, *role).with(part)).collect()
        }
        (None, Some((_, role))) if layer_is_last(&plain, layers) => {
            vec![TensorName::outside(*role).with(part)]
        }
        _ => Vec::new(),
    }
}

/// Whether a name without a layer's module has no layer, or the one after the last.
fn layer_is_last(plain: &str, layers: usize) -> bool {
    plain.split_once("_layers_").is_none_or(|(_, rest)| {
        rest.split_once('_').is_some_and(|(number, _)| number.parse() == Ok(layers))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_several_exporters_are_read() {
        let stems = |name: &str| -> Vec<String> {
            tensors(name, 28).into_iter().map(TensorName::stem).collect()
        };
        for (name, expected) in [
            ("/model/layers.3/attn/q_proj/MatMul_Quant", &["blk.3.attn_q"][..]),
            ("/model/layers.0/self_attn/o_proj/MatMulNBits", &["blk.0.attn_output"]),
            ("model_layers_11_mlp_down_proj_MatMul_weight_quant", &["blk.11.ffn_down"]),
            (
                "model.layers.1.attn.qkv_proj.MatMul.weight_Q2",
                &["blk.1.attn_q", "blk.1.attn_k", "blk.1.attn_v"],
            ),
            ("/model/layers.2/mlp/gate_up_proj/MatMul_Q2", &["blk.2.ffn_gate", "blk.2.ffn_up"]),
            ("model.layers.1.attn.q_proj.Add.bias", &["blk.1.attn_q.bias"]),
            ("model.layers.0.input_layernorm.weight", &["blk.0.attn_norm"]),
            ("model.layers.0.attn.q_norm.layernorm.weight", &["blk.0.attn_q_norm"]),
            ("model.layers.28.final_norm_layernorm.weight", &["output_norm"]),
            ("model.norm.weight", &["output_norm"]),
            ("model.embed_tokens.weight", &["token_embd"]),
            ("model_embed_tokens_weight_scales", &["token_embd"]),
            ("/lm_head/MatMul_Quant", &["output"]),
            ("model.layers.27.final_norm_layernorm.weight", &[]),
            ("model.layers.x.mlp.up_proj.weight", &[]),
            ("model.layers.0.mlp.experts.weight", &[]),
            ("onnx::MatMul_1234", &[]),
            ("cos_cache", &[]),
            ("", &[]),
        ] {
            assert_eq!(stems(name), expected, "{name}");
        }
    }
}
