//! The closed, short list of operations that a back end offers.
//!
//! A model is written against [`Backend`] alone: it never asks on which device it runs, and quantisation is a
//! property of a weight. Every operation has its scalar twin in [`crate::reference`], which states the exact
//! arithmetic; integers must equal it bit for bit, floating-point results within the bound that the conformance
//! suite states.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::Result;
use crate::dense::DenseRows;
use crate::head::{Certainty, HeadStats, HeadTop, HeadWeight};
use crate::kv::{KvLayer, KvSpan};
use crate::memory::tensor::BitNetTensor;
use crate::memory::{HybridMemoryPool, PoolBuffer, Shared};
use crate::parts::Parts;
use crate::ternary::TernaryMatrix;

/// A ternary weight in the layout that a back end's kernels like. Made once, at load, by [`Backend::prepare`].
pub trait TernaryWeight: Debug + Send + Sync + Any {
    /// Output features.
    fn rows(&self) -> usize;

    /// Input features.
    fn cols(&self) -> usize;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// What [`Backend::prepare_from_parts`] makes the same weight from; empty if it can't be kept.
    fn parts(&self) -> Parts {
        Parts::default()
    }

    /// For the back end that made it.
    fn as_any(&self) -> &dyn Any;
}

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

/// The gated activation of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `max(x, 0)²`
    Relu2,
    /// The tanh form of GELU.
    GeluTanh,
}

impl std::fmt::Display for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silu => "SiLU",
            Self::Relu2 => "ReLU²",
            Self::GeluTanh => "GELU (tanh)",
        })
    }
}

/// Which components of a head RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeOrder {
    /// Components `j` and `j + d/2` ("NEOX", rotate-half).
    Halves,
    /// Components `2j` and `2j + 1` ("NORM", interleaved).
    Interleaved,
}

/// Cosines and sines of every position, `[positions, head_dim / 2]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Components rotated in each head; an even number.
    pub dim: usize,
    /// `cos(position * frequency_j)`.
    pub cos: Shared<f32>,
    /// `sin(position * frequency_j)`.
    pub sin: Shared<f32>,
}

impl RopeTable {
    /// The table for `positions` positions with the given inverse frequencies (`[dim / 2]`). Angles are computed
    /// in f32, as the reference implementations do.
    pub fn new(inverse_frequencies: &[f32], positions: usize) -> Self {
        let len = positions * inverse_frequencies.len();
        let (mut cos, mut sin) = (vec![0.0; len], vec![0.0; len]);
        Self::fill(inverse_frequencies, &mut cos, &mut sin);
        Self { dim: 2 * inverse_frequencies.len(), cos: cos.into(), sin: sin.into() }
    }

    /// As [`RopeTable::new`], with the numbers in `pool`.
    ///
    /// # Errors
    /// [`crate::Error::SizeOverflow`] or [`crate::Error::OutOfMemory`].
    pub fn in_pool(
        inverse_frequencies: &[f32],
        positions: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let len = positions.checked_mul(inverse_frequencies.len());
        let len = len.ok_or(crate::Error::SizeOverflow { what: "rotation table" })?;
        let (mut cos, mut sin) = (PoolBuffer::scratch(len, pool)?, PoolBuffer::scratch(len, pool)?);
        Self::fill(inverse_frequencies, &mut cos, &mut sin);
        let (cos, sin) = (Shared::new(cos), Shared::new(sin));
        Ok(Self { dim: 2 * inverse_frequencies.len(), cos, sin })
    }

