//! Mapping of tensor names between Hugging Face checkpoints and GGUF files, in both directions.
//!
//! A name is parsed into [`TensorName`] (layer, role, part) by [`TensorName::from_hf`] or [`TensorName::from_gguf`] and
//! written by [`TensorName::to_hf`] or [`TensorName::to_gguf`]; [`hf_to_gguf`] and [`gguf_to_hf`] do both steps.
//!
//! Only names are mapped. The *values* differ as well: GGUF files of the `llama` architecture permute the rows of `attn_q`
//! and `attn_k`, and a Hugging Face `weight_scale` multiplies or divides depending on the checkpoint's `linear_class`,
//! while a GGUF `.scale` always multiplies.

use std::fmt;

/// A model family, for tensor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// `BitNetForCausalLM` (2B-4T): sub-norms named `attn_sub_norm` and `ffn_sub_norm`.
    BitNet,
    /// `BitnetForCausalLM` (1bitLLM): the same sub-norms, named `inner_attn_ln` and `ffn_layernorm`.
    BitNetLegacy,
    /// `LlamaForCausalLM`: no extra norms.
    Llama,
    /// `Qwen3ForCausalLM`: norms of query and key heads.
    Qwen3,
}

/// The role of a tensor in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The token embedding, `[vocabulary, hidden]`.
    TokenEmbedding,
    /// The norm before the head, `[hidden]`.
    OutputNorm,
    /// The head, `[vocabulary, hidden]`; absent if tied to the embedding.
    Output,
    /// Factors of the rotary frequencies; in GGUF files only.
    RopeFrequencies,
    /// The norm before attention, `[hidden]`.
    AttentionNorm,
    /// The query projection, `[heads * head_dim, hidden]`.
    Query,
    /// The key projection, `[kv_heads * head_dim, hidden]`.
    Key,
    /// The value projection, `[kv_heads * head_dim, hidden]`.
    Value,
    /// The output projection of attention, `[hidden, heads * head_dim]`.
    AttentionOutput,
    /// The norm before the output projection (BitNet), `[heads * head_dim]`.
    AttentionSubNorm,
    /// The norm of each query head (Qwen3), `[head_dim]`.
    QueryNorm,
    /// The norm of each key head (Qwen3), `[head_dim]`.
    KeyNorm,
    /// The norm before the feed-forward block, `[hidden]`.
    FeedForwardNorm,
    /// The gate projection, `[intermediate, hidden]`.
    Gate,
    /// The up projection, `[intermediate, hidden]`.
    Up,
    /// The down projection, `[hidden, intermediate]`.
    Down,
    /// The norm before the down projection (BitNet), `[intermediate]`.
    FeedForwardSubNorm,
}

/// The part of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// `.weight`.
    Weight,
    /// `.bias`.
    Bias,
    /// The scale of a ternary weight: `.weight_scale` in Hugging Face checkpoints, `.scale` in GGUF files.
    Scale,
    /// The norm of the input of one projection: `.norm.weight` or `.rms_norm.weight` in Hugging Face checkpoints,
    /// `_norm_in.weight` in GGUF files.
    InputNorm,
}

/// A parsed tensor name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorName {
    /// The layer, from 0; `None` outside the layers.
    pub layer: Option<u32>,
    /// The role of the module.
    pub role: Role,
    /// The part of the module.
    pub part: Part,
}

/// (role, GGUF name, Hugging Face name) outside the layers.
const OUTSIDE: [(Role, &str, &str); 3] = [
    (Role::TokenEmbedding, "token_embd", "model.embed_tokens"),
    (Role::OutputNorm, "output_norm", "model.norm"),
    (Role::Output, "output", "lm_head"),
];

/// (role, GGUF name, Hugging Face name) inside a layer.
const INSIDE: [(Role, &str, &str); 13] = [
    (Role::AttentionNorm, "attn_norm", "input_layernorm"),
    (Role::Query, "attn_q", "self_attn.q_proj"),
    (Role::Key, "attn_k", "self_attn.k_proj"),
    (Role::Value, "attn_v", "self_attn.v_proj"),
    (Role::AttentionOutput, "attn_output", "self_attn.o_proj"),
    (Role::AttentionSubNorm, "attn_sub_norm", "self_attn.attn_sub_norm"),
    (Role::QueryNorm, "attn_q_norm", "self_attn.q_norm"),
    (Role::KeyNorm, "attn_k_norm", "self_attn.k_norm"),
    (Role::FeedForwardNorm, "ffn_norm", "post_attention_layernorm"),
    (Role::Gate, "ffn_gate", "mlp.gate_proj"),
    (Role::Up, "ffn_up", "mlp.up_proj"),
    (Role::Down, "ffn_down", "mlp.down_proj"),
    (Role::FeedForwardSubNorm, "ffn_sub_norm", "mlp.ffn_sub_norm"),
];

