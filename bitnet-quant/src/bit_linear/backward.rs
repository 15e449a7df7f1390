//! Gradients through BitLinear: straight through both quantisers, exact through the norm.

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::tensor::{Reduction, matmul, reduce, rms_norm_backward};

use super::{BitLinear, OP, flattened, mismatch, with_last};
use crate::Result;
use crate::activations::absmax_int8;
use crate::weights::dequantize_row;

/// The gradients of a layer.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// With respect to the input, shaped like it.
    pub x: BitNetTensor,
    /// With respect to the latent weights, `[out, in]`.
    pub latent: BitNetTensor,
    /// With respect to the bias, `[out]`, if the layer has one.
    pub bias: Option<BitNetTensor>,
    /// With respect to the gain of the norm, `[in]`, if the layer has one.
    pub gain: Option<BitNetTensor>,
}

impl BitLinear {
    /// Returns the gradients at `x` (`[…, in]`) for `dy` (`[…, out]`), in `pool`, of the surrogate defined in the
    /// [module](super). Intermediate results of the forward pass are recomputed, with the same bits.
    ///
    /// # Errors
    /// [`crate::Error::Core`] for operands of the wrong shape, or if memory is exhausted.
    pub fn backward(
        &self,
        x: &BitNetTensor,
        dy: &BitNetTensor,
        pool: &HybridMemoryPool,
    ) -> Result<Gradients> {
        let (out, cols) = (self.prepared.rows(), self.prepared.cols());
        let expected = with_last(x.shape(), out);
        if dy.shape() != expected {
            return Err(mismatch(dy, "the gradient of the result", &expected).into());
        }
        let dy = flattened(dy, "the gradient of the result", out, pool)?;
        let quantized = fake_quantized(&self.normed(x, pool)?, pool)?;
        let latent = matmul(&dy.transpose(0, 1)?, &quantized, pool)?;
        drop(quantized);
        let rows = matmul(&dy, &self.dequantized(pool)?, pool)?;
        let bias = self.bias.as_ref().map(|_| reduce(Reduction::Sum, &dy, Some(&[0]), false, pool));
        let (rows, gain) = match &self.norm {
            None => (rows, None),
            Some(norm) => {
                let x = flattened(x, "x", cols, pool)?;
                let gradients = rms_norm_backward(&x, Some(&norm.gain), norm.eps, &rows, pool)?;
                (gradients.x, Some(gradients.weight))
            }
        };
        Ok(Gradients { x: rows.view(x.shape())?, latent, bias: bias.transpose()?, gain })
    }

    /// Returns the quantised weights as floats, `[out, in]`.
    fn dequantized(&self, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let (rows, cols) = (self.quantized.rows(), self.quantized.cols());
        let mut out = BitNetTensor::scratch(&[rows, cols], pool)?;
        for (row, values) in out.f32_mut()?.chunks_exact_mut(cols.max(1)).enumerate() {
            dequantize_row(&self.quantized, row, values);
        }
        Ok(out)
    }
}

/// Returns each row of `x` (`[tokens, in]`) after int8 quantisation: `q / s`.
fn fake_quantized(x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let (tokens, cols) = x.dims2(OP, "x")?;
    let mut out = BitNetTensor::scratch(&[tokens, cols], pool)?;
    let mut codes = vec![0i8; cols];
    let rows = x.f32()?.chunks_exact(cols.max(1));
    for (row, out) in rows.zip(out.f32_mut()?.chunks_exact_mut(cols.max(1))) {
        let scale = absmax_int8(row, &mut codes);
        for (out, &code) in out.iter_mut().zip(&codes) {
            *out = f32::from(code) / scale;
        }
    }
    Ok(out)
}
