//! Whole tensors as trits or integers: scales and zero points for the tensor or for each channel.

use super::absmean::rounding;
use crate::calibration::{CalibrationMethod, Statistics};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};

/// The quantiser's name in errors.
const NAME: &str = "tensor quantiser";

/// How tensors are quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationConfig {
    /// Bits of a number: 1.58 for trits by absmean, or a whole number from 2 to 8.
    pub bits: f32,
    /// Whether 0 stays 0 and the range is as wide below it as above. Trits are always symmetric.
    pub symmetric: bool,
    /// Whether each channel has a scale of its own.
    pub per_channel: bool,
    /// The dimension whose indices are channels: 0 for weights stored as `[out, in]`.
    pub channel_axis: usize,
    /// How the range of integers is found; trits need none.
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

/// Scales and zero points: a number is `(q - zero_point) * scale`, with one of each for the tensor or for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizationParams {
    /// What a step stands for; finite and not below 0.
    pub scales: Vec<f32>,
    /// What stands for 0.
    pub zero_points: Vec<i32>,
}

/// What a number becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Trits,
    /// Integers from `low` to `high`.
    Integers {
        low: i32,
        high: i32,
    },
}

/// Quantises tensors of floats to tensors of int8, in its pool.
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
    /// A quantiser whose tensors are in `pool`.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for bits that are not 1.58 or a whole number from 2 to 8.
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
                expected: "1.58 or a whole number from 2 to 8",
            });
        };
        Ok(Self { config, width, params: None, pool: pool.clone() })
    }

    /// The same, with scales and zero points that every tensor is quantised by.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for a scale that is not a finite number of 0 or more, or if there are not as many zero points.
    pub fn with_params(self, params: QuantizationParams) -> Result<Self> {
        checked(&params)?;
        Ok(Self { params: Some(params), ..self })
    }

    /// What this quantiser was made for.
    pub fn config(&self) -> &QuantizationConfig {
        &self.config
    }

    /// The integers of weights, and what they stand for: by the parameters that were given, or else by those that the weights
    /// ask for.
    ///
    /// # Errors
    /// [`Error::BadNumber`] for a weight that is NaN or infinite (row: its channel, column: its number within it),
    /// [`Error::EmptyShape`] for a tensor without elements, [`Error::Core`] for a channel axis that is not there, integer
    /// tensors or want of memory.
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

    /// The integers of activations, by parameters that were found before: a NaN becomes what stands for 0.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for parameters that can't be, [`Error::Core`] for tensors that do not fit them.
    pub fn quantize_activations(
        &self,
        activations: &BitNetTensor,
        params: &QuantizationParams,
    ) -> Result<BitNetTensor> {
        let floats = activations.to_f32(&self.pool)?;
        let channels = Channels::new(activations.shape(), &self.config)?;
        self.with_params_of(floats.f32()?, activations.shape(), &channels, params)
    }

    /// The numbers that integers stand for, as f32.
    ///
    /// # Errors
    /// As [`BitNetQuantizer::quantize_activations`].
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

    /// What the numbers of each channel ask for.
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
                        // A NaN becomes 0 in the conversion, which stands for 0 once the zero point is added.
                        (steps as i32).saturating_add(zero).clamp(low, high) as f32
                    }
                };
            }
        }
        Ok(BitNetTensor::from_f32_as(shape, &q, BitNetDType::I8, CastRule::Saturating, &self.pool)?)
    }
}

/// The scale and the zero point of integers from `low` to `high` for numbers in a range, which is widened to hold 0.
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

/// Which elements of a tensor share a scale.
#[derive(Debug, Clone, Copy)]
struct Channels {
    count: usize,
    /// Elements of a channel that lie one after the other.
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

    /// The places of a channel's elements.
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

/// How the tensors of a model are quantised, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MixedPrecisionConfig {
    usual: QuantizationConfig,
    layers: Vec<(String, QuantizationConfig)>,
}

impl MixedPrecisionConfig {
    /// One in which every layer is quantised by [`QuantizationConfig::default`], to be changed.
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

    /// How a layer is quantised.
    pub fn of(&self, layer: &str) -> &QuantizationConfig {
        let own = self.layers.iter().rev().find(|(name, _)| name == layer);
        own.map_or(&self.usual, |(_, config)| config)
    }
}

/// Makes a [`MixedPrecisionConfig`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MixedPrecisionBuilder {
    config: MixedPrecisionConfig,
}

impl MixedPrecisionBuilder {
    /// How layers are quantised that are not named.
    #[must_use]
    pub fn default_config(mut self, config: QuantizationConfig) -> Self {
        self.config.usual = config;
        self
    }

    /// How the layer of this name is quantised; the last word counts.
    #[must_use]
    pub fn layer_config(mut self, name: impl Into<String>, config: QuantizationConfig) -> Self {
        self.config.layers.push((name.into(), config));
        self
    }

    /// The configuration.
    pub fn build(self) -> MixedPrecisionConfig {
        self.config
    }
}

/// Quantises each tensor as its name says.
#[derive(Debug, Clone)]
pub struct MixedPrecisionQuantizer {
    config: MixedPrecisionConfig,
    pool: HybridMemoryPool,
}

impl MixedPrecisionQuantizer {
    /// A quantiser whose tensors are in `pool`.
    ///
    /// # Errors
    /// Those of [`BitNetQuantizer::new`], for any of the layers.
    pub fn new(config: MixedPrecisionConfig, pool: &HybridMemoryPool) -> Result<Self> {
        for one in config.layers.iter().map(|(_, one)| one).chain([&config.usual]) {
            BitNetQuantizer::new(*one, pool)?;
        }
        Ok(Self { config, pool: pool.clone() })
    }

    /// The quantiser of a layer.
    ///
    /// # Errors
    /// Those of [`BitNetQuantizer::new`].
    pub fn quantizer(&self, layer: &str) -> Result<BitNetQuantizer> {
        BitNetQuantizer::new(*self.config.of(layer), &self.pool)
    }

    /// The integers of a layer's weights, and what they stand for.
    ///
    /// # Errors
    /// Those of [`BitNetQuantizer::quantize_weights`].
    pub fn quantize_weights(
        &self,
        layer: &str,
        weights: &BitNetTensor,
    ) -> Result<(BitNetTensor, QuantizationParams)> {
        self.quantizer(layer)?.quantize_weights(weights)
    }
}
