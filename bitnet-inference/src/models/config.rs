//! Shapes and constants of a model, whatever file they came from.

use bitnet_core::backend::{Activation, RopeOrder};

use crate::{InferenceError, Result};

/// A family of architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// BitNet b1.58: sub-norms before the output and down projections.
    BitNet,
    /// Llama: no extra norms.
    Llama,
    /// Qwen3: norms on query and key heads.
    Qwen3,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BitNet => "bitnet",
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
        })
    }
}

/// How RoPE frequencies are stretched for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Positions that the model was trained for.
    pub context: usize,
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
        let bad = |field: &str, problem: String| InferenceError::Config {
            file: file.into(),
            field: field.into(),
            problem,
        };
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
        match self.rope_scaling {
            RopeScaling::Linear(f) | RopeScaling::Llama3 { factor: f, .. }
                if !(f.is_finite() && f > 0.0) =>
            {
                Err(bad("RoPE scaling factor", format!("{f} is not a positive number")))
            }
            RopeScaling::Llama3 {
                low_freq_factor: l,
                high_freq_factor: h,
                original_context: o,
                ..
            } if !(l > 0.0 && h > l && h.is_finite() && o > 0.0 && o.is_finite()) => Err(bad(
                "RoPE scaling",
                format!("frequency factors {l}, {h} over {o} are not ordered"),
            )),
            _ => Ok(()),
        }
    }

    /// Inverse frequencies of RoPE, `[head_dim / 2]`, computed in f32 as the reference implementations do.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let dim = self.head_dim;
        (0..dim / 2)
            .map(|j| {
                let exponent = (2 * j) as f32 / dim as f32;
                let frequency = 1.0 / self.rope_theta.powf(exponent);
                self.rope_scaling.apply(frequency)
            })
            .collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear(factor) => frequency / factor,
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
        norm_eps: 1e-5,
        activation: Activation::Relu2,
        rope_theta: 10000.0,
        rope_order: RopeOrder::Halves,
        rope_scaling: RopeScaling::None,
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
        assert_eq!(scaling.apply(1.0), 1.0);
        assert_eq!(scaling.apply(1e-6), 1e-6 / 8.0);
        let middle = scaling.apply(std::f32::consts::TAU / 4096.0);
        assert!(
            middle > std::f32::consts::TAU / 4096.0 / 8.0
                && middle < std::f32::consts::TAU / 4096.0
        );
    }
}
