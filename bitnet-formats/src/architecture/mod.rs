//! One table per architecture: the tensors of its models, their names and shapes, and what its files leave unsaid.
//!
//! Every family here is Llama with a few differences. To add another, add a variant of [`Architecture`] and its entry
//! in `TABLES` (`tables.rs`); a tensor that no family has yet is an entry of `TENSORS` (`tensors.rs`) too. Loaders and
//! converters read these tables.

mod tables;
mod tensors;

use std::fmt;

use bitnet_core::backend::{Activation, RopeOrder};

use self::tables::TABLES;
pub(crate) use self::tensors::TENSORS;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama: no extra norms.
    Llama,
    /// Qwen2: biases on query, key and value.
    Qwen2,
    /// Qwen3: norms on query and key heads, and a head size that is not hidden / heads.
    Qwen3,
    /// BitNet b1.58: norms before the output and down projections.
    BitNet,
    /// Qwen3.5: most layers are gated delta networks, the others have a gate on the output of attention.
    Qwen35,
    /// MiniCPM: Llama with scaled embeddings, residual branches and logits.
    MiniCpm,
    /// Maple: mixtures of experts, and a window of attention in most layers, the only ones with RoPE.
    Maple,
    /// Gemma 3, the text part: norms behind attention and feed-forward parts, scaled embeddings, and a window of attention
    /// in most layers, with a RoPE of their own.
    Gemma3,
}

/// What mixes the tokens of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Attention over keys and values.
    Attention,
    /// A gated delta network: a convolution and a recurrent state.
    Recurrent,
    /// Attention in a layer after the model's own, which drafts tokens (multi-token prediction).
    Draft,
}

impl LayerKind {
    /// Whether layers of this kind have the tensors that those of `other` have.
    #[must_use]
    pub fn has_tensors_of(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Draft, Self::Attention)
    }
}

/// What a tensor is in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The token embedding.
    TokenEmbedding,
    /// The norm in front of the head.
    OutputNorm,
    /// The head; absent where it is the embedding.
    Output,
    /// Factors on the rotary frequencies; only GGUF files have them.
    RopeFrequencies,
    /// Factors on the rotary frequencies up to the original context (LongRoPE); only GGUF files have them as a tensor.
    RopeShortFactors,
    /// Those beyond the original context.
    RopeLongFactors,
    /// The norm in front of attention.
    AttentionNorm,
    /// The query projection.
    Query,
    /// The key projection.
    Key,
    /// The value projection.
    Value,
    /// The output projection of attention.
    AttentionOutput,
    /// The norm behind the output projection.
    AttentionPostNorm,
    /// The norm in front of the output projection.
    AttentionSubNorm,
    /// The norm of each query head.
    QueryNorm,
    /// The norm of each key head.
    KeyNorm,
    /// The norm in front of the feed-forward part.
    FeedForwardNorm,
    /// The gate projection.
    Gate,
    /// The up projection.
    Up,
    /// The down projection.
    Down,
    /// The norm in front of the down projection.
    FeedForwardSubNorm,
    /// The norm behind the down projection.
    FeedForwardPostNorm,
    /// What chooses experts.
    Router,
    /// The gate projections of all experts, one after another.
    ExpertGate,
    /// The up projections of all experts.
    ExpertUp,
    /// The down projections of all experts.
    ExpertDown,
    /// The projection to queries, keys and values of a recurrent layer.
    DeltaQkv,
    /// The projection to the gate on the output of a recurrent layer.
    DeltaGate,
    /// The projection to the steps of decay.
    DeltaStep,
    /// The projection to the shares of corrections that are written.
    DeltaWrite,
    /// The convolution's weight.
    DeltaConv,
    /// The rate of decay of each value head.
    DeltaRate,
    /// What is added to the steps of decay.
    DeltaStepBias,
    /// The norm of each value head of a recurrent layer's output.
    DeltaNorm,
    /// The output projection of a recurrent layer.
    DeltaOutput,
    /// The projection of a token's embedding and the state before it to what a layer that drafts tokens reads.
    DraftJoin,
    /// The norm of the embedding in front of [`Role::DraftJoin`].
    DraftEmbeddingNorm,
    /// The norm of the state in front of [`Role::DraftJoin`].
    DraftStateNorm,
    /// The norm between a layer that drafts tokens and the head; absent where it is the model's own.
    DraftOutputNorm,
}

