//! BitNet b1.58: ReLU² or SiLU, a norm before the output and the down projection, int8 activations.
//!
//! | name | activation | storage names of the sub-norms |
//! |---|---|---|
//! | `BitNetForCausalLM` (2B-4T), GGUF `bitnet-b1.58`, `bitnet-25` | ReLU² | `attn_sub_norm`, `ffn_sub_norm` |
//! | `BitnetForCausalLM` (1bitLLM) | SiLU | `inner_attn_ln`, `ffn_layernorm` |
//! | GGUF `bitnet` | `bitnet.hidden_activation`, else SiLU | `attn_sub_norm`, `ffn_sub_norm` |

use bitnet_core::backend::{Activation, RopeOrder};

/// The activation of a GGUF architecture name, given the value of its `hidden_activation` key.
///
/// # Errors
/// The unknown name of the activation.
pub fn gguf_activation(architecture: &str, key: Option<&str>) -> Result<Activation, String> {
    match (architecture, key) {
        ("bitnet-b1.58" | "bitnet-25", _) => Ok(Activation::Relu2),
        (_, None) => Ok(Activation::Silu),
        (_, Some(name)) => activation_by_name(name),
    }
}

/// The activation of a Hugging Face `hidden_act` name.
///
/// # Errors
/// The unknown name.
pub fn activation_by_name(name: &str) -> Result<Activation, String> {
    match name {
        "relu2" | "relu_squared" => Ok(Activation::Relu2),
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(other.to_owned()),
    }
}

/// The name that [`activation_by_name`] reads.
pub fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

/// BitNet files keep the rows of Q and K in the trained order: components `j` and `j + d/2` rotate together.
pub const ROPE_ORDER: RopeOrder = RopeOrder::Halves;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_architectures_are_relu_squared_whatever_the_file_says() {
        assert_eq!(gguf_activation("bitnet-b1.58", None), Ok(Activation::Relu2));
        assert_eq!(gguf_activation("bitnet-25", Some("silu")), Ok(Activation::Relu2));
        assert_eq!(gguf_activation("bitnet", None), Ok(Activation::Silu));
        assert_eq!(gguf_activation("bitnet", Some("relu2")), Ok(Activation::Relu2));
        assert_eq!(gguf_activation("bitnet", Some("mish")), Err("mish".into()));
    }
}
