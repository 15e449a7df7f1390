//! Quantisation of whole tensors to trits or integers, with scales and zero points per tensor or per channel.

use super::absmean::rounding;
use crate::calibration::{CalibrationMethod, Statistics};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};

/// The quantiser's name in errors.
const NAME: &str = "tensor quantiser";

/// The configuration of a tensor quantiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationConfig {
    /// Bits per number: 1.58 for trits by absmean, or an integer from 2 to 8.
    pub bits: f32,
    /// Whether the range is symmetric around 0. Trits are always symmetric.
    pub symmetric: bool,
    /// Whether each channel has its own scale.
    pub per_channel: bool,
    /// The channel dimension: 0 for weights `[out, in]`.
    pub channel_axis: usize,
    /// The method that selects the range of integers; unused for trits.
    pub calibration_method: CalibrationMethod,
}

impl Default for QuantizationConfig {
    /// Trits with one scale.
    fn default() -> Self {
        Self {
            bits: 1.58,
            symmetric: true,
            per_channel: false,
            channel_axis: 0,
            calibration_method: CalibrationMethod::MinMax,
        }
    }
}

/// Scales and zero points, per tensor or per channel: a number is `(q - zero_point) * scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizationParams {
    /// The step sizes; finite and at least 0.
    pub scales: Vec<f32>,
    /// The zero points.
    pub zero_points: Vec<i32>,
}

/// The kind of quantised number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Trits,
    /// Integers from `low` to `high`.
    Integers {
        low: i32,
        high: i32,
    },
}

/// Quantises float tensors to int8 tensors in its pool.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_quant::quantizer::{BitNetQuantizer, QuantizationConfig};
///
/// let pool = HybridMemoryPool::new()?;
/// let weights = BitNetTensor::from_f32(&[2, 2], &[0.5, -0.25, 0.125, -0.125], &pool)?;
/// let quantizer = BitNetQuantizer::new(QuantizationConfig::default(), &pool)?;
/// let (q, params) = quantizer.quantize_weights(&weights)?;
/// assert_eq!(q.to_f32(&pool)?.f32()?, [1.0, -1.0, 0.0, 0.0]);
/// assert_eq!(params.scales, [0.25]);
/// assert_eq!(quantizer.dequantize(&q, &params)?.f32()?, [0.25, -0.25, 0.0, 0.0]);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BitNetQuantizer {
    config: QuantizationConfig,
    width: Width,
    params: Option<QuantizationParams>,
    pool: HybridMemoryPool,
}

impl BitNetQuantizer {
    /// Creates a quantiser whose tensors are in `pool`.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for bits other than 1.58 or an integer from 2 to 8.
    pub fn new(config: QuantizationConfig, pool: &HybridMemoryPool) -> Result<Self> {
        let width = if config.bits == 1.58 {
            Width::Trits
        } else if config.bits.fract() == 0.0 && (2.0..=8.0).contains(&config.bits) {
            let high = (1i32 << (config.bits as u32 - 1)) - 1;
            Width::Integers { low: if config.symmetric { -high } else { -high - 1 }, high }
        } else {
            return Err(Error::BadParameter {
                what: NAME,
                parameter: "bits",
                value: f64::from(config.bits),
                expected: "1.58 or an integer from 2 to 8",
            });
        };
        Ok(Self { config, width, params: None, pool: pool.clone() })
    }

    /// Sets fixed scales and zero points for every tensor.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for a scale that is not a finite number of 0 or more, or another number of zero points.
    pub fn with_params(self, params: QuantizationParams) -> Result<Self> {
        checked(&params)?;
        Ok(Self { params: Some(params), ..self })
    }

    /// Builds the configuration.
    pub fn config(&self) -> &QuantizationConfig {
        &self.config
    }

    /// Quantises weights with the fixed parameters, or else with parameters computed from the weights. Returns the
    /// integers and the parameters.
    ///
    /// # Errors
    /// [`Error::BadNumber`] for a weight that is NaN or infinite (row: its channel, column: its index in the channel),
    /// [`Error::EmptyShape`] for a tensor without elements, [`Error::Core`] for a missing channel axis, an integer
    /// tensor or exhausted memory.
    pub fn quantize_weights(
        &self,
        weights: &BitNetTensor,
    ) -> Result<(BitNetTensor, QuantizationParams)> {
        let floats = weights.to_f32(&self.pool)?;
        let values = floats.f32()?;
        let channels = Channels::new(weights.shape(), &self.config)?;
        for channel in 0..channels.count {
            let bad = channels.places(channel).position(|at| !values[at].is_finite());
            if let Some(col) = bad {
                let at = channels.places(channel).nth(col).unwrap_or(0);
                return Err(Error::BadNumber {
                    format: NAME,
                    row: channel,
                    col,
                    value: values[at],
                });
            }
        }
        let params = match &self.params {
            Some(params) => params.clone(),
            None => self.params_of(values, &channels)?,
        };
        let q = self.with_params_of(values, weights.shape(), &channels, &params)?;
        Ok((q, params))
    }