    fn fill(inverse_frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
        let half = inverse_frequencies.len().max(1);
        let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
        for (position, (cos, sin)) in rows.enumerate() {
            for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(inverse_frequencies) {
                let angle = f64::from(position as f32 * frequency);
                (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
            }
        }
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        if self.dim == 0 { 0 } else { self.cos.len() / (self.dim / 2) }
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

/// What a back end has read and left unread since it was made, as it counted it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of ternary weights read.
    pub ternary_bytes: u64,
    /// Rows of up-projections in layers whose gate may be exactly zero, one token at a time.
    pub gated_rows: u64,
    /// Those of them that were left unread because the gate was zero.
    pub gated_rows_skipped: u64,
    /// Input columns of layers prepared for sparse inputs, one token at a time.
    pub sparse_columns: u64,
    /// Those of them that were left unread because the quantised input was zero.
    pub sparse_columns_skipped: u64,
    /// What was read to find the largest logits of prepared heads.
    pub head: HeadStats,
    /// Bytes of ordinary matrices read by [`Backend::linear`].
    pub dense_bytes: u64,
    /// Bytes of keys and values read by [`Backend::attention`], those of a span once.
    pub cache_bytes: u64,
}

impl Traffic {
    /// All bytes: weights, heads and caches. Activations are not counted.
    pub fn bytes(&self) -> u64 {
        self.ternary_bytes + self.head.bytes() + self.dense_bytes + self.cache_bytes
    }

    /// What `self` counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let after = u64::wrapping_sub;
        Self {
            ternary_bytes: after(self.ternary_bytes, earlier.ternary_bytes),
            gated_rows: after(self.gated_rows, earlier.gated_rows),
            gated_rows_skipped: after(self.gated_rows_skipped, earlier.gated_rows_skipped),
            sparse_columns: after(self.sparse_columns, earlier.sparse_columns),
            sparse_columns_skipped: after(
                self.sparse_columns_skipped,
                earlier.sparse_columns_skipped,
            ),
            head: self.head.since(earlier.head),
            dense_bytes: after(self.dense_bytes, earlier.dense_bytes),
            cache_bytes: after(self.cache_bytes, earlier.cache_bytes),
        }
    }
}

/// What computes. All tensors are contiguous; activations are f32.
///
/// # Errors
/// Every operation answers [`crate::Error::ShapeMismatch`] for operands that do not fit,
/// [`crate::Error::DTypeMismatch`] and [`crate::Error::NotContiguous`] for operands of another kind, and
/// [`crate::Error::NotWritable`] for an output that is shared.
pub trait Backend: Debug + Send + Sync {
    /// The name by which the back end is looked up.
    fn name(&self) -> &'static str;

    /// What runs here, in words: instruction set, threads.
    fn describe(&self) -> String;

    /// Threads that compute here, the caller's included. A loader takes as many to prepare weights.
    fn threads(&self) -> usize {
        1
    }

    /// The pool in which this back end holds what it prepares; `None` if it holds nothing but what it is given.
    fn pool(&self) -> Option<&HybridMemoryPool> {
        None
    }

    /// Takes a ternary matrix into the layout of this back end's kernels.
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>>;

    /// As [`Backend::prepare`], for a layer whose input holds many exact zeros: the back end may keep what it needs to
    /// leave the weights of zero inputs unread. Results are those of [`Backend::prepare`], bit for bit.
    fn prepare_for_sparse_input(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.prepare(matrix)
    }

    /// The name of the layout of [`TernaryWeight::parts`] here: another one whenever the parts of the same matrix would
    /// be others. `None` if weights of this back end are not to be kept.
    fn parts_layout(&self) -> Option<String> {
        None
    }

    /// The weight that [`TernaryWeight::parts`] was asked of. The parts may come from anywhere: they are checked.
    fn prepare_from_parts(&self, parts: &Parts) -> Result<Box<dyn TernaryWeight>> {
        let name = parts.iter().next().map_or("", |(name, _)| name).to_owned();
        Err(crate::Error::BadPart { part: name, problem: "is of no use to this back end".into() })
    }

    /// What was read so far, if the back end counts it.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// Rows `tokens` of `table` (`[vocabulary, hidden]`) into `out` (`[tokens, hidden]`).
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()>;

    /// `out[i] = x · weights[i]ᵀ` for ternary weights that share one input: `x` is `[tokens, cols]`, `out[i]` is
    /// `[tokens, rows_i]`. With [`ActivationPrecision::Int8`] and [`ActivationPrecision::Int8Within`] each token is
    /// quantised once for all weights, the dot product is exact in i32, and `out = dot / activation_scale * weight_scale`.
    /// A token that holds NaN or infinity gives NaN in every output, or with [`ActivationPrecision::Float`] what the sum of
    /// products gives.
    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()>;

