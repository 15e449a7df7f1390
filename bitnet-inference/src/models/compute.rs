//! What layers compute with: operations of a back end, and its memory for their results.

use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;

use crate::Result;

/// What a layer computes with: operations, and memory for their results.
#[derive(Debug, Clone)]
pub(crate) struct Compute {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) pool: HybridMemoryPool,
}

impl Compute {
    /// Returns a tensor `[rows, cols]` for the result of an operation.
    pub(super) fn tensor(&self, rows: usize, cols: usize) -> Result<BitNetTensor> {
        Ok(self.backend.tensor(&[rows, cols], &self.pool)?)
    }

    /// Returns the RMS norm of `x`, in its shape.
    pub(super) fn norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
    ) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], x.shape()[1])?;
        self.backend.rms_norm(x, weight, eps, &mut out)?;
        Ok(out)
    }

    /// Returns `x · weightᵀ` of an ordinary matrix, `[tokens, rows]`.
    pub(super) fn dense(&self, x: &BitNetTensor, weight: &dyn DenseRows) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], weight.rows())?;
        self.backend.linear(x, weight, &mut out)?;
        Ok(out)
    }

    /// Returns the rows of `h` at `rows`: a view of neighbours, else a copy.
    pub(crate) fn rows(&self, h: &BitNetTensor, rows: &[usize]) -> Result<BitNetTensor> {
        let first = rows.first().copied().unwrap_or(0);
        if rows.iter().enumerate().all(|(index, &row)| row == first + index) {
            return Ok(h.narrow(0, first..first + rows.len())?);
        }
        let rows: Vec<_> = rows.iter().map(|&row| (h, row)).collect();
        Ok(self.backend.rows(&rows, &self.pool)?)
    }

    /// Returns hidden states `[1, hidden]` as one tensor `[states, hidden]`.
    pub(crate) fn stack(&self, states: &[&BitNetTensor]) -> Result<BitNetTensor> {
        if let [one] = states {
            return Ok((*one).clone());
        }
        let rows: Vec<_> = states.iter().map(|&h| (h, 0)).collect();
        Ok(self.backend.rows(&rows, &self.pool)?)
    }

    /// Returns a result of the back end in memory of the host.
    pub(super) fn to_host(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        Ok(self.backend.to_host(x, &self.pool)?)
    }
}
