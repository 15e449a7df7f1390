//! Trits by strict comparison with half the scale.

use super::Absmean;
use crate::loss::Threshold;
use crate::stored::Stored;
use crate::ternarize::Rule;
use crate::{Error, Result};

/// The rule of GPU kernels with a scale `s`: `W > s / 2` becomes 1, `W < -s / 2` becomes -1, all others 0, including
/// ties.
///
/// The scale is fixed, or the mean of the magnitudes. With the mean, trits differ from those of [`Absmean`] only where
/// `W * (1 / s)` and `W > s / 2` round differently.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HalfScale {
    /// The positive scale; `None` for the mean of the magnitudes.
    pub scale: Option<f32>,
}

impl Rule for HalfScale {
    /// The sum of the magnitudes.
    type Tally = f64;
    type Cut = Threshold;

    const NAME: &'static str = "half scale";

    fn check(&self, _: usize) -> Result<()> {
        match self.scale {
            Some(scale) if !(scale.is_finite() && scale > 0.0) => Err(Error::BadParameter {
                what: Self::NAME,
                parameter: "scale",
                value: f64::from(scale),
                expected: "a finite number above 0",
            }),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut f64, weights: &[S::Raw]) -> bool {
        Absmean.add::<S>(tally, weights)
    }

    fn cut(&self, tally: f64, count: usize) -> Threshold {
        let scale = self.scale.unwrap_or((tally / count as f64) as f32);
        Threshold { above: scale / 2.0, scale }
    }
}
