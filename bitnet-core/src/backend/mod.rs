//! What a back end offers a model: operations, preparation of weights, counters.
//!
//! A model is written against [`Backend`] alone: it never asks on which device it runs, and quantisation is a property
//! of a weight. Four narrow traits make up a back end:
//!
//! - [`Operations`]: the closed, short list of operations on tensors. Each has a scalar twin in [`crate::reference`]
//!   that states the exact arithmetic; integers must equal it bit for bit, floating-point results within the bound that
//!   the conformance suite states.
//! - [`Preparation`]: weights and heads in the layout of the kernels, once, at load.
//! - [`Tensors`]: memory for results, weights and caches.
//! - [`Counters`]: what was read.
//!
//! Methods of all four can be called on a `dyn Backend`; on a concrete back end, import the trait that has the method.

mod counters;
mod delta;
pub mod dense;
mod preparation;
pub mod prepared_parts;
mod rope;
mod rotation;
pub mod shape_check;
mod tensors;
pub mod top_logits;

use std::fmt::Debug;

use self::dense::DenseRows;
use self::top_logits::{HeadWeight, LogitQuery, TopLogits};
use crate::Result;
use crate::kv::{KvCache, KvSpan, StateSpan};
use crate::memory::tensor::BitNetTensor;

pub use counters::{Counters, Traffic};
pub use delta::{DeltaInputs, HeadOrder};
pub use preparation::{Preparation, TernaryWeight};
pub use rope::{RopeOrder, RopeTable};
pub use rotation::{Direction, Rotation};
pub use tensors::Tensors;

/// How the input of a ternary layer is treated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationPrecision {
    /// Quantised to 8 bits with one scale per token (BitNet b1.58, "W1.58A8").
    Int8,
    /// Quantised to 8 bits as if this were the largest magnitude of every token: a range that calibration found.
    /// Larger magnitudes are clamped.
    Int8Within(f32),
    /// Left in f32: weight-only quantisation ("A16" models).
    Float,
}

/// The activation function of a gated feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `max(x, 0)²`
    Relu2,
    /// The tanh form of GELU.
    GeluTanh,
    /// `1 / (1 + exp(-x))`, NaN of infinity, so that an infinite weight shows: the gate on the output of attention, not
    /// of a feed-forward layer.
    Sigmoid,
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silu => "SiLU",
            Self::Relu2 => "ReLU²",
            Self::GeluTanh => "GELU (tanh)",
            Self::Sigmoid => "sigmoid",
        })
    }
}

/// The shape of an attention operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// Factor of the scores, `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
    /// The most positions that a token sees, its own included: those before them are hidden. `None`: all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Returns the first position that the token at `position` sees.
    #[inline]
    pub fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// The integers inside one `bit_linear`: what every instruction set must agree on bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct BitLinearIntegers {
    /// Quantised activations, `[tokens, cols]`.
    pub activations: Vec<i8>,
    /// Activation scales, `[tokens]`: `q = round(x * scale)`.
    pub activation_scales: Vec<f32>,
    /// Dot products of trits and activations, `[tokens, rows, groups]`; one group unless the weight has group
    /// scales.
    pub dots: Vec<i32>,
}

/// A device that runs a model.
///
/// # Examples
/// ```
/// use bitnet_core::backend::Backend;
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::reference::ReferenceBackend;
///
/// # fn main() -> bitnet_core::Result<()> {
/// let backend: &dyn Backend = &ReferenceBackend;
/// let pool = HybridMemoryPool::new()?;
/// let mut x = BitNetTensor::from_f32(&[1, 2], &[1.0, 2.0], &pool)?;
/// let y = BitNetTensor::from_f32(&[1, 2], &[10.0, 20.0], &pool)?;
/// backend.add(&mut x, &y)?;
/// assert_eq!(x.f32()?, [11.0, 22.0]);
/// # Ok(())
/// # }
/// ```
pub trait Backend: Operations + Preparation + Tensors + Counters + Debug + Send + Sync {
    /// Returns the name by which the back end is looked up.
    fn name(&self) -> &'static str;

    /// Describes what runs here: instruction set, threads.
    fn describe(&self) -> String;

    /// Returns the number of threads that compute here, the caller's included. A loader prepares weights on as many.
    fn threads(&self) -> usize {
        1
    }
}

/// The operations of a model. All tensors are contiguous; activations are f32.
///
/// # Errors
/// Every operation returns [`crate::Error::ShapeMismatch`] for operands that do not fit,
/// [`crate::Error::DTypeMismatch`] and [`crate::Error::NotContiguous`] for operands of another kind, and
/// [`crate::Error::NotWritable`] for an output that is shared.
pub trait Operations {
    /// Decodes rows `tokens` of `table` (`[vocabulary, hidden]`) into `out` (`[tokens, hidden]`).
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()>;

    /// `out[i] = x · weights[i]ᵀ` for ternary weights that share one input: `x` is `[tokens, cols]`, `out[i]` is
    /// `[tokens, rows_i]`. With [`ActivationPrecision::Int8`] and [`ActivationPrecision::Int8Within`] each token is
    /// quantised once for all weights, the dot product is exact in i32, and
    /// `out = dot / activation_scale * weight_scale`. With [`ActivationPrecision::Float`] `out` lies within
    /// `(cols / 16 + 16) · 2⁻²⁴ · Σ |w·x| + 1.01 · 2⁻²³ · max(|x|, 2⁻¹⁰⁴) · Σ |w|` of `Σ w·x`, where `w` are the
    /// weights with their scales: the activations of a token may be held to a common exponent, with the bits of an
    /// f32. A token that holds NaN or infinity gives NaN in every output.
    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()>;

