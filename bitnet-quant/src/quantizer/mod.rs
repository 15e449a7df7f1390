//! Weight quantisers: rules for trits and scales.

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
use crate::ternarize::{Rule, Wanted, ternarize};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::simd;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use magnitudes::Magnitudes;
use std::fmt::Debug;

/// Settings of a weight quantiser.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The scale granularity.
    pub granularity: ScaleGranularity,
    /// The pool for trits and scales; `None` for the heap.
    pub pool: Option<&'a HybridMemoryPool>,
    /// The number of threads, which does not change the result; 0 means 1.
    pub threads: usize,
}

impl Default for Settings<'_> {
    /// One scale per matrix, heap memory, one thread.
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

/// A rule that turns weights into trits and scales.
///
/// Quantising weights that are already ternary may change their scale: call [`crate::weights::detect_ternary`] first.
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
    /// Returns the rule's name.
    fn name(&self) -> &'static str;

    /// Returns the trits and scales of `weights`.
    ///
    /// # Errors
    /// [`crate::Error::EmptyShape`], [`crate::Error::BadNumber`] for a weight that is NaN or infinite,
    /// [`crate::Error::BadParameter`] for an invalid parameter of the rule, [`crate::Error::Core`] if the group size
    /// does not divide the columns, and errors of reading `weights`.
    fn quantize(&self, weights: &dyn DenseRows, settings: &Settings<'_>) -> Result<TernaryMatrix>;

    /// Returns the trits and scales of `weights`, and their quantisation error.
    ///
    /// # Errors
    /// Same as [`Quantizer::quantize`].
    fn quantize_measured(
        &self,
        weights: &dyn DenseRows,
        settings: &Settings<'_>,
    ) -> Result<(TernaryMatrix, Loss)>;
}

impl<R: Rule + Debug + Send> Quantizer for R {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn quantize(&self, weights: &dyn DenseRows, settings: &Settings<'_>) -> Result<TernaryMatrix> {
        self.check(weights.cols())?;
        Ok(ternarize(weights, self, settings.wanted(false)?)?.0)
    }

    fn quantize_measured(
        &self,
        weights: &dyn DenseRows,
        settings: &Settings<'_>,
    ) -> Result<(TernaryMatrix, Loss)> {
        self.check(weights.cols())?;
        let (matrix, meter) = ternarize(weights, self, settings.wanted(true)?)?;
        Ok((matrix, meter.loss()))
    }
}