impl Role {
    /// Whether this is a projection of a layer, the only roles that have a scale or an input norm.
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
                | Self::DeltaQkv
                | Self::DeltaGate
                | Self::DeltaStep
                | Self::DeltaWrite
                | Self::DeltaOutput
                | Self::DraftJoin
        ) || self.is_stacked()
    }

    /// Whether this is a projection of every expert: a stack of matrices, `[experts, rows, cols]`.
    #[must_use]
    pub fn is_stacked(self) -> bool {
        matches!(self, Self::ExpertGate | Self::ExpertUp | Self::ExpertDown)
    }

    /// The tensor of this role.
    pub(crate) fn tensor(self) -> Option<&'static TensorSpec> {
        TENSORS.iter().find(|tensor| tensor.role == self)
    }
}

/// A size that a model's settings give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// 1: the rows of a vector.
    One,
    /// Tokens of the vocabulary.
    Vocabulary,
    /// Width of the residual stream.
    Hidden,
    /// Twice the width of the residual stream.
    TwiceHidden,
    /// Width of the feed-forward part, or of that of an expert.
    Intermediate,
    /// Experts.
    Experts,
    /// [`Dim::Intermediate`] of all experts.
    IntermediateOfAll,
    /// [`Dim::Hidden`] of all experts.
    HiddenOfAll,
    /// Components of all query heads.
    Queries,
    /// Rows of the query projection: [`Dim::Queries`], twice where it also gives the gate on attention's output.
    QueryRows,
    /// Components of all key (or value) heads.
    Keys,
    /// Components of a head.
    Head,
    /// Pairs of components of a head that RoPE rotates.
    HeadPairs,
    /// Channels of a recurrent layer's convolution.
    ConvChannels,
    /// Positions that the convolution reads.
    ConvTaps,
    /// Value heads of a recurrent layer.
    DeltaHeads,
    /// Components of a value head of a recurrent layer.
    DeltaHead,
    /// Components of all value heads of a recurrent layer.
    DeltaValues,
}

/// A tensor that models have, in layers or once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is.
    pub role: Role,
    /// Rows and columns.
    pub shape: [Dim; 2],
    /// Whether layers have one.
    pub in_layer: bool,
    /// The kind of layer that has one; `None`: every kind.
    pub kind: Option<LayerKind>,
    /// Whether the names below are whole, without `.weight` after them.
    pub whole_name: bool,
    /// Whether a model may lack it.
    pub optional: bool,
    /// Its name in GGUF files, without layer and part.
    pub gguf: &'static str,
    /// Its name in Hugging Face checkpoints, for [`LayerKind::Draft`] in the module of these layers; `None` where they have
    /// no such tensor.
    pub hf: Option<&'static str>,
}

