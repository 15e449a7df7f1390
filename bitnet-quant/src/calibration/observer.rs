//! What is seen of the activations of each layer while a model runs.

use super::histogram::Histogram;
use super::{Calibration, CalibrationMethod, LayerCalibration};
use crate::Result;
use crate::activations::ActivationBits;
use std::collections::BTreeMap;

/// What is known of a layer's activations.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    pub(super) histogram: Histogram,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Averages of the lowest and the highest number of each call.
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

    /// Of these numbers alone.
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

    /// Finite numbers seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Numbers seen that were NaN or infinite; nothing else counts them.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// The lowest and the highest number; `None` if there was none.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.count > 0).then_some((self.low, self.high))
    }

    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The standard deviation; 0 of nothing.
    pub fn deviation(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean = self.mean();
        (self.squares / self.count as f64 - mean * mean).max(0.0).sqrt()
    }

    /// The share of numbers that are 0; 0 of nothing.
    pub fn sparsity(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.zeros as f64 / self.count as f64 }
    }

    /// The magnitude with `share` of the magnitudes below it, right to about a two-thousandth of the largest.
    pub fn magnitude_quantile(&self, share: f64) -> f64 {
        self.histogram.quantile(share)
    }

    /// Numbers whose magnitude is at least so many times the root of the mean square, to the resolution of
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

/// Numbers that are far larger than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outliers {
    /// The magnitude from which on a number is one.
    pub threshold: f64,
    /// How many there are.
    pub count: u64,
    /// Their share of all numbers.
    pub share: f64,
    /// The largest magnitude over that which 99 of 100 stay below.
    pub largest_to_usual: f64,
}

/// Watches the activations of layers while a model runs.
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
    /// One that has seen nothing; moving averages keep nine tenths of the old value.
    pub fn new() -> Self {
        Self { momentum: 0.9, layers: BTreeMap::new() }
    }

    /// One whose moving averages keep this share of the old value; it is brought to 0 to 1.
    pub fn with_momentum(momentum: f64) -> Self {
        let momentum = if momentum.is_nan() { 0.9 } else { momentum.clamp(0.0, 1.0) };
        Self { momentum, ..Self::new() }
    }

    /// Takes in a layer's activations; a call is a step of moving averages. Numbers that are not finite are counted apart.
    pub fn observe(&mut self, layer: &str, values: &[f32]) {
        if !self.layers.contains_key(layer) {
            self.layers.insert(layer.to_owned(), Statistics::new());
        }
        if let Some(statistics) = self.layers.get_mut(layer) {
            statistics.observe(values, self.momentum);
        }
    }

    /// What is known of a layer.
    pub fn statistics(&self, layer: &str) -> Option<&Statistics> {
        self.layers.get(layer)
    }

    /// All layers, by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Statistics)> {
        self.layers.iter().map(|(name, statistics)| (name.as_str(), statistics))
    }

    /// The range of each layer by which its activations should be quantised.
    ///
    /// # Errors
    /// [`crate::Error::BadParameter`] for a method's setting that can't be, [`crate::Error::NotCalibrated`] for a layer of
    /// which no finite number was seen.
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
