//! Shapes and constants of a model, whatever file they came from.

use std::sync::Arc;

use bitnet_core::backend::{Activation, HeadOrder, RopeOrder};
use bitnet_core::kv::RecurrentShape;
use bitnet_formats::architecture::{Architecture, LayerKind};

use super::context_limit::ContextLimit;
use super::local_attention::LocalAttention;
use super::long_rope::LongRopeScaling;
use super::mixture::MixtureConfig;
use super::rotation::WeightRotations;
use super::scaled_stream::StreamScales;
use super::yarn::YarnScaling;
use crate::{InferenceError, Result};

/// How RoPE frequencies are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by a factor.
    Linear(f32),
    /// Llama 3.1: low frequencies divided by the factor, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// The context that the model was first trained for.
        original_context: f32,
    },
    /// By YaRN.
    Yarn(YarnScaling),
    /// By LongRoPE, within the original context.
    LongRope(LongRopeScaling),
    /// Each frequency divided by a factor of its own, `[head_dim / 2]`: how GGUF files hold Llama 3.1's.
    Factors(Arc<[f32]>),
}

/// The recurrent layers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RecurrentConfig {
    /// What mixes the tokens of each layer.
    pub kinds: Arc<[LayerKind]>,
    /// The sizes of recurrent layers.
    pub shape: RecurrentShape,
    /// Which key head each value head reads.
    pub order: HeadOrder,
}

/// Shapes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part, or of each expert's.
    pub intermediate: usize,
    /// Positions that the model was trained for.
    pub context: usize,
    /// The longest sequence that may be run, where that does not depend on memory alone.
    pub context_limit: Option<ContextLimit>,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Activation of the feed-forward gate.
    pub activation: Activation,
    /// Base of the RoPE frequencies.
    pub rope_theta: f32,
    /// Which components RoPE pairs.
    pub rope_order: RopeOrder,
    /// How RoPE is stretched.
    pub rope_scaling: RopeScaling,
    /// Components of a head that RoPE rotates.
    pub rope_dim: usize,
    /// The layers that attend to a window, if there are any.
    pub local: Option<LocalAttention>,
    /// The mixtures of experts, if the feed-forward parts are such.
    pub mixture: Option<MixtureConfig>,
    /// The recurrent layers, if there are any.
    pub recurrent: Option<RecurrentConfig>,
    /// The weights that are stored rotated, if there are any.
    pub rotations: Option<Arc<WeightRotations>>,
    /// Layers after the model's own that draft further tokens.
    pub draft_layers: usize,
    /// How many of them are read: at most one.
    pub drafts_read: usize,
    /// The factors on embeddings, residual branches and logits, if there are any.
    pub scales: Option<StreamScales>,
    /// What scores of attention are divided by the root of, where that is not the size of a head.
    pub query_scalar: Option<f32>,
    /// Whether there is a head: a model without one gives states, for embeddings of texts, and no logits.
    pub has_head: bool,
}

/// Bounds beyond which a setting is an error rather than a model.
const MAX_LAYERS: usize = 512;
const MAX_WIDTH: usize = 1 << 20;
const MAX_VOCAB: usize = 1 << 24;
const MAX_HEADS: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 24;