/// Everything in which a family differs from others.
#[derive(Debug)]
pub struct ArchitectureTable {
    /// The family.
    pub architecture: Architecture,
    /// What messages call it.
    pub name: &'static str,
    /// Values of `general.architecture` in GGUF files, the usual one first.
    pub gguf: &'static [GgufArchitecture],
    /// Model classes of Hugging Face checkpoints, first the one that folders of text models have.
    pub classes: &'static [ModelClass],
    /// The tensors of a layer that not every family has.
    pub extra: &'static [Role],
    /// Names in GGUF files that differ from [`TensorSpec::gguf`].
    pub gguf_renamed: &'static [(Role, &'static str)],
    /// The projections with a bias.
    pub biased: &'static [Role],
    /// Whether every checkpoint is ternary: ordinary numbers are the full-precision masters of trits, and inputs of
    /// ternary layers are quantised to 8 bits.
    pub native_ternary: bool,
    /// Whether GGUF's ternary block types stand for layers whose inputs are quantised to 8 bits.
    pub int8_block_types: bool,
    /// Whether layers may attend to a sliding window.
    pub sliding_window: bool,
    /// Whether the feed-forward part of every layer is a mixture of experts in place of one.
    pub experts: bool,
    /// Whether only layers with a window have RoPE, where there are both kinds.
    pub local_rope: bool,
    /// Where a window is the rule and has a RoPE of its own: all layers but every so many have one.
    pub windowed: Option<Windowed>,
    /// Positions before a token in a window of `n`: `n - 1`, plus this.
    pub window_beyond: usize,
    /// Whether some layers are recurrent.
    pub recurrent: bool,
    /// Whether the query projection also gives a gate on the output of attention: to each head its query, then its gate.
    pub gated_attention: bool,
    /// Whether RoPE may rotate a part of a head.
    pub partial_rope: bool,
    /// Whether embeddings, residual branches and logits are scaled.
    pub scaled_stream: bool,
    /// Whether embeddings are multiplied by the root of their width.
    pub root_scaled: bool,
    /// Whether a setting says what scores of attention are divided by the root of.
    pub query_scalar: bool,
    /// The field of `config.json` that names the activation.
    pub hf_activation: &'static str,
    /// What is added to the weights of norms in Hugging Face checkpoints, except those of [`Role::DeltaNorm`].
    pub hf_norm_offset: f32,
    /// Which components of a head GGUF files pair: their rows of Q and K may be permuted.
    pub gguf_rope_order: RopeOrder,
    /// Which components of a head Hugging Face checkpoints pair.
    pub hf_rope_order: RopeOrder,
}

/// What files leave unsaid of layers that attend to a window, where those are the rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windowed {
    /// One layer in so many attends to all tokens.
    pub full_every: usize,
    /// Base of the RoPE frequencies of layers with a window.
    pub rope_theta: f32,
    /// Positions that such a layer sees, where a folder does not say it.
    pub positions: usize,
}

/// A value of `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufArchitecture {
    /// The value.
    pub name: &'static str,
    /// The activation that it stands for; `None`: that of the key `hidden_activation`, by default SiLU.
    pub activation: Option<Activation>,
}

/// A model class of Hugging Face checkpoints, with the defaults of its configuration class.
///
/// Source: transformers 5 (`LlamaConfig`, `Qwen2Config`, `Qwen3Config`, `BitNetConfig`, `Gemma3TextConfig`) and the configuration that
/// 1bitLLM published with its models (`BitnetConfig`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelClass {
    /// The class, as `architectures` in `config.json` names it.
    pub name: &'static str,
    /// Its configuration class.
    pub config: &'static str,
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The family.
    pub architecture: Architecture,
    /// Names of tensors that differ from [`TensorSpec::hf`].
    pub renamed: &'static [(Role, &'static str)],
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; `None`: as many as `num_attention_heads`.
    pub num_key_value_heads: Option<usize>,
    /// Components of a head; `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Activation of the feed-forward gate.
    pub hidden_act: &'static str,
    /// Positions that models are trained for.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Base of the RoPE frequencies.
    pub rope_theta: f32,
    /// The token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Whether it has a head: without one it gives states, for embeddings of texts, and no logits.
    pub has_head: bool,
}

/// Whether a tensor has that name in the GGUF files of some family.
pub(crate) fn is_gguf_name(tensor: &TensorSpec, name: &str) -> bool {
    tensor.gguf == name
        || TABLES.iter().any(|table| table.gguf_renamed.contains(&(tensor.role, name)))
}

/// The tensors that some families have and others lack.
fn is_extra(role: Role) -> bool {
    TABLES.iter().any(|table| table.extra.contains(&role))
}

