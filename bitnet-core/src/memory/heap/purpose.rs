//! What memory is used for.

use std::fmt;

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Purpose {
    /// Nothing in particular.
    #[default]
    General,
    /// Weights of a model, in the layout of its file or of the kernels.
    Weights,
    /// Keys and values of sequences.
    KvCache,
    /// Activations between layers, and the temporaries of kernels.
    Activations,
    /// Gradients of parameters and activations.
    Gradients,
    /// Moments of the optimiser and latent weights.
    OptimizerState,
    /// Texts, tokens and other data sets.
    Data,
}

impl Purpose {
    /// Every purpose, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::General,
        Self::Weights,
        Self::KvCache,
        Self::Activations,
        Self::Gradients,
        Self::OptimizerState,
        Self::Data,
    ];

    /// Its place in [`Purpose::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::General => "general",
            Self::Weights => "weights",
            Self::KvCache => "KV cache",
            Self::Activations => "activations",
            Self::Gradients => "gradients",
            Self::OptimizerState => "optimizer state",
            Self::Data => "data",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_is_at_its_index() {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose.index(), at, "{purpose}");
        }
    }
}