    /// Quantises activations with existing parameters; NaN becomes the zero point.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for invalid parameters, [`Error::Core`] for tensors that do not fit them.
    pub fn quantize_activations(
        &self,
        activations: &BitNetTensor,
        params: &QuantizationParams,
    ) -> Result<BitNetTensor> {
        let floats = activations.to_f32(&self.pool)?;
        let channels = Channels::new(activations.shape(), &self.config)?;
        self.with_params_of(floats.f32()?, activations.shape(), &channels, params)
    }

    /// Dequantises integers to f32.
    ///
    /// # Errors
    /// Same as [`BitNetQuantizer::quantize_activations`].
    pub fn dequantize(
        &self,
        q: &BitNetTensor,
        params: &QuantizationParams,
    ) -> Result<BitNetTensor> {
        let integers = q.to_f32(&self.pool)?;
        let mut values = integers.f32()?.to_vec();
        let channels = Channels::new(q.shape(), &self.config)?;
        channels.fits(params)?;
        for channel in 0..channels.count {
            let (scale, zero) = (params.scales[channel], params.zero_points[channel] as f32);
            for at in channels.places(channel) {
                values[at] = (values[at] - zero) * scale;
            }
        }
        Ok(BitNetTensor::from_f32(q.shape(), &values, &self.pool)?)
    }

    /// Returns the parameters for the numbers of each channel.
    fn params_of(&self, values: &[f32], channels: &Channels) -> Result<QuantizationParams> {
        let mut params = QuantizationParams { scales: Vec::new(), zero_points: Vec::new() };
        for channel in 0..channels.count {
            let run: Vec<f32> = channels.places(channel).map(|at| values[at]).collect();
            let (scale, zero) = match self.width {
                Width::Trits => {
                    let sum: f64 = run.iter().map(|x| f64::from(x.abs())).sum();
                    (rounding((sum / run.len() as f64) as f32).scale, 0)
                }
                Width::Integers { low, high } => {
                    let seen = Statistics::of(&run);
                    let method = self.config.calibration_method;
                    let (from, to) = method.range(NAME, &seen, f64::from(high))?;
                    affine(from, to, low, high, self.config.symmetric)
                }
            };
            params.scales.push(scale);
            params.zero_points.push(zero);
        }
        Ok(params)
    }

    fn with_params_of(
        &self,
        values: &[f32],
        shape: &[usize],
        channels: &Channels,
        params: &QuantizationParams,
    ) -> Result<BitNetTensor> {
        channels.fits(params)?;
        let mut q = vec![0f32; values.len()];
        for channel in 0..channels.count {
            let (scale, zero) = (params.scales[channel], params.zero_points[channel]);
            let cut = rounding(scale).above;
            for at in channels.places(channel) {
                let x = values[at];
                q[at] = match self.width {
                    Width::Trits => f32::from(i8::from(x > cut) - i8::from(x < -cut)),
                    Width::Integers { low, high } => {
                        let steps = if scale > 0.0 { (x / scale).round_ties_even() } else { 0.0 };
                        // NaN converts to 0, which becomes the zero point after the addition.
                        (steps as i32).saturating_add(zero).clamp(low, high) as f32
                    }
                };
            }
        }
        Ok(BitNetTensor::from_f32_as(shape, &q, BitNetDType::I8, CastRule::Saturating, &self.pool)?)
    }
}

/// Returns the scale and the zero point of integers from `low` to `high` for a range of numbers, extended to include 0.
fn affine(from: f32, to: f32, low: i32, high: i32, symmetric: bool) -> (f32, i32) {
    if symmetric {
        return (to.max(-from) / high as f32, 0);
    }
    let (from, to) = (f64::from(from.min(0.0)), f64::from(to.max(0.0)));
    let scale = (to - from) / f64::from(high - low);
    let zero = if scale > 0.0 { low - (from / scale).round() as i32 } else { 0 };
    (scale as f32, zero.clamp(low, high))
}

fn checked(params: &QuantizationParams) -> Result<()> {
    let bad = |parameter, value, expected| {
        Err(Error::BadParameter { what: NAME, parameter, value, expected })
    };
    if params.zero_points.len() != params.scales.len() {
        let count = params.zero_points.len() as f64;
        return bad("number of zero points", count, "as many as there are scales");
    }
    match params.scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0)) {
        Some(&scale) => bad("scale", f64::from(scale), "a finite number of 0 or more"),
        None => Ok(()),
    }
}

/// The elements of a tensor that share a scale.
#[derive(Debug, Clone, Copy)]
struct Channels {
    count: usize,
    /// Contiguous elements of a channel.
    inner: usize,
    elements: usize,
}