impl Architecture {
    /// The table of the family.
    #[must_use]
    pub fn table(self) -> &'static ArchitectureTable {
        &TABLES[self as usize]
    }

    /// Returns the family of a GGUF file, from its `general.architecture`, with what that value stands for.
    #[must_use]
    pub fn from_gguf(name: &str) -> Option<(Self, &'static GgufArchitecture)> {
        TABLES.iter().find_map(|table| {
            let found = table.gguf.iter().find(|gguf| gguf.name == name)?;
            Some((table.architecture, found))
        })
    }

    /// All values of `general.architecture`.
    pub fn gguf_names() -> impl Iterator<Item = &'static str> {
        TABLES.iter().flat_map(|table| table.gguf).map(|gguf| gguf.name)
    }

    /// Returns the name of a tensor in the family's GGUF files, without layer and part.
    pub(crate) fn gguf_name(self, tensor: &TensorSpec) -> &'static str {
        let renamed = self.table().gguf_renamed.iter().find(|(role, _)| *role == tensor.role);
        renamed.map_or(tensor.gguf, |(_, name)| *name)
    }

    /// Whether models of this family have tensors of that role.
    #[must_use]
    pub fn has(self, role: Role) -> bool {
        let table = self.table();
        let is_of_experts = role == Role::Router || role.is_stacked();
        match role {
            Role::Gate | Role::Up | Role::Down => !table.experts,
            _ if is_of_experts => table.experts,
            _ => !is_extra(role) || table.extra.contains(&role),
        }
    }

    /// The tensors of the family's models, in the order of published files: those before the layers, those of a layer,
    /// those after the layers.
    pub fn tensors(self) -> impl Iterator<Item = &'static TensorSpec> + Clone {
        TENSORS.iter().filter(move |tensor| self.has(tensor.role))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table().name)
    }
}

impl ModelClass {
    /// All model classes.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        TABLES.iter().flat_map(|table| table.classes)
    }

    /// Returns the class of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|class| class.name == name)
    }

    /// Returns the name that checkpoints of this class have for a tensor, without layer and part.
    pub(crate) fn tensor_name(&self, tensor: &TensorSpec) -> Option<&'static str> {
        if !self.architecture.has(tensor.role) {
            return None;
        }
        let renamed = self.renamed.iter().find(|(role, _)| *role == tensor.role);
        renamed.map(|(_, name)| *name).or(tensor.hf)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tables_agree_with_themselves() {
        for table in &TABLES {
            assert!(std::ptr::eq(table.architecture.table(), table), "{}", table.name);
            assert!(table.classes.iter().all(|class| class.architecture == table.architecture));
        }
        let unique = |names: Vec<&str>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
        assert!(unique(Architecture::gguf_names().collect()));
        assert!(unique(ModelClass::all().map(|class| class.name).collect()));
        assert!(unique(TENSORS.iter().map(|tensor| tensor.gguf).collect()));
    }

    #[test]
    fn families_differ_in_their_norms() {
        let extra = |architecture: Architecture| -> Vec<_> {
            architecture.tensors().filter(|tensor| is_extra(tensor.role)).map(|t| t.gguf).collect()
        };
        assert_eq!(extra(Architecture::BitNet), ["attn_sub_norm", "ffn_sub_norm"]);
        assert_eq!(extra(Architecture::Qwen3), ["attn_q_norm", "attn_k_norm"]);
        assert!(extra(Architecture::Llama).is_empty());
    }

    #[test]
    fn official_bitnet_names_stand_for_relu_squared() {
        for (name, activation) in [
            ("bitnet-b1.58", Some(Activation::Relu2)),
            ("bitnet-25", Some(Activation::Relu2)),
            ("bitnet", None),
        ] {
            let (family, gguf) = Architecture::from_gguf(name).unwrap();
            assert_eq!((family, gguf.activation), (Architecture::BitNet, activation));
        }
        assert!(Architecture::from_gguf("gpt2").is_none());
    }
}
