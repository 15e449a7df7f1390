//! Mapping of tensor names between Hugging Face checkpoints and GGUF files, in both directions.
//!
//! A name is parsed into [`TensorName`] (layer, role, part) by [`TensorName::from_hf`] or [`TensorName::from_gguf`] and
//! written by [`TensorName::to_hf`] or [`TensorName::to_gguf`]; [`hf_to_gguf`] and [`gguf_to_hf`] do both steps.
//!
//! Only names are mapped. The *values* differ as well: GGUF files of the `llama` architecture permute the rows of
//! `attn_q` and `attn_k`, and a Hugging Face `weight_scale` multiplies or divides depending on the checkpoint's
//! `linear_class`, while a GGUF `.scale` always multiplies.

use std::fmt;

pub use crate::architecture::Role;
use crate::architecture::{Architecture, LayerKind, ModelClass, TENSORS, TensorSpec, is_gguf_name};

/// The module of layers that draft tokens (multi-token prediction) in Hugging Face checkpoints.
pub const DRAFT_MODULE: &str = "mtp.";

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
        Self::from_hf_named(name, |tensor, inner| {
            let bare = |name: &'static str| name.strip_prefix("model.").unwrap_or(name);
            let mut renamed = ModelClass::all().flat_map(|class| class.renamed);
            tensor.hf.map(bare) == Some(inner)
                || renamed.any(|(role, name)| *role == tensor.role && bare(name) == inner)
        })
    }

    /// Parses a Hugging Face name in the spelling of a class, with or without the `model.` prefix. `None` for names that
    /// the class does not have.
    #[must_use]
    pub fn from_hf_of(name: &str, class: &ModelClass) -> Option<Self> {
        Self::from_hf_named(name, |tensor, inner| {
            let own = class.tensor_name(tensor);
            own.map(|own| own.strip_prefix("model.").unwrap_or(own)) == Some(inner)
        })
    }

    /// Parses a Hugging Face name; `names` tells whether a tensor has that name in its layer.
    fn from_hf_named(name: &str, names: impl Fn(&TensorSpec, &str) -> bool) -> Option<Self> {
        let bare = strip_text_prefix(name);
        if let Some(name) = Self::whole(bare, "layers.", |t| t.hf) {
            return Some(name);
        }
        let (module, part) = split_hf_part(bare)?;
        let (layer, inner) = split_layer(module, "layers.")?;
        let is_named = |tensor: &&TensorSpec| {
            !tensor.whole_name
                && tensor.kind != Some(LayerKind::Draft)
                && tensor.in_layer == layer.is_some()
                && names(tensor, inner)
        };
        Self { layer, role: TENSORS.iter().find(is_named)?.role, part }.checked()
    }

    /// Parses a GGUF name. `None` for unknown names.
    #[must_use]
    pub fn from_gguf(name: &str) -> Option<Self> {
        if let Some(name) = Self::whole(name, "blk.", |t| Some(t.gguf)) {
            return Some(name);
        }
        let (stem, part) = match name.rsplit_once('.')? {
            (stem, "weight") => match stem.strip_suffix("_norm_in") {
                Some(projection) => (projection, Part::InputNorm),
                None => (stem, Part::Weight),
            },
            (stem, "bias") => (stem, Part::Bias),
            (stem, "scale") => (stem, Part::Scale),
            _ => return None,
        };
        let (layer, inner) = split_layer(stem, "blk.")?;
        let is_named = |t: &&TensorSpec| {
            !t.whole_name && t.in_layer == layer.is_some() && is_gguf_name(t, inner)
        };
        Self { layer, role: TENSORS.iter().find(is_named)?.role, part }.checked()
    }

    /// Returns the Hugging Face name in the spelling of a class; `None` if it has no such tensor. Layers that draft tokens
    /// have names of their own, which [`TensorName::to_hf_of`] knows.
    #[must_use]
    pub fn to_hf(self, class: &ModelClass) -> Option<String> {
        let tensor = self.tensor()?;
        if tensor.kind == Some(LayerKind::Draft) {
            return None;
        }
        let module = class.tensor_name(tensor)?;
        let part = self.hf_part(tensor);
        Some(match self.layer {
            Some(layer) => format!("model.layers.{layer}.{module}{part}"),
            None => format!("{module}{part}"),
        })
    }

    /// Returns the Hugging Face name in a model of `layers` layers, after which come those that draft tokens.
    ///
    /// ```
    /// use bitnet_formats::architecture::{ModelClass, Role};
    /// use bitnet_formats::names::TensorName;
    ///
    /// let class = ModelClass::named("Qwen3_5ForCausalLM").unwrap();
    /// let of_layer = |layer, role| TensorName::in_layer(layer, role).to_hf_of(class, 64).unwrap();
    /// assert_eq!(of_layer(63, Role::Up), "model.layers.63.mlp.up_proj.weight");
    /// assert_eq!(of_layer(64, Role::Up), "mtp.layers.0.mlp.up_proj.weight");
    /// assert_eq!(of_layer(64, Role::DraftJoin), "mtp.fc.weight");
    /// ```
    #[must_use]
    pub fn to_hf_of(self, class: &ModelClass, layers: usize) -> Option<String> {
        let layers = u32::try_from(layers).unwrap_or(u32::MAX);
        let Some(number) = self.layer.and_then(|layer| layer.checked_sub(layers)) else {
            return self.to_hf(class);
        };
        let tensor = self.tensor()?;
        let (module, part) = (class.tensor_name(tensor)?, self.hf_part(tensor));
        match tensor.kind {
            // There is one of these for all such layers.
            Some(LayerKind::Draft) => {
                (number == 0).then(|| format!("{DRAFT_MODULE}{module}{part}"))
            }
            Some(LayerKind::Recurrent) => None,
            Some(LayerKind::Attention) | None => {
                Some(format!("{DRAFT_MODULE}layers.{number}.{module}{part}"))
            }
        }
    }

    fn hf_part(self, tensor: &TensorSpec) -> &'static str {
        match self.part {
            Part::Weight if tensor.whole_name => "",
            Part::Weight => ".weight",
            Part::Bias => ".bias",
            Part::Scale => ".weight_scale",
            Part::InputNorm => ".norm.weight",
        }
    }

    /// Returns the GGUF name; `None` for an invalid combination, such as an embedding with a layer.
    #[must_use]
    pub fn to_gguf(self) -> Option<String> {
        let tensor = self.tensor()?;
        self.written(tensor, tensor.gguf)
    }

    /// Returns the name in GGUF files of a family; `None` for an invalid combination.
    #[must_use]
    pub fn to_gguf_of(self, architecture: Architecture) -> Option<String> {
        let tensor = self.tensor()?;
        self.written(tensor, architecture.gguf_name(tensor))
    }

    fn written(self, tensor: &TensorSpec, stem: &str) -> Option<String> {
        let part = match self.part {
            Part::Weight if tensor.whole_name => "",
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

    /// Returns the GGUF name without `.weight`, the name of the tensor
    /// in all checkpoints; empty for an invalid combination.
    #[must_use]
    pub fn stem(self) -> String {
        let name = self.to_gguf().unwrap_or_default();
        name.strip_suffix(".weight").map(str::to_owned).unwrap_or(name)
    }

    /// Parses a [stem](TensorName::stem). `None` for unknown names.
    #[must_use]
    pub fn from_stem(stem: &str) -> Option<Self> {
        Self::from_gguf(&gguf_name(stem))
    }

    /// Parses a name that is whole, without a part after it; `of` tells that of a tensor.
    fn whole(
        name: &str,
        prefix: &str,
        of: impl Fn(&TensorSpec) -> Option<&'static str>,
    ) -> Option<Self> {
        let (layer, inner) = split_layer(name, prefix)?;
        let is_named = |t: &&TensorSpec| t.whole_name && of(t) == Some(inner);
        let role = TENSORS.iter().find(is_named)?.role;
        Self { layer, role, part: Part::Weight }.checked()
    }

    /// Returns the tensor of that name if layer, role and part fit together.
    fn tensor(self) -> Option<&'static TensorSpec> {
        let special = matches!(self.part, Part::Scale | Part::InputNorm);
        let tensor = self.role.tensor()?;
        if tensor.whole_name && self.part != Part::Weight {
            return None;
        }
        let exists = self.layer.is_some() == tensor.in_layer;
        let is_single = self.role.is_projection() && !self.role.is_stacked();
        (exists && (!special || is_single)).then_some(tensor)
    }

    fn checked(self) -> Option<Self> {
        self.tensor().map(|_| self)
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

/// Returns the GGUF name of a [stem](TensorName::stem).
#[must_use]
pub fn gguf_name(stem: &str) -> String {
    let is_whole = TensorName::whole(stem, "blk.", |t| Some(t.gguf)).is_some();
    if is_whole || stem.ends_with(".bias") { stem.to_owned() } else { format!("{stem}.weight") }
}

/// Removes what stands before the names of a text model in Hugging Face checkpoints, also of one that is a part of another.
#[must_use]
pub fn strip_text_prefix(name: &str) -> &str {
    let bare = name.strip_prefix("model.").unwrap_or(name);
    match bare.strip_prefix("language_model.") {
        Some(text) => text.strip_prefix("model.").unwrap_or(text),
        None => bare,
    }
}

/// Returns the GGUF name of a Hugging Face tensor; `None` if the class has no such tensor.
#[must_use]
pub fn hf_to_gguf(name: &str, class: &ModelClass) -> Option<String> {
    let own = TensorName::from_hf_of(name, class).or_else(|| TensorName::from_hf(name));
    let name = own.filter(|name| class.architecture.has(name.role))?;
    name.to_gguf()
}

/// Returns the Hugging Face name of a GGUF tensor in the spelling of a class; `None` if it has no such tensor.
#[must_use]
pub fn gguf_to_hf(name: &str, class: &ModelClass) -> Option<String> {
    TensorName::from_gguf(name)?.to_hf(class)
}

/// Splits a Hugging Face name into module and part.
fn split_hf_part(name: &str) -> Option<(&str, Part)> {
    let (module, last) = name.rsplit_once('.')?;
    match last {
        "weight" if module.ends_with(".rms_norm") || is_norm_of_projection(module) => {
            Some((module.rsplit_once('.')?.0, Part::InputNorm))
        }
        "weight" => Some((module, Part::Weight)),
        "bias" => Some((module, Part::Bias)),
        "weight_scale" => Some((module, Part::Scale)),
        _ => None,
    }
}

/// Whether a module is `norm` inside a projection.
fn is_norm_of_projection(module: &str) -> bool {
    let projection = module.strip_suffix(".norm").and_then(|outer| outer.rsplit('.').next());
    projection.is_some_and(|name| name.ends_with("_proj") || name.starts_with("in_proj_"))
}

/// Splits the layer off a module: `prefix`, digits without leading zeros
/// and a dot. Modules without the prefix have none.
fn split_layer<'a>(module: &'a str, prefix: &str) -> Option<(Option<u32>, &'a str)> {
    let Some(rest) = module.strip_prefix(prefix) else { return Some((None, module)) };
    let (digits, inner) = rest.split_once('.')?;
    let layer: u32 = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((Some(layer), inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> &'static ModelClass {
        ModelClass::named(name).unwrap()
    }

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
            assert_eq!(hf_to_gguf(hf, class("BitNetForCausalLM")).as_deref(), Some(gguf));
            assert_eq!(gguf_to_hf(gguf, class("BitNetForCausalLM")).as_deref(), Some(hf));
        }
    }

    #[test]
    fn the_older_spelling_of_the_sub_norms() {
        let pairs = [
            ("model.layers.7.self_attn.inner_attn_ln.weight", "blk.7.attn_sub_norm.weight"),
            ("model.layers.7.mlp.ffn_layernorm.weight", "blk.7.ffn_sub_norm.weight"),
        ];
        for (hf, gguf) in pairs {
            assert_eq!(hf_to_gguf(hf, class("BitnetForCausalLM")).as_deref(), Some(gguf));
            assert_eq!(gguf_to_hf(gguf, class("BitnetForCausalLM")).as_deref(), Some(hf));
            assert_ne!(gguf_to_hf(gguf, class("BitNetForCausalLM")).as_deref(), Some(hf));
            assert_eq!(gguf_to_hf(gguf, class("LlamaForCausalLM")), None, "Llama has no sub-norms");
        }
    }

    #[test]
    fn a_norm_that_two_families_call_alike_is_the_class_s() {
        let hf = "model.layers.2.post_attention_layernorm.weight";
        for (name, role) in [
            ("Qwen3ForCausalLM", Role::FeedForwardNorm),
            ("Gemma3ForCausalLM", Role::AttentionPostNorm),
        ] {
            let expected = TensorName::in_layer(2, role);
            assert_eq!(TensorName::from_hf_of(hf, class(name)), Some(expected));
            assert_eq!(expected.to_hf(class(name)).as_deref(), Some(hf));
        }
        let before = TensorName::in_layer(2, Role::FeedForwardNorm);
        let own = "model.layers.2.pre_feedforward_layernorm.weight";
        assert_eq!(before.to_hf(class("Gemma3ForCausalLM")).as_deref(), Some(own));
        assert_eq!(TensorName::from_hf(hf), Some(before));
    }

    #[test]
    fn head_norms_belong_to_qwen3_and_input_norms_to_projections() {
        let hf = "model.layers.3.self_attn.q_norm.weight";
        assert_eq!(
            hf_to_gguf(hf, class("Qwen3ForCausalLM")).as_deref(),
            Some("blk.3.attn_q_norm.weight")
        );
        assert_eq!(hf_to_gguf(hf, class("LlamaForCausalLM")), None);
        let hf = "model.layers.3.self_attn.o_proj.norm.weight";
        assert_eq!(
            hf_to_gguf(hf, class("Qwen3ForCausalLM")).as_deref(),
            Some("blk.3.attn_output_norm_in.weight")
        );
        assert_eq!(
            gguf_to_hf("blk.3.attn_output_norm_in.weight", class("Qwen3ForCausalLM")).as_deref(),
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
    fn every_combination_that_exists_survives_both_ways() {
        for tensor in TENSORS {
            let role = tensor.role;
            for part in [Part::Weight, Part::Bias, Part::Scale, Part::InputNorm] {
                let layer = tensor.in_layer.then_some(12);
                let name = TensorName { layer, role, part };
                let Some(gguf) = name.to_gguf() else { continue };
                assert_eq!(TensorName::from_gguf(&gguf), Some(name), "{gguf}");
                for class in ModelClass::all() {
                    if let Some(hf) = name.to_hf(class) {
                        assert_eq!(TensorName::from_hf_of(&hf, class), Some(name), "{hf}");
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
