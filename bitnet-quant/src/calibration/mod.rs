//! Statistics of a model's activations, and the static ranges for their quantisation.

mod histogram;
mod method;
mod observer;
mod sensitivity;
mod statistics;

pub use method::CalibrationMethod;
pub use observer::Observer;
pub use sensitivity::{Sensitivity, StorageWidth, sensitivity};
pub use statistics::{Outliers, Statistics};

use crate::activations::{ActivationBits, ActivationRange};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use serde::{Deserialize, Serialize};

/// The format version of stored calibrations.
const VERSION: u32 = 1;

/// The ranges of a model's activations, by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    method: CalibrationMethod,
    bits: ActivationBits,
    /// The layers, by name.
    layers: Vec<LayerCalibration>,
}

/// The statistics and the range of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCalibration {
    /// The layer's name.
    pub name: String,
    /// The lower end of the range; smaller numbers are clamped.
    pub low: f32,
    /// The upper end of the range; larger numbers are clamped.
    pub high: f32,
    /// The number of finite numbers.
    pub count: u64,
    /// The number of NaN and infinite numbers.
    pub not_finite: u64,
    /// The mean of the finite numbers.
    pub mean: f64,
    /// The standard deviation of the finite numbers.
    pub deviation: f64,
    /// The share of zeros.
    pub sparsity: f64,
}

impl LayerCalibration {
    /// Returns the range for symmetric quantisers.
    pub fn activation_range(&self) -> ActivationRange {
        ActivationRange::Static(self.high.max(-self.low).max(f32::MIN_POSITIVE))
    }
}

/// The stored form of a calibration.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCalibration {
    version: u32,
    method: CalibrationMethod,
    bits: u8,
    layers: Vec<LayerCalibration>,
}

impl Calibration {
    /// Returns the method of the ranges.
    pub fn method(&self) -> CalibrationMethod {
        self.method
    }

    /// Returns the number of bits of the ranges.
    pub fn bits(&self) -> ActivationBits {
        self.bits
    }

    /// Returns all layers, by name.
    pub fn layers(&self) -> &[LayerCalibration] {
        &self.layers
    }

    /// Returns the layer named `name`.
    pub fn layer(&self, name: &str) -> Option<&LayerCalibration> {
        let found = self.layers.binary_search_by(|layer| layer.name.as_str().cmp(name));
        found.ok().map(|index| &self.layers[index])
    }

    /// Serialises the calibration as JSON.
    ///
    /// # Errors
    /// [`Error::BadCalibration`] if serialisation fails.
    pub fn to_json(&self) -> Result<String> {
        let stored = StoredCalibration {
            version: VERSION,
            method: self.method,
            bits: match self.bits {
                ActivationBits::Int8 => 8,
                ActivationBits::Int4 => 4,
            },
            layers: self.layers.clone(),
        };
        serde_json::to_string_pretty(&stored).map_err(unreadable)
    }

    /// Parses JSON written by [`Calibration::to_json`].
    ///
    /// # Errors
    /// [`Error::BadCalibration`] for anything but a valid calibration of this version.
    pub fn from_json(text: &str) -> Result<Self> {
        let stored: StoredCalibration = serde_json::from_str(text).map_err(unreadable)?;
        let bad = |reason: String| Err(Error::BadCalibration { reason });
        if stored.version != VERSION {
            return bad(format!("version {} is not {VERSION}", stored.version));
        }
        let bits = match stored.bits {
            8 => ActivationBits::Int8,
            4 => ActivationBits::Int4,
            bits => return bad(format!("{bits} bits are not 8 or 4")),
        };
        let mut layers = stored.layers;
        layers.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = layers.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return bad(format!("layer {:?} appears twice", pair[0].name));
        }
        for layer in &layers {
            let numbers =
                [f64::from(layer.low), f64::from(layer.high), layer.mean, layer.deviation];
            let sound = numbers.iter().all(|x| x.is_finite())
                && layer.low <= layer.high
                && layer.deviation >= 0.0
                && (0.0..=1.0).contains(&layer.sparsity);
            if !sound {
                return bad(format!("layer {:?} has invalid numbers", layer.name));
            }
        }
        Ok(Self { method: stored.method.checked()?, bits, layers })
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::BadCalibration { reason: error.to_string() }
}

/// Samples for calibration, by layer.
#[derive(Debug, Default)]
pub struct CalibrationDataset {
    samples: Vec<(String, BitNetTensor)>,
}

impl CalibrationDataset {
    /// The layer name of [`CalibrationDataset::from_tensors`].
    pub const INPUT: &'static str = "input";

    /// Creates a dataset of one layer, named [`CalibrationDataset::INPUT`].
    pub fn from_tensors(tensors: Vec<BitNetTensor>) -> Self {
        let named = tensors.into_iter().map(|tensor| (Self::INPUT.to_owned(), tensor));
        Self { samples: named.collect() }
    }

    /// Creates a dataset of samples with their layers' names.
    pub fn from_named(samples: Vec<(String, BitNetTensor)>) -> Self {
        Self { samples }
    }
}

/// Calibrates on existing samples; an [`Observer`] calibrates while a model runs.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_quant::calibration::{CalibrationDataset, Calibrator};
///
/// let pool = HybridMemoryPool::new()?;
/// let samples = vec![BitNetTensor::arange(-2.0, 4.0, 1.0, &pool)?];
/// let calibration = Calibrator::new().calibrate(&CalibrationDataset::from_tensors(samples))?;
/// let input = calibration.layer(CalibrationDataset::INPUT).ok_or("no samples")?;
/// assert_eq!((input.low, input.high), (-2.0, 3.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrator {
    method: CalibrationMethod,
    bits: ActivationBits,
}

impl Default for Calibrator {
    fn default() -> Self {
        Self::new()
    }
}

impl Calibrator {
    /// Creates a min-max calibrator for int8.
    pub fn new() -> Self {
        Self { method: CalibrationMethod::MinMax, bits: ActivationBits::Int8 }
    }

    /// Sets the method.
    #[must_use]
    pub fn with_method(self, method: CalibrationMethod) -> Self {
        Self { method, ..self }
    }

    /// Sets the number of bits.
    #[must_use]
    pub fn with_bits(self, bits: ActivationBits) -> Self {
        Self { bits, ..self }
    }

    /// Returns the ranges of all layers with samples.
    ///
    /// # Errors
    /// Same as [`Observer::calibrate`], and [`Error::Core`] for integer tensors or if memory is
    /// exhausted.
    pub fn calibrate(&self, dataset: &CalibrationDataset) -> Result<Calibration> {
        let pool = HybridMemoryPool::new()?;
        let mut observer = Observer::new();
        for (layer, tensor) in &dataset.samples {
            observer.observe(layer, tensor.to_f32(&pool)?.f32()?);
        }
        observer.calibrate(self.method, self.bits)
    }
}