    /// The integers of [`Backend::bit_linear`] for one weight, for verification.
    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers>;

    /// The first half of a gated feed-forward layer: `out = activation(x · gateᵀ) * (x · upᵀ)` for two ternary weights
    /// of the same shape, each product as [`Backend::bit_linear`] computes it. Where the activation is exactly zero
    /// the result may be a zero of either sign, whatever the other factor is: its row need not be read. `out` and
    /// `scratch` are `[tokens, rows]`; what is in `scratch` afterwards is not said.
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

    /// `out = x · weightᵀ (+ bias)` for an ordinary matrix: `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        bias: Option<&[f32]>,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// Prepares an output head for [`Backend::head_top`]; `None` if this back end finds its largest logits no faster than
    /// [`Backend::linear`] computes all of them.
    ///
    /// # Errors
    /// Those of reading the rows, and [`crate::Error::OutOfMemory`].
    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        certainty: Certainty,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        let _ = (rows, certainty);
        Ok(None)
    }

    /// The head of which [`HeadWeight::parts`] was asked, over the same stored rows. The layout of the parts goes with
    /// [`Backend::parts_layout`]. That lengths and numbers are possible is checked; that they belong to these rows is not.
    ///
    /// # Errors
    /// [`crate::Error::BadPart`].
    fn prepare_head_from_parts(
        &self,
        rows: Arc<dyn DenseRows>,
        certainty: Certainty,
        parts: &Parts,
    ) -> Result<Box<dyn HeadWeight>> {
        let _ = (rows, certainty);
        let name = parts.iter().next().map_or("", |(name, _)| name).to_owned();
        Err(crate::Error::BadPart { part: name, problem: "is of no use to this back end".into() })
    }

    /// The largest logits of one hidden state `x` (`[1, hidden]`): every finite one that is among the `count` first in
    /// the order of [`TokenLogit::order`](crate::head::TokenLogit::order) or equal to the last of these, and those of the tokens `also`,
    /// whatever they are. Each is bit for bit that of [`Backend::linear`] without bias. That none is missing is as
    /// sure as the [`Certainty`] for which the head was prepared.
    ///
    /// # Errors
    /// [`crate::Error::ForeignWeight`] for a head that this back end has not prepared, [`crate::Error::OutOfRange`] for
    /// a token that is not a row.
    fn head_top(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        count: usize,
        also: &[u32],
    ) -> Result<HeadTop> {
        let _ = (x, head, count, also);
        Err(crate::Error::ForeignWeight { op: "head_top", backend: self.name() })
    }

    /// `out = weight * (x / sqrt(mean(x²) + eps))` over runs of `weight.len()` components (a row, or a head), NaN
    /// throughout a run whose mean square is not finite in f32;
    /// `x` and `out` are `[tokens, n * weight.len()]`.
    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &[f32],
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

    /// Writes keys and values (`[tokens, kv_heads * head_dim]` each) to positions `first..first + tokens` of a cache.
    /// What is stored is the same on every back end, bit for bit.
    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvLayer,
        first: usize,
    ) -> Result<()>;

    /// Causal attention of several sequences, each over its own cache: `q` and `out` are `[tokens, heads * head_dim]`,
    /// the tokens of one span after those of another. Token `i` of a span stands at `first + i` and sees
    /// `0..=first + i`. A token's result depends neither on the tokens of its span nor on other spans.
    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()>;

    /// `gate = activation(gate) * up`, element by element.
    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()>;

    /// `x += y`, element by element.
    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()>;

    /// `x *= y`, element by element.
    fn mul(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()>;

    /// Softmax of each row of `x` (`[rows, n]`) in place.
    fn softmax(&self, x: &mut BitNetTensor) -> Result<()>;

    /// The elements of `x` (F16, BF16 or F32) as f32 in `out`, of the same shape.
    fn cast(&self, x: &BitNetTensor, out: &mut BitNetTensor) -> Result<()>;

    /// Rows of `x` (`[n, width]`) into rows `first..first + n` of `out` (`[capacity, width]`).
    fn copy(&self, x: &BitNetTensor, out: &mut BitNetTensor, first: usize) -> Result<()>;
}
