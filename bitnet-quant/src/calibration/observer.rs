//! An observer that collects statistics of activations while a model runs.

use super::statistics::Statistics;
use super::{Calibration, CalibrationMethod, LayerCalibration};
use crate::Result;
use crate::activations::ActivationBits;
use std::collections::BTreeMap;

/// Collects statistics of the activations of layers while a model runs.
///
/// ```
/// use bitnet_quant::activations::ActivationBits;
/// use bitnet_quant::calibration::{CalibrationMethod, Observer};
///
/// let mut observer = Observer::new();
/// for step in 1..=3u8 {
///     let activations = [0.5 * f32::from(step), -1.0, 0.0]; // what goes into the layer
///     observer.observe("layers.0.down", &activations);
/// }
/// let calibration = observer.calibrate(CalibrationMethod::MinMax, ActivationBits::Int8)?;
/// let layer = calibration.layer("layers.0.down").ok_or("no such layer")?;
/// assert_eq!((layer.low, layer.high), (-1.0, 1.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Observer {
    momentum: f64,
    layers: BTreeMap<String, Statistics>,
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer {
    /// Creates an empty observer; moving averages have a momentum of 0.9.
    pub fn new() -> Self {
        Self { momentum: 0.9, layers: BTreeMap::new() }
    }

    /// Creates an empty observer with a momentum, clamped to 0 to 1.
    pub fn with_momentum(momentum: f64) -> Self {
        let momentum = if momentum.is_nan() { 0.9 } else { momentum.clamp(0.0, 1.0) };
        Self { momentum, ..Self::new() }
    }

    /// Adds activations of a layer; each call is one step of the moving
    /// averages. Non-finite numbers are counted separately.
    pub fn observe(&mut self, layer: &str, values: &[f32]) {
        if !self.layers.contains_key(layer) {
            self.layers.insert(layer.to_owned(), Statistics::new());
        }
        if let Some(statistics) = self.layers.get_mut(layer) {
            statistics.observe(values, self.momentum);
        }
    }

    /// Returns the statistics of a layer.
    pub fn statistics(&self, layer: &str) -> Option<&Statistics> {
        self.layers.get(layer)
    }

    /// Returns all layers, by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Statistics)> {
        self.layers.iter().map(|(name, statistics)| (name.as_str(), statistics))
    }

    /// Returns the range of each layer.
    ///
    /// # Errors
    /// [`crate::Error::BadParameter`] for an invalid parameter of the method, [`crate::Error::NotCalibrated`] for a
    /// layer without finite numbers.
    pub fn calibrate(
        &self,
        method: CalibrationMethod,
        bits: ActivationBits,
    ) -> Result<Calibration> {
        let method = method.checked()?;
        let layers = self.layers.iter().map(|(name, statistics)| {
            let (low, high) = method.range(name, statistics, f64::from(bits.largest()))?;
            Ok(LayerCalibration {
                name: name.clone(),
                low,
                high,
                count: statistics.count(),
                not_finite: statistics.not_finite(),
                mean: statistics.mean(),
                deviation: statistics.deviation(),
                sparsity: statistics.sparsity(),
            })
        });
        Ok(Calibration { method, bits, layers: layers.collect::<Result<_>>()? })
    }
}
