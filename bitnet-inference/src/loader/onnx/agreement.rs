//! Whether the nodes of a graph compute what the settings beside it say.

use bitnet_formats::onnx::{Node, OnnxModel};

use super::codes::shown;
use crate::models::ModelConfig;
use crate::{InferenceError, Result};

/// Attributes of attention and rotation that are read where they are 0, or absent.
const ZERO: [&str; 4] = ["rotary_interleaved", "interleaved", "smooth_softmax", "softcap"];

/// Checks a node.
///
/// # Errors
/// [`InferenceError::Config`] naming the setting that a node contradicts, [`InferenceError::UnsupportedOperation`] naming an
/// attribute that no setting has.
pub(super) fn check(model: &OnnxModel, config: &ModelConfig, node: &Node) -> Result<()> {
    let differs = |field: &str, own: String, found: String| {
        let problem = format!("{own} in config.json, but {found} in node {}", shown(node));
        Err(InferenceError::config(model.name(), field, problem))
    };
    match node.op_type.as_str() {
        "SimplifiedLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            match node.float("epsilon") {
                Some(found) if found != config.norm_eps => {
                    differs("rms_norm_eps", config.norm_eps.to_string(), found.to_string())
                }
                _ => Ok(()),
            }
        }
        "GroupQueryAttention" | "RotaryEmbedding" => {
            let fields = [
                ("num_heads", "num_attention_heads", config.heads),
                ("kv_num_heads", "num_key_value_heads", config.kv_heads),
            ];
            let of_attention = node.op_type == "GroupQueryAttention";
            for (attribute, field, own) in fields.into_iter().filter(|_| of_attention) {
                if let Some(found) = node.int(attribute)
                    && usize::try_from(found) != Ok(own)
                {
                    return differs(field, own.to_string(), found.to_string());
                }
            }
            let is_set = |name: &&str| {
                node.int(name).is_some_and(|set| set != 0)
                    || node.float(name).is_some_and(|set| set != 0.0)
            };
            let has_window = node.int("local_window_size").is_some_and(|window| window >= 0);
            let window = (has_window && config.local.is_none()).then_some("local_window_size");
            match ZERO.into_iter().find(|name| is_set(name)).or(window) {
                None => Ok(()),
                Some(attribute) => {
                    let (file, op) = (model.name(), &node.op_type);
                    let what = format!("{file}: {op} {} with {attribute}", shown(node));
                    let instead = "the settings of this family say nothing of it; use the GGUF or safetensors files";
                    Err(InferenceError::unsupported(what, instead))
                }
            }
        }
        _ => Ok(()),
    }
}
