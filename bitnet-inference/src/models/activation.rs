//! Names of activations.

use bitnet_core::backend::Activation;

/// Returns the activation that `hidden_act` of a Hugging Face checkpoint, or `hidden_activation` of a GGUF file, names.
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

/// Returns the problem of a name that [`activation_by_name`] does not know.
pub(crate) fn unknown_name(name: &str) -> String {
    format!(
        "{name:?} is not known; relu2 (relu_squared), silu (swish) and gelu_pytorch_tanh (gelu_new) are"
    )
}

/// Returns the name that [`activation_by_name`] reads.
pub fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Sigmoid => "sigmoid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
            assert_eq!(activation_by_name(activation_name(activation)), Ok(activation));
        }
        assert_eq!(activation_by_name("mish"), Err("mish".into()));
    }
}
