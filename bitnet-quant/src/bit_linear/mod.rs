//! BitLinear: a linear layer with latent float weights and quantised computation, on any back end.
//!
//! ```text
//! n   = RMSNorm(x)                                          if the layer has a norm, else x
//! nq  = clamp(rne(n · s), -128, 127) / s                    s = 127 / max(max|n|, 1e-5), one per token
//! wq  = clamp(rne(W / m), -1, 1) · m                        with the rule Absmean (b1.58):  m = max(mean|W|, 1e-5)
//! wq  = m if W > mean(W), else -m                           with the rule Sign (1 bit):     m = mean|W|
//! y   = nq · wqᵀ + bias                                     the products of integers are exact
//! ```
//!
//! Weights are `[out, in]`, like PyTorch's linear layers and checkpoints; [`BitLinear::from_input_major`] takes
//! `[in, out]`, the right operand of `x · w`.
//!
//! Gradients are straight-through: they are those of the surrogate `y = (n + (nq - n)°) · (W + (wq - W)°)ᵀ + bias`,
//! where `(…)°` is constant (detached). So `dn = dy · wq`, `dW = dyᵀ · nq`, `dbias = Σ dy`, and the norm has its exact
//! gradient. Rounding, clamping, sign and scales have no gradient.
//!
//! Sources: arXiv 2310.11453 (1 bit; inputs are quantised to 127 levels on each side, as in 2402.17764, not to 128 less
//! epsilon, and the norm is RMSNorm) and arXiv 2402.17764 (b1.58).

mod backward;

use std::sync::Arc;

use bitnet_core::Error as CoreError;
use bitnet_core::backend::{ActivationPrecision, Backend, TernaryWeight};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::TernaryMatrix;

use crate::Result;
use crate::quantizer::{Quantizer, Settings};
pub use backward::Gradients;

const OP: &str = "BitLinear";

/// A linear layer with latent weights.
///
/// ```
/// use std::sync::Arc;
///
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::reference::ReferenceBackend;
/// use bitnet_quant::bit_linear::BitLinear;
/// use bitnet_quant::quantizer::Absmean;
///
/// let pool = HybridMemoryPool::new()?;
/// let latent = BitNetTensor::from_f32(&[2, 3], &[0.9, -1.1, 0.1, 0.0, 1.2, 0.7], &pool)?; // [out, in]
/// let layer = BitLinear::new(latent, Arc::new(Absmean), Arc::new(ReferenceBackend))?;
/// assert_eq!(layer.quantized().to_trits(), [1, -1, 0, 0, 1, 1]);
/// let x = BitNetTensor::from_f32(&[1, 3], &[127.0, 0.0, 1.0], &pool)?;
/// let y = layer.forward(&x, &pool)?;
/// let scale = layer.quantized().scales()[0];
/// assert_eq!(y.f32()?, [127.0 * scale, scale]);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug)]
pub struct BitLinear {
    backend: Arc<dyn Backend>,
    rule: Arc<dyn Quantizer>,
    latent: BitNetTensor,
    quantized: TernaryMatrix,
    prepared: Box<dyn TernaryWeight>,
    bias: Option<BitNetTensor>,
    norm: Option<InputNorm>,
}

/// RMS norm of the input: `gain * n / sqrt(mean(n²) + eps)`.
#[derive(Debug, Clone)]
struct InputNorm {
    gain: BitNetTensor,
    eps: f32,
}

impl BitLinear {
    /// Creates a layer with latent weights `[out, in]` (f32, contiguous), which `rule` quantises with one scale.
    ///
    /// # Errors
    /// [`crate::Error::Core`] for another kind of tensor; errors of [`Quantizer::quantize`].
    pub fn new(
        latent: BitNetTensor,
        rule: Arc<dyn Quantizer>,
        backend: Arc<dyn Backend>,
    ) -> Result<Self> {
        let quantized = quantize(&latent, &*rule, backend.pool())?;
        let prepared = backend.prepare(quantized.clone())?;
        Ok(Self { backend, rule, latent, quantized, prepared, bias: None, norm: None })
    }

    /// Creates a layer with latent weights `[in, out]`, the right operand of `x · w`. They are transposed in `pool`.
    ///
    /// # Errors
    /// Same as [`BitLinear::new`].
    pub fn from_input_major(
        latent: &BitNetTensor,
        rule: Arc<dyn Quantizer>,
        backend: Arc<dyn Backend>,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        latent.dims2(OP, "the latent weights")?;
        Self::new(latent.transpose(0, 1)?.to_contiguous(pool)?, rule, backend)
    }

    /// Adds `bias` (`[out]`) to the result.
    ///
    /// # Errors
    /// [`crate::Error::Core`] if it is not `[out]` of f32.
    pub fn with_bias(mut self, bias: BitNetTensor) -> Result<Self> {
        expect_vector(&bias, "the bias", self.prepared.rows())?;
        self.bias = Some(bias);
        Ok(self)
    }