impl ModelConfig {
    /// Checks every value against what a model can be; `file` and the field's own name go into the error.
    ///
    /// # Errors
    /// [`InferenceError::Config`] naming the first field that is impossible.
    pub fn validate(&self, file: &str) -> Result<()> {
        let bounded = [
            ("vocabulary size", self.vocab_size, MAX_VOCAB),
            ("hidden size", self.hidden, MAX_WIDTH),
            ("number of layers", self.layers, MAX_LAYERS),
            ("number of attention heads", self.heads, MAX_HEADS),
            ("number of key-value heads", self.kv_heads, MAX_HEADS),
            ("head size", self.head_dim, MAX_WIDTH),
            ("feed-forward size", self.intermediate, MAX_WIDTH),
            ("context length", self.context, MAX_CONTEXT),
        ];
        let bad = |field: &str, problem: String| InferenceError::config(file, field, problem);
        for (field, value, limit) in bounded {
            if value == 0 || value > limit {
                return Err(bad(
                    field,
                    format!("{value} is outside 1..={limit}; the file is damaged"),
                ));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let problem =
                format!("{} does not divide the {} attention heads", self.kv_heads, self.heads);
            return Err(bad("number of key-value heads", problem));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(bad(
                "head size",
                format!("{} is odd; RoPE needs an even size", self.head_dim),
            ));
        }
        if !self.rope_dim.is_multiple_of(2) || !(1..=self.head_dim).contains(&self.rope_dim) {
            let problem = format!("{} of {} components", self.rope_dim, self.head_dim);
            return Err(bad("number of rotated components", problem));
        }
        if let Some((name, factor)) = self.scales.and_then(StreamScales::fault) {
            return Err(bad(
                &format!("{name} scale"),
                format!("{factor} is not a positive number"),
            ));
        }
        if let Some((field, problem)) = self.attention_fault() {
            return Err(bad(field, problem));
        }
        let fault = self.mixture.as_ref().and_then(|mixture| mixture.fault(self.layers));
        if let Some((field, problem)) = fault {
            return Err(bad(field, problem));
        }
        if let Some(recurrent) = &self.recurrent {
            recurrent.validate(self.layers).map_err(|(field, problem)| bad(field, problem))?;
        }
        if self.heads * self.head_dim > MAX_WIDTH {
            return Err(bad(
                "number of attention heads",
                format!("{} heads are too wide", self.heads),
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(bad(
                "norm epsilon",
                format!("{} is not a small positive number", self.norm_eps),
            ));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return Err(bad(
                "RoPE base",
                format!("{} is not a number of at least 1", self.rope_theta),
            ));
        }
        match &self.rope_scaling {
            RopeScaling::Linear(f) | RopeScaling::Llama3 { factor: f, .. }
                if !(f.is_finite() && *f > 0.0) =>
            {
                Err(bad("RoPE scaling factor", format!("{f} is not a positive number")))
            }
            RopeScaling::Llama3 {
                low_freq_factor: l,
                high_freq_factor: h,
                original_context: o,
                ..
            } if !(*l > 0.0 && h > l && h.is_finite() && *o > 0.0 && o.is_finite()) => Err(bad(
                "RoPE scaling",
                format!("frequency factors {l}, {h} over {o} are not ordered"),
            )),
            RopeScaling::Yarn(yarn) => match yarn.fault() {
                Some((name, value)) => {
                    Err(bad("RoPE scaling", format!("{name} {value} is not a positive number")))
                }
                None => Ok(()),
            },
            RopeScaling::LongRope(long) => match long.fault(self.rope_dim) {
                Some(problem) => Err(bad("RoPE scaling", problem)),
                None => Ok(()),
            },
            RopeScaling::Factors(factors) => {
                let wrong = factors.iter().position(|f| !(f.is_finite() && *f > 0.0));
                match wrong {
                    _ if factors.len() != self.rope_dim / 2 => Err(bad(
                        "RoPE frequency factors",
                        format!("there are {} for {} components", factors.len(), self.rope_dim),
                    )),
                    Some(j) => Err(bad(
                        "RoPE frequency factors",
                        format!("number {j} is {}, not a positive number", factors[j]),
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// What mixes the tokens of a layer.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        if layer >= self.layers {
            return LayerKind::Draft;
        }
        let kinds = self.recurrent.as_ref().map(|recurrent| &recurrent.kinds);
        kinds.and_then(|kinds| kinds.get(layer).copied()).unwrap_or(LayerKind::Attention)
    }

    /// The number of layers of a kind.
    pub fn layers_of(&self, kind: LayerKind) -> usize {
        (0..self.layers).filter(|&layer| self.layer_kind(layer) == kind).count()
    }

    /// The number of earlier layers of the kind that `layer` is of: its place in a cache.
    pub(crate) fn place_in_cache(&self, layer: usize) -> usize {
        let kind = self.layer_kind(layer);
        (0..layer).filter(|&earlier| self.layer_kind(earlier) == kind).count()
    }

    /// The frequencies before they are stretched.
    fn plain_frequencies(&self) -> impl Iterator<Item = f32> {
        self.frequencies_of(self.rope_theta)
    }

    /// Inverse frequencies of RoPE, `[head_dim / 2]`, computed in f32 as the reference implementations do.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        match &self.rope_scaling {
            RopeScaling::Yarn(yarn) => {
                return yarn.inverse_frequencies(self.rope_dim, self.rope_theta);
            }
            RopeScaling::LongRope(long) => {
                return long.inverse_frequencies(self.rope_dim, self.rope_theta);
            }
            _ => {}
        }
        let plain = self.plain_frequencies().enumerate();
        plain.map(|(j, frequency)| self.rope_scaling.apply(j, frequency)).collect()
    }

    /// The epsilon of norms over the residual stream as it is held (`scaled_stream.rs`).
    pub(crate) fn stream_eps(&self) -> f32 {
        let residual = self.scales.map_or(1.0, |scales| scales.residual);
        self.norm_eps / (residual * residual)
    }

    /// What the cosines and sines of RoPE are multiplied by.
    pub fn rope_magnitude(&self) -> f32 {
        match &self.rope_scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            RopeScaling::LongRope(long) => long.attention_factor,
            _ => 1.0,
        }
    }

    /// What each frequency is divided by, `[head_dim / 2]`, where a single factor for all does not say it: as near to
    /// [`ModelConfig::inverse_frequencies`] as a division by an f32 comes.
    pub fn frequency_factors(&self) -> Option<Arc<[f32]>> {
        match &self.rope_scaling {
            RopeScaling::None
            | RopeScaling::Linear(_)
            | RopeScaling::Yarn(_)
            | RopeScaling::LongRope(_) => None,
            RopeScaling::Factors(factors) => Some(Arc::clone(factors)),
            RopeScaling::Llama3 { .. } => {
                let pairs = self.plain_frequencies().zip(self.inverse_frequencies());
                let factors: Arc<[f32]> =
                    pairs.map(|(plain, stretched)| divisor(plain, stretched)).collect();
                factors.iter().any(|&factor| factor != 1.0).then_some(factors)
            }
        }
    }
}

impl RecurrentConfig {
    /// Returns the recurrent layers among layers of these kinds; the number of layers in `shape` follows from them.
    pub(crate) fn new(kinds: Vec<LayerKind>, shape: RecurrentShape, order: HeadOrder) -> Self {
        let layers = kinds.iter().filter(|kind| **kind == LayerKind::Recurrent).count();
        Self { kinds: kinds.into(), shape: RecurrentShape { layers, ..shape }, order }
    }

    /// Returns the kinds of `layers` layers of which one in `interval` has attention.
    pub(crate) fn kinds_by_interval(layers: usize, interval: usize) -> Vec<LayerKind> {
        let kind = |number: usize| match number.is_multiple_of(interval) {
            true => LayerKind::Attention,
            false => LayerKind::Recurrent,
        };
        (1..=layers).map(kind).collect()
    }

    /// Returns the interval of layers with attention, if one in so many has it and all others are recurrent.
    pub fn interval(&self) -> Option<usize> {
        let first = self.kinds.iter().position(|kind| *kind == LayerKind::Attention)? + 1;
        (*Self::kinds_by_interval(self.kinds.len(), first) == *self.kinds).then_some(first)
    }

    /// Checks sizes and kinds; an error names the field and its problem.
    fn validate(&self, layers: usize) -> std::result::Result<(), (&'static str, String)> {
        let sizes = self.shape;
        if self.kinds.len() != layers {
            let problem = format!("{} of them for {layers} layers", self.kinds.len());
            return Err(("kinds of layers", problem));
        }
        if !self.kinds.contains(&LayerKind::Attention) {
            return Err(("kinds of layers", "no layer has attention".into()));
        }
        if sizes.channels() > MAX_WIDTH || sizes.chunk_bytes().is_none() {
            return Err(("recurrent layers", format!("sizes that no model has: {sizes:?}")));
        }
        Ok(())
    }
}

/// The number by which `plain` must be divided to come nearest to `wanted`.
fn divisor(plain: f32, wanted: f32) -> f32 {
    let near = plain / wanted;
    let distance = |divisor: f32| (plain / divisor - wanted).abs();
    let others = [near.next_down(), near.next_up()];
    others.into_iter().fold(near, |best, d| if distance(d) < distance(best) { d } else { best })
}

impl RopeScaling {
    /// Stretches frequency `j`.
    fn apply(&self, j: usize, frequency: f32) -> f32 {
        match *self {
            // YaRN's and LongRoPE's have formulas of their own.
            Self::None | Self::Yarn(_) | Self::LongRope(_) => frequency,
            Self::Linear(factor) => frequency / factor,
            Self::Factors(ref factors) => frequency / factors[j],
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength > original_context / low_freq_factor {
                    frequency / factor
                } else if wavelength < original_context / high_freq_factor {
                    frequency
                } else {
                    let smooth = (original_context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn example_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::BitNet,
        vocab_size: 10,
        hidden: 64,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        intermediate: 128,
        context: 32,
        context_limit: None,
        norm_eps: 1e-5,
        activation: Activation::Relu2,
        rope_theta: 10000.0,
        rope_order: RopeOrder::Halves,
        rope_scaling: RopeScaling::None,
        rope_dim: 16,
        local: None,
        mixture: None,
        recurrent: None,
        rotations: None,
        draft_layers: 0,
        drafts_read: 0,
        scales: None,
        query_scalar: None,
        has_head: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_named() {
        let good = example_config();
        assert!(good.validate("f").is_ok());
        type Spoil = fn(&mut ModelConfig);
        let cases: [(&str, Spoil); 9] = [
            ("layers", |c| c.layers = 0),
            ("layers", |c| c.layers = 513),
            ("attention heads", |c| c.heads = 0),
            ("key-value heads", |c| c.kv_heads = 3),
            ("head size", |c| c.head_dim = 15),
            ("epsilon", |c| c.norm_eps = f32::NAN),
            ("context", |c| c.context = u32::MAX as usize),
            ("RoPE base", |c| c.rope_theta = f32::INFINITY),
            ("hidden", |c| c.hidden = 1 << 31),
        ];
        for (word, spoil) in cases {
            let mut config = good.clone();
            spoil(&mut config);
            let message = config.validate("model.gguf").unwrap_err().to_string();
            assert!(message.contains("model.gguf") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        assert_eq!(scaling.apply(0, 1.0), 1.0);
        assert_eq!(scaling.apply(0, 1e-6), 1e-6 / 8.0);
        let middle = scaling.apply(0, std::f32::consts::TAU / 4096.0);
        assert!(
            middle > std::f32::consts::TAU / 4096.0 / 8.0
                && middle < std::f32::consts::TAU / 4096.0
        );
    }

    #[test]
    fn factors_say_what_llama3_says() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let config = ModelConfig {
            head_dim: 128,
            rope_dim: 128,
            rope_theta: 500_000.0,
            rope_scaling: llama3,
            ..example_config()
        };
        let factors = config.frequency_factors().unwrap();
        assert!(factors[0] == 1.0 && factors[63] == 8.0 && factors.is_sorted());
        let stated =
            ModelConfig { rope_scaling: RopeScaling::Factors(factors.clone()), ..config.clone() };
        assert_eq!(stated.frequency_factors().unwrap(), factors);
        let (meant, found) = (config.inverse_frequencies(), stated.inverse_frequencies());
        for (meant, found) in meant.iter().zip(&found) {
            assert!((meant - found).abs() <= meant * f32::EPSILON, "{meant} {found}");
        }
        for (len, bad) in [(64, 0.0), (64, f32::NAN), (63, 1.0)] {
            let mut wrong = factors[..len].to_vec();
            wrong[5] = bad;
            let scaling = RopeScaling::Factors(wrong.into());
            let config = ModelConfig { rope_scaling: scaling, hidden: 512, ..config.clone() };
            let error = config.validate("f").unwrap_err().to_string();
            assert!(error.contains("frequency factors"), "{error}");
        }
    }
}