    /// Returns the integers of [`Operations::bit_linear`] for one weight, for verification.
    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers>;

    /// The first half of a gated feed-forward layer: `out = activation(x · gateᵀ) * (x · upᵀ)` for two ternary weights
    /// of the same shape, each product as [`Operations::bit_linear`] computes it. Where the activation is exactly zero
    /// the result may be a zero of either sign, whatever the other factor is: its row need not be read. `out` and
    /// `scratch` are `[tokens, rows]`; the contents of `scratch` afterwards are unspecified.
    fn gate_up(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        activation: Activation,
        weights: [&dyn TernaryWeight; 2],
        out: &mut BitNetTensor,
        scratch: &mut BitNetTensor,
    ) -> Result<()> {
        self.bit_linear(x, precision, &weights, &mut [&mut *out, &mut *scratch])?;
        self.gate(activation, out, scratch)
    }

    /// `out = x · weightᵀ` for an ordinary matrix: `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// Finds the largest logits of hidden states `x` (`[queries, hidden]`), one query each: every finite one that is
    /// among the first `count` in the order of [`TokenLogit::order`](top_logits::TokenLogit::order) or equal to the
    /// last of these, and those of the extra tokens, finite or not. Each equals that of [`Operations::linear`], bit for
    /// bit. How sure it is that none is missing is the [`Guarantee`](top_logits::Guarantee) for which the head was
    /// prepared.
    ///
    /// # Errors
    /// [`crate::Error::ForeignWeight`] for a head that this back end has not prepared, [`crate::Error::OutOfRange`] for
    /// a token that is not a row, [`crate::Error::ShapeMismatch`].
    fn top_logits(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        queries: &[LogitQuery],
    ) -> Result<Vec<TopLogits>>;

    /// `out = weight * (x / sqrt(mean(x²) + eps))` over runs of as many components as `weight` (`[n]`) has (a row, or a
    /// head), NaN throughout a run whose mean square is not finite in f32; `x` and `out` are `[tokens, k * n]`.
    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// Rotates each head of `x` (`[tokens, heads * head_dim]`) in place; token `i` stands at `positions[i]`. Only
    /// the first `table.dim` components of a head are rotated.
    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()>;

    /// Writes keys and values (`[tokens, kv_heads * head_dim]` each) to positions `first..first + tokens` of one layer
    /// of a cache, which were [reserved](KvCache::reserve). What is stored is the same on every back end, bit for bit.
    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()>;

    /// Causal attention of several sequences, each over its own cache: `q` and `out` are `[tokens, heads * head_dim]`,
    /// the tokens of one span after those of another. Token `i` of a span stands at `p = first + i` and sees
    /// `0..=p`, of which a [window](AttentionShape::window) hides all but the last. A token's result depends neither on
    /// the tokens of its span, nor on other spans, nor on what is hidden from it.
    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// Rotates each row of `x` (`[tokens, cols]`) into `out`. The butterflies of a block go from neighbours to halves:
    /// results are the reference's, bit for bit. A component that is not finite makes its block of the row so.
    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// The causal convolution of each channel, with SiLU: token `t` of a sequence gets
    /// `out_t = silu(Σ_j weight_j * x_{t + j - (taps - 1)})`, where what stands before the span's first token is in its
    /// cache, and zero before the sequence. `x` and `out` are `[tokens, channels]`, `weight` is `[taps, channels]`. The
    /// rows of `x` that later tokens read are stored in the cache. A row's result depends neither on the tokens of its
    /// span nor on other spans.
    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// The gated delta rule over the state `S` of each value head, which is in the spans' caches and zero before the
    /// sequence. With queries and keys of length 1 (`x / sqrt(Σ x² + 1e-6)`), queries divided by `sqrt(key_dim)`, and
    /// `decay = exp(rate * softplus(step + step_bias))`, `share = sigmoid(write)`:
    ///
    /// ```text
    /// S_t   = decay_t * S_{t-1} + k_t ⊗ u_t,   u_t = share_t * (v_t - decay_t * S_{t-1}ᵀ k_t)
    /// out_t = S_tᵀ q_t
    /// ```
    ///
    /// A step or share that is not finite gives NaN. `out` is `[tokens, value_heads * value_dim]`. A row's result
    /// depends neither on the tokens of its span nor on other spans. The positions must have been given to
    /// [`Operations::causal_conv`] of the same layer in this pass.
    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// `gate = activation(gate) * up`, element by element.
    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()>;

    /// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`, element by element; NaN stays NaN.
    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()>;

    /// `out[t] = Σ_j weights[t * n + j] * x[t * n + j]` over `n` rows for each token: `x` is `[tokens * n, cols]`,
    /// `weights` has a number for each of its rows, `out` is `[tokens, cols]`. The sum is in f32, from zero on, in the
    /// order of the rows, each product rounded before it is added: results are the reference's, bit for bit.
    fn weighted_sum(&self, x: &BitNetTensor, weights: &[f32], out: &mut BitNetTensor)
    -> Result<()>;

    /// `x += y`, element by element.
    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()>;
}