impl Channels {
    fn new(shape: &[usize], config: &QuantizationConfig) -> Result<Self> {
        let elements = shape.iter().product();
        if elements == 0 {
            let rows = shape.first().copied().unwrap_or(0);
            return Err(Error::EmptyShape { format: NAME, rows, cols: 0 });
        }
        if !config.per_channel {
            return Ok(Self { count: 1, inner: elements, elements });
        }
        let axis = config.channel_axis;
        let Some(&count) = shape.get(axis) else {
            return Err(Error::Core(bitnet_core::Error::OutOfRange {
                op: NAME,
                index: axis,
                len: shape.len(),
            }));
        };
        Ok(Self { count, inner: shape[axis + 1..].iter().product(), elements })
    }

    /// Returns the positions of a channel's elements.
    fn places(self, channel: usize) -> impl Iterator<Item = usize> {
        let step = self.count * self.inner;
        (channel * self.inner..self.elements)
            .step_by(step)
            .flat_map(move |first| first..first + self.inner)
    }

    fn fits(&self, params: &QuantizationParams) -> Result<()> {
        checked(params)?;
        if params.scales.len() == self.count {
            return Ok(());
        }
        Err(Error::BadParameter {
            what: NAME,
            parameter: "number of scales",
            value: params.scales.len() as f64,
            expected: "one for the tensor or one for each channel",
        })
    }
}

/// The quantisation of a model's tensors, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MixedPrecisionConfig {
    usual: QuantizationConfig,
    layers: Vec<(String, QuantizationConfig)>,
}

impl MixedPrecisionConfig {
    /// Creates a builder in which every layer has [`QuantizationConfig::default`].
    ///
    /// ```
    /// use bitnet_quant::quantizer::{MixedPrecisionConfig, QuantizationConfig};
    ///
    /// let int8 = QuantizationConfig { bits: 8.0, ..QuantizationConfig::default() };
    /// let config = MixedPrecisionConfig::builder().layer_config("lm_head", int8).build();
    /// assert_eq!(config.of("lm_head").bits, 8.0);
    /// assert_eq!(config.of("layers.0.up").bits, 1.58);
    /// ```
    pub fn builder() -> MixedPrecisionBuilder {
        MixedPrecisionBuilder { config: Self::default() }
    }

    /// Returns the configuration of a layer.
    pub fn of(&self, layer: &str) -> &QuantizationConfig {
        let own = self.layers.iter().rev().find(|(name, _)| name == layer);
        own.map_or(&self.usual, |(_, config)| config)
    }
}

/// Builds a [`MixedPrecisionConfig`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MixedPrecisionBuilder {
    config: MixedPrecisionConfig,
}

impl MixedPrecisionBuilder {
    /// Sets the configuration of all other layers.
    #[must_use]
    pub fn default_config(mut self, config: QuantizationConfig) -> Self {
        self.config.usual = config;
        self
    }

    /// Sets the configuration of a layer; the last call wins.
    #[must_use]
    pub fn layer_config(mut self, name: impl Into<String>, config: QuantizationConfig) -> Self {
        self.config.layers.push((name.into(), config));
        self
    }

    /// Builds the configuration.
    pub fn build(self) -> MixedPrecisionConfig {
        self.config
    }
}

/// Quantises each tensor by the configuration of its name.
#[derive(Debug, Clone)]
pub struct MixedPrecisionQuantizer {
    config: MixedPrecisionConfig,
    pool: HybridMemoryPool,
}

impl MixedPrecisionQuantizer {
    /// Creates a quantiser whose tensors are in `pool`.
    ///
    /// # Errors
    /// Errors of [`BitNetQuantizer::new`], for any of the layers.
    pub fn new(config: MixedPrecisionConfig, pool: &HybridMemoryPool) -> Result<Self> {
        for one in config.layers.iter().map(|(_, one)| one).chain([&config.usual]) {
            BitNetQuantizer::new(*one, pool)?;
        }
        Ok(Self { config, pool: pool.clone() })
    }

    /// Returns the quantiser of a layer.
    ///
    /// # Errors
    /// Same as [`BitNetQuantizer::new`].
    pub fn quantizer(&self, layer: &str) -> Result<BitNetQuantizer> {
        BitNetQuantizer::new(*self.config.of(layer), &self.pool)
    }

    /// Quantises a layer's weights. Returns the integers and the parameters.
    ///
    /// # Errors
    /// Same as [`BitNetQuantizer::quantize_weights`].
    pub fn quantize_weights(
        &self,
        layer: &str,
        weights: &BitNetTensor,
    ) -> Result<(BitNetTensor, QuantizationParams)> {
        self.quantizer(layer)?.quantize_weights(weights)
    }
}
