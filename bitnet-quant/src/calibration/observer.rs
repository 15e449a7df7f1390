//! An observer that collects statistics of activations while a model runs.

use super::histogram::Histogram;
use super::{Calibration, CalibrationMethod, LayerCalibration};
use crate::Result;
use crate::activations::ActivationBits;
use std::collections::BTreeMap;

/// Statistics of a layer's activations.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    pub(super) histogram: Histogram,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Moving averages of the smallest and the largest number of each call.
    pub(super) moving: Option<(f64, f64)>,
    count: u64,
    pub(super) zeros: u64,
    not_finite: u64,
    sum: f64,
    squares: f64,
}

impl Statistics {
    fn new() -> Self {
        Self {
            histogram: Histogram::new(),
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            moving: None,
            count: 0,
            zeros: 0,
            not_finite: 0,
            sum: 0.0,
            squares: 0.0,
        }
    }

    /// Creates the statistics of these numbers.
    pub(crate) fn of(values: &[f32]) -> Self {
        let mut statistics = Self::new();
        statistics.observe(values, 0.0);
        statistics
    }

    fn observe(&mut self, values: &[f32], momentum: f64) {
        let (mut low, mut high, mut count) = (f32::INFINITY, f32::NEG_INFINITY, 0u64);
        for &value in values.iter().filter(|value| value.is_finite()) {
            (low, high, count) = (low.min(value), high.max(value), count + 1);
            self.zeros += u64::from(value == 0.0);
            self.sum += f64::from(value);
            self.squares += f64::from(value) * f64::from(value);
        }
        self.not_finite += values.len() as u64 - count;
        if count == 0 {
            return;
        }
        self.histogram.add(values, high.abs().max(low.abs()));
        self.count += count;
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
        let (low, high) = (f64::from(low), f64::from(high));
        let mixed = |old: f64, new: f64| momentum * old + (1.0 - momentum) * new;
        self.moving = Some(match self.moving {
            Some((l, h)) => (mixed(l, low), mixed(h, high)),
            None => (low, high),
        });
    }

    /// Returns the number of finite numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of NaN and infinite numbers, which no other statistic includes.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Returns the smallest and the largest number; `None` if there are no finite numbers.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.count > 0).then_some((self.low, self.high))
    }

    /// Returns the mean; 0 if empty.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Returns the standard deviation; 0 if empty.
    pub fn deviation(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean = self.mean();
        (self.squares / self.count as f64 - mean * mean).max(0.0).sqrt()
    }

    /// Returns the share of zeros; 0 if empty.
    pub fn sparsity(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.zeros as f64 / self.count as f64 }
    }

    /// Returns the magnitude with `share` of the magnitudes below it, to about 1/2000 of the largest.
    pub fn magnitude_quantile(&self, share: f64) -> f64 {
        self.histogram.quantile(share)
    }

    /// Returns the outliers: numbers whose magnitude is at least `times` the root mean square, to the resolution of
    /// [`Statistics::magnitude_quantile`].
    pub fn outliers(&self, times: f64) -> Outliers {
        let power = if self.count == 0 { 0.0 } else { self.squares / self.count as f64 };
        let threshold = times * power.sqrt();
        let count = if threshold > 0.0 { self.histogram.at_least(threshold) } else { 0 };
        let usual = self.histogram.quantile(0.99);
        let largest = self.extremes().map_or(0.0, |(low, high)| f64::from(high.max(-low)));
        Outliers {
            threshold,
            count,
            share: if self.count == 0 { 0.0 } else { count as f64 / self.count as f64 },
            largest_to_usual: if usual > 0.0 { largest / usual } else { 1.0 },
        }
    }
}

/// Outliers: numbers far larger than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outliers {
    /// The magnitude at which outliers begin.
    pub threshold: f64,
    /// The number of outliers.
    pub count: u64,
    /// Their share of all numbers.
    pub share: f64,
    /// The largest magnitude divided by the 99th percentile.
    pub largest_to_usual: f64,
}

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

    /// Adds activations of a layer; each call is one step of the moving averages. Non-finite numbers are counted separately.
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
    /// [`crate::Error::BadParameter`] for an invalid parameter of the method, [`crate::Error::NotCalibrated`] for a layer
    /// without finite numbers.
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
                count: statistics.count,
                not_finite: statistics.not_finite,
                mean: statistics.mean(),
                deviation: statistics.deviation(),
                sparsity: statistics.sparsity(),
            })
        });
        Ok(Calibration { method, bits, layers: layers.collect::<Result<_>>()? })
    }
}