    /// Applies an RMS norm to the input before quantisation; `gain` is `[in]`.
    ///
    /// # Errors
    /// [`crate::Error::Core`] if the gain is not `[in]` of f32.
    pub fn with_input_norm(mut self, gain: BitNetTensor, eps: f32) -> Result<Self> {
        expect_vector(&gain, "the gain of the norm", self.prepared.cols())?;
        self.norm = Some(InputNorm { gain, eps });
        Ok(self)
    }

    /// Returns the latent weights, `[out, in]`.
    pub fn latent(&self) -> &BitNetTensor {
        &self.latent
    }

    /// Returns the quantised weights, `[out, in]`.
    pub fn quantized(&self) -> &TernaryMatrix {
        &self.quantized
    }

    /// Replaces the latent weights by others of the same shape, such as after a training step, and quantises them.
    ///
    /// # Errors
    /// [`crate::Error::Core`] for another shape; errors of [`BitLinear::new`]. The layer is unchanged on error.
    pub fn set_latent(&mut self, latent: BitNetTensor) -> Result<()> {
        if latent.shape() != self.latent.shape() {
            return Err(mismatch(&latent, "the latent weights", self.latent.shape()).into());
        }
        let quantized = quantize(&latent, &*self.rule, self.backend.pool())?;
        self.prepared = self.backend.prepare(quantized.clone())?;
        (self.latent, self.quantized) = (latent, quantized);
        Ok(())
    }

    /// Returns `y` (`[…, out]`) of `x` (`[…, in]`, f32), in `pool`. Each row is a token; its result does not depend on
    /// the other rows.
    ///
    /// # Errors
    /// [`crate::Error::Core`] for operands that do not fit, or if memory is short.
    pub fn forward(&self, x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let rows = self.normed(x, pool)?;
        let (tokens, _) = rows.dims2(OP, "x")?;
        let out = self.prepared.rows();
        let mut y = BitNetTensor::scratch(&[tokens, out], pool)?;
        self.backend.bit_linear(
            &rows,
            ActivationPrecision::Int8,
            &[&*self.prepared],
            &mut [&mut y],
        )?;
        if let Some(bias) = &self.bias {
            let bias = bias.f32()?;
            for row in y.f32_mut()?.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        Ok(y.view(&with_last(x.shape(), out))?)
    }

    /// Returns the rows of `x` before quantisation, after the norm, `[tokens, in]`.
    fn normed(&self, x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let rows = flattened(x, "x", self.prepared.cols(), pool)?;
        let Some(norm) = &self.norm else { return Ok(rows) };
        let mut out = BitNetTensor::scratch(rows.shape(), pool)?;
        self.backend.rms_norm(&rows, &norm.gain, norm.eps, &mut out)?;
        Ok(out)
    }
}

fn quantize(
    latent: &BitNetTensor,
    rule: &dyn Quantizer,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    rule.quantize(&Rows::new(latent)?, &Settings { pool, ..Settings::default() })
}

/// Returns `x` (`[…, width]`) as `[tokens, width]`, contiguous.
fn flattened(
    x: &BitNetTensor,
    operand: &'static str,
    width: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let shape = x.shape();
    if shape.last() != Some(&width) {
        return Err(mismatch(x, operand, &with_last(shape, width)).into());
    }
    let tokens = shape[..shape.len() - 1].iter().product();
    Ok(x.reshape(&[tokens, width], pool)?.to_contiguous(pool)?)
}

/// Returns a shape with another last dimension.
fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let lead = shape.split_last().map_or(&[][..], |(_, lead)| lead);
    [lead, &[last]].concat()
}

fn expect_vector(tensor: &BitNetTensor, operand: &'static str, len: usize) -> Result<()> {
    if tensor.shape() != [len] {
        return Err(mismatch(tensor, operand, &[len]).into());
    }
    tensor.f32()?;
    Ok(())
}

fn mismatch(tensor: &BitNetTensor, operand: &'static str, expected: &[usize]) -> CoreError {
    let got = tensor.shape().to_vec();
    CoreError::ShapeMismatch { op: OP, operand, got, expected: format!("{expected:?}") }
}

/// The rows of a matrix in memory.
#[derive(Debug)]
struct Rows<'t> {
    rows: usize,
    cols: usize,
    values: &'t [f32],
    bytes: &'t [u8],
}

impl<'t> Rows<'t> {
    fn new(tensor: &'t BitNetTensor) -> Result<Self> {
        let (rows, cols) = tensor.dims2(OP, "the latent weights")?;
        Ok(Self { rows, cols, values: tensor.f32()?, bytes: tensor.bytes()? })
    }
}

impl DenseRows for Rows<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn type_name(&self) -> &'static str {
        "F32"
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
        let len = self.rows;
        let start = row.checked_mul(self.cols);
        let values = start.and_then(|start| self.values.get(start..start.checked_add(self.cols)?));
        let values = values.ok_or(CoreError::OutOfRange { op: OP, index: row, len })?;
        if out.len() != self.cols {
            let expected = format!("[{}]", self.cols);
            return Err(CoreError::ShapeMismatch {
                op: OP,
                operand: "row",
                got: vec![out.len()],
                expected,
            });
        }
        out.copy_from_slice(values);
        Ok(())
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        cfg!(target_endian = "little").then_some((PlainType::F32, self.bytes))
    }
}
