//! Quantisers of weights: rules that say which weights become 0, and what the others stand for.

mod absmean;
mod magnitudes;
mod optimal;
mod pruning;
mod sign;
mod stochastic;
mod tensors;
mod threshold;

pub use absmean::{Absmean, Absmedian};
pub use optimal::LeastSquares;
pub use pruning::KeepLargest;
pub use sign::Sign;
pub use stochastic::{Stochastic, StochasticScale};
pub use tensors::{
    BitNetQuantizer, MixedPrecisionBuilder, MixedPrecisionConfig, MixedPrecisionQuantizer,
    QuantizationConfig, QuantizationParams,
};
pub use threshold::HalfScale;

use crate::Result;
use crate::loss::Loss;
use crate::ternarize::Wanted;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::simd;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use magnitudes::Magnitudes;
use std::fmt::Debug;

/// What a quantiser of weights is told besides the weights.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// How many weights share a scale.
    pub granularity: ScaleGranularity,
    /// Where trits and scales are to be; the heap, if nowhere.
    pub pool: Option<&'a HybridMemoryPool>,
    /// Threads that work on it; the result is the same for every number of them. 0 is as 1.
    pub threads: usize,
}

impl Default for Settings<'_> {
    /// One scale for the matrix, on the heap, with one thread.
    fn default() -> Self {
        Self { granularity: ScaleGranularity::Tensor, pool: None, threads: 1 }
    }
}

impl<'a> Settings<'a> {
    fn wanted(&self, measured: bool) -> Result<Wanted<'a>> {
        let Self { granularity, pool, threads } = *self;
        Ok(Wanted { granularity, pool, threads, level: simd::active()?, measured })
    }
}

/// A rule by which weights become trits and scales.
///
/// Weights that are ternary already may change their scale: ask [`crate::weights::detect_ternary`] first.
///
/// ```
/// use bitnet_core::ternary::ScaleGranularity;
/// use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
/// use bitnet_quant::quantizer::{Absmean, LeastSquares, Quantizer, Settings};
///
/// let bytes: Vec<u8> =
///     (0..256i16).flat_map(|i| (f32::from(i * 37 % 101 - 50) / 100.0).to_le_bytes()).collect();
/// let weights = DenseMatrix::new(DenseType::F32, 2, 128, bytes)?;
/// let settings = Settings { granularity: ScaleGranularity::Group(64), ..Settings::default() };
/// let (_, usual) = Absmean.quantize_measured(&weights, &settings)?;
/// let (trits, best) = LeastSquares.quantize_measured(&weights, &settings)?;
/// assert_eq!(trits.scales().len(), 4);
/// assert!(best.mse <= usual.mse);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
pub trait Quantizer: Debug + Send + Sync {
    /// The rule's name.
    fn name(&self) -> &'static str;

    /// The trits and scales of `weights`.
    ///
    /// # Errors
    /// [`crate::Error::EmptyShape`], [`crate::Error::BadNumber`] for a weight that is NaN or infinite,
    /// [`crate::Error::BadParameter`] for a setting of the rule that can't be, [`crate::Error::Core`] if the group size does
    /// not fit the columns, and those of reading `weights`.
    fn quantize(&self, weights: &dyn DenseRows, settings: &Settings<'_>) -> Result<TernaryMatrix>;

    /// The trits and scales of `weights`, and how far they are from them.
    ///
    /// # Errors
    /// As [`Quantizer::quantize`].
    fn quantize_measured(
        &self,
        weights: &dyn DenseRows,
        settings: &Settings<'_>,
    ) -> Result<(TernaryMatrix, Loss)>;
}

/// Makes quantisers of rules.
macro_rules! quantizer {
    ($($rule:ty),+) => {$(
        impl crate::quantizer::Quantizer for $rule {
            fn name(&self) -> &'static str {
                <Self as crate::ternarize::Rule>::NAME
            }

            fn quantize(
                &self,
                weights: &dyn bitnet_core::dense::DenseRows,
                settings: &crate::quantizer::Settings<'_>,
            ) -> crate::Result<bitnet_core::ternary::TernaryMatrix> {
                Ok(crate::ternarize::ternarize(weights, self, settings.wanted(false)?)?.0)
            }

            fn quantize_measured(
                &self,
                weights: &dyn bitnet_core::dense::DenseRows,
                settings: &crate::quantizer::Settings<'_>,
            ) -> crate::Result<(bitnet_core::ternary::TernaryMatrix, crate::loss::Loss)> {
                let wanted = settings.wanted(true)?;
                let (matrix, meter) = crate::ternarize::ternarize(weights, self, wanted)?;
                Ok((matrix, meter.loss()))
            }
        }
    )+};
}
use quantizer;