/// The older Hugging Face names of the two sub-norms.
const LEGACY: [(Role, &str); 2] = [
    (Role::AttentionSubNorm, "self_attn.inner_attn_ln"),
    (Role::FeedForwardSubNorm, "mlp.ffn_layernorm"),
];

impl Family {
    /// Returns the family for the `general.architecture` of a GGUF file.
    #[must_use]
    pub fn from_gguf(architecture: &str) -> Option<Self> {
        match architecture {
            "bitnet-b1.58" | "bitnet-25" | "bitnet" => Some(Self::BitNet),
            "llama" => Some(Self::Llama),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// Returns the family for an entry of `architectures` in a `config.json`.
    #[must_use]
    pub fn from_hf(architecture: &str) -> Option<Self> {
        match architecture {
            "BitNetForCausalLM" => Some(Self::BitNet),
            "BitnetForCausalLM" => Some(Self::BitNetLegacy),
            "LlamaForCausalLM" => Some(Self::Llama),
            "Qwen3ForCausalLM" | "Qwen3Model" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// Returns whether models of this family have tensors of that role.
    #[must_use]
    pub fn has(self, role: Role) -> bool {
        match role {
            Role::AttentionSubNorm | Role::FeedForwardSubNorm => {
                matches!(self, Self::BitNet | Self::BitNetLegacy)
            }
            Role::QueryNorm | Role::KeyNorm => self == Self::Qwen3,
            _ => true,
        }
    }
}

impl Role {
    /// Returns whether this is a projection of a layer; only projections have a scale or an input norm.
    #[must_use]
    pub fn is_projection(self) -> bool {
        matches!(
            self,
            Self::Query
                | Self::Key
                | Self::Value
                | Self::AttentionOutput
                | Self::Gate
                | Self::Up
                | Self::Down
        )
    }
}

impl TensorName {
    /// Returns the name of a weight of a layer.
    #[must_use]
    pub fn in_layer(layer: u32, role: Role) -> Self {
        Self { layer: Some(layer), role, part: Part::Weight }
    }

    /// Returns the name of a weight outside the layers.
    #[must_use]
    pub fn outside(role: Role) -> Self {
        Self { layer: None, role, part: Part::Weight }
    }

    /// Returns the name of another part of the same module.
    #[must_use]
    pub fn with(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// Parses a Hugging Face name. Accepts both spellings of the sub-norms and a missing `model.` prefix.
    /// `None` for unknown names.
    #[must_use]
    pub fn from_hf(name: &str) -> Option<Self> {
        let (module, part) = split_hf_part(name)?;
        let bare = module.strip_prefix("model.").unwrap_or(module);
        let named = if let Some(rest) = bare.strip_prefix("layers.") {
            let (layer, inner) = rest.split_once('.')?;
            let current = INSIDE.iter().find(|(_, _, hf)| *hf == inner).map(|(role, ..)| *role);
            let legacy = || LEGACY.iter().find(|(_, hf)| *hf == inner).map(|(role, _)| *role);
            Self { layer: Some(layer_number(layer)?), role: current.or_else(legacy)?, part }
        } else {
            let same = |hf: &str| hf.strip_prefix("model.").unwrap_or(hf) == bare;
            let (role, ..) = OUTSIDE.iter().find(|(_, _, hf)| same(hf))?;
            Self { layer: None, role: *role, part }
        };
        named.is_sensible().then_some(named)
    }

    /// Parses a GGUF name. `None` for unknown names.
    #[must_use]
    pub fn from_gguf(name: &str) -> Option<Self> {
        let (stem, part) = match name.rsplit_once('.')? {
            (stem, "weight") => match stem.strip_suffix("_norm_in") {
                Some(projection) => (projection, Part::InputNorm),
                None => (stem, Part::Weight),
            },
            (stem, "bias") => (stem, Part::Bias),
            (stem, "scale") => (stem, Part::Scale),
            _ => return None,
        };
        let named = if let Some(rest) = stem.strip_prefix("blk.") {
            let (layer, inner) = rest.split_once('.')?;
            let (role, ..) = INSIDE.iter().find(|(_, gguf, _)| *gguf == inner)?;
            Self { layer: Some(layer_number(layer)?), role: *role, part }
        } else if stem == "rope_freqs" {
            Self { layer: None, role: Role::RopeFrequencies, part }
        } else {
            let (role, ..) = OUTSIDE.iter().find(|(_, gguf, _)| *gguf == stem)?;
            Self { layer: None, role: *role, part }
        };
        named.is_sensible().then_some(named)
    }

    /// Returns the Hugging Face name in a family's spelling; `None` if the family has no such tensor.
    #[must_use]
    pub fn to_hf(self, family: Family) -> Option<String> {
        if !family.has(self.role) || !self.is_sensible() {
            return None;
        }
        let legacy = (family == Family::BitNetLegacy).then_some(LEGACY).into_iter().flatten();
        let legacy = legacy.into_iter().find(|(role, _)| *role == self.role).map(|(_, hf)| hf);
        let table = if self.layer.is_some() { INSIDE.as_slice() } else { OUTSIDE.as_slice() };
        let (_, _, current) = table.iter().find(|(role, ..)| *role == self.role)?;
        let module = legacy.unwrap_or(current);
        let part = match self.part {
            Part::Weight => "weight",
            Part::Bias => "bias",
            Part::Scale => "weight_scale",
            Part::InputNorm => "norm.weight",
        };
        Some(match self.layer {
            Some(layer) => format!("model.layers.{layer}.{module}.{part}"),
            None => format!("{module}.{part}"),
        })
    }

    /// Returns the GGUF name; `None` for an invalid combination, such as an embedding with a layer.
    #[must_use]
    pub fn to_gguf(self) -> Option<String> {
        if !self.is_sensible() {
            return None;
        }
        let table = if self.layer.is_some() { INSIDE.as_slice() } else { OUTSIDE.as_slice() };
        let stem = match self.role {
            Role::RopeFrequencies => "rope_freqs",
            role => table.iter().find(|(other, ..)| *other == role)?.1,
        };
        let part = match self.part {
            Part::Weight => ".weight",
            Part::Bias => ".bias",
            Part::Scale => ".scale",
            Part::InputNorm => "_norm_in.weight",
        };
        Some(match self.layer {
            Some(layer) => format!("blk.{layer}.{stem}{part}"),
            None => format!("{stem}{part}"),
        })
    }

    /// Returns whether layer, role and part fit together.
    fn is_sensible(self) -> bool {
        let outside = matches!(
            self.role,
            Role::TokenEmbedding | Role::OutputNorm | Role::Output | Role::RopeFrequencies
        );
        let special = matches!(self.part, Part::Scale | Part::InputNorm);
        self.layer.is_none() == outside && (!special || self.role.is_projection())
    }
}

/// Writes the GGUF name for error messages, or the parts of an invalid combination.
impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_gguf() {
            Some(name) => f.write_str(&name),
            None => write!(f, "{:?} {:?} of layer {:?}", self.role, self.part, self.layer),
        }
    }
}

/// Returns the GGUF name of a Hugging Face tensor; `None` if the family has no such tensor.
#[must_use]
pub fn hf_to_gguf(name: &str, family: Family) -> Option<String> {
    let name = TensorName::from_hf(name).filter(|name| family.has(name.role))?;
    name.to_gguf()
}

/// Returns the Hugging Face name of a GGUF tensor in a family's spelling; `None` if the family has no such tensor.
#[must_use]
pub fn gguf_to_hf(name: &str, family: Family) -> Option<String> {
    TensorName::from_gguf(name)?.to_hf(family)
}

/// Splits a Hugging Face name into module and part.
fn split_hf_part(name: &str) -> Option<(&str, Part)> {
    let (module, last) = name.rsplit_once('.')?;
    match last {
        "weight" => {
            let input_norm =
                module.strip_suffix(".rms_norm").or_else(|| module.strip_suffix("_proj.norm"));
            match input_norm {
                Some(_) => {
                    module.rsplit_once('.').map(|(projection, _)| (projection, Part::InputNorm))
                }
                None => Some((module, Part::Weight)),
            }
        }
        "bias" => Some((module, Part::Bias)),
        "weight_scale" => Some((module, Part::Scale)),
        _ => None,
    }
}

/// Parses a layer number: digits without leading zeros.
fn layer_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_2b_4t_checkpoint() {
        // Left: the checkpoint on the hub; right: the official GGUF.
        let pairs = [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.29.input_layernorm.weight", "blk.29.attn_norm.weight"),
            ("model.layers.29.self_attn.q_proj.weight", "blk.29.attn_q.weight"),
            ("model.layers.29.self_attn.k_proj.weight", "blk.29.attn_k.weight"),
            ("model.layers.29.self_attn.v_proj.weight", "blk.29.attn_v.weight"),
            ("model.layers.29.self_attn.o_proj.weight", "blk.29.attn_output.weight"),
            ("model.layers.29.self_attn.attn_sub_norm.weight", "blk.29.attn_sub_norm.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"),
            ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
            ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
            ("model.layers.0.mlp.ffn_sub_norm.weight", "blk.0.ffn_sub_norm.weight"),
            ("model.layers.0.mlp.down_proj.weight_scale", "blk.0.ffn_down.scale"),
        ];
        for (hf, gguf) in pairs {
            assert_eq!(hf_to_gguf(hf, Family::BitNet).as_deref(), Some(gguf));
            assert_eq!(gguf_to_hf(gguf, Family::BitNet).as_deref(), Some(hf));
        }
    }

    #[test]
    fn the_older_spelling_of_the_sub_norms() {
        let pairs = [
            ("model.layers.7.self_attn.inner_attn_ln.weight", "blk.7.attn_sub_norm.weight"),
            ("model.layers.7.mlp.ffn_layernorm.weight", "blk.7.ffn_sub_norm.weight"),
        ];
        for (hf, gguf) in pairs {
            assert_eq!(hf_to_gguf(hf, Family::BitNetLegacy).as_deref(), Some(gguf));
            assert_eq!(gguf_to_hf(gguf, Family::BitNetLegacy).as_deref(), Some(hf));
            assert_ne!(gguf_to_hf(gguf, Family::BitNet).as_deref(), Some(hf));
            assert_eq!(gguf_to_hf(gguf, Family::Llama), None, "Llama has no sub-norms");
        }
    }

    #[test]
    fn head_norms_belong_to_qwen3_and_input_norms_to_projections() {
        let hf = "model.layers.3.self_attn.q_norm.weight";
        assert_eq!(hf_to_gguf(hf, Family::Qwen3).as_deref(), Some("blk.3.attn_q_norm.weight"));
        assert_eq!(hf_to_gguf(hf, Family::Llama), None);
        let hf = "model.layers.3.self_attn.o_proj.norm.weight";
        assert_eq!(
            hf_to_gguf(hf, Family::Qwen3).as_deref(),
            Some("blk.3.attn_output_norm_in.weight")
        );
        assert_eq!(
            gguf_to_hf("blk.3.attn_output_norm_in.weight", Family::Qwen3).as_deref(),
            Some(hf)
        );
        let rms = TensorName::from_hf("model.layers.3.mlp.up_proj.rms_norm.weight");
        assert_eq!(rms, Some(TensorName::in_layer(3, Role::Up).with(Part::InputNorm)));
        assert_eq!(
            TensorName::from_hf("layers.3.mlp.up_proj.weight"),
            Some(TensorName::in_layer(3, Role::Up))
        );
    }

    #[test]
    fn valid_names_round_trip() {
        let roles = OUTSIDE.iter().chain(&INSIDE).map(|(role, ..)| *role);
        for role in roles {
            for part in [Part::Weight, Part::Bias, Part::Scale, Part::InputNorm] {
                let layer = INSIDE.iter().any(|(inside, ..)| *inside == role).then_some(12);
                let name = TensorName { layer, role, part };
                let Some(gguf) = name.to_gguf() else { continue };
                assert_eq!(TensorName::from_gguf(&gguf), Some(name), "{gguf}");
                for family in [Family::BitNet, Family::BitNetLegacy, Family::Llama, Family::Qwen3] {
                    if let Some(hf) = name.to_hf(family) {
                        assert_eq!(TensorName::from_hf(&hf), Some(name), "{hf}");
                    }
                }
            }
        }
    }

    #[test]
    fn foreign_and_malformed_names_are_unknown() {
        let hf = [
            "",
            ".",
            "weight",
            "model.layers.weight",
            "model.layers.x.mlp.up_proj.weight",
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.+1.mlp.up_proj.weight",
            "model.layers.4294967296.mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj",
            "model.layers.1.input_layernorm.weight_scale",
            "transformer.h.0.attn.weight",
        ];
        for name in hf {
            assert_eq!(TensorName::from_hf(name), None, "{name:?}");
        }
        for name in [
            "",
            "blk.weight",
            "blk.0.weight",
            "blk.01.attn_q.weight",
            "blk.0.attn_q",
            "token_embd.scale",
            "blk.0.attn_norm_in.weight",
        ] {
            assert_eq!(TensorName::from_gguf(name), None, "{name:?}");
        }
        assert_eq!(
            TensorName { layer: Some(1), role: Role::OutputNorm, part: Part::Weight }.to_gguf(),
            None
        );
    }
}
