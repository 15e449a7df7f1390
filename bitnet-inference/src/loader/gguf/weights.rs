//! Tensors of a GGUF file by their own names and types.

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::gguf::{GgmlType, GgufFile, TensorInfo};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::{i2_s, iq1_bn, iq2_bn, iq2_bn_r4, q2_0, tq1_0, tq2_0};

use super::super::{RawNumbers, RawTensor};
use super::GgufCheckpoint;
use crate::{InferenceError, Result};

/// The type of ordinary numbers, if it is one.
pub(super) fn dense_type(ggml_type: GgmlType) -> Option<DenseType> {
    match ggml_type {
        GgmlType::F32 => Some(DenseType::F32),
        GgmlType::F16 => Some(DenseType::F16),
        GgmlType::Bf16 => Some(DenseType::BF16),
        GgmlType::Q8_0 => Some(DenseType::Q8_0),
        GgmlType::Q6K => Some(DenseType::Q6_K),
        GgmlType::Q4_0 => Some(DenseType::Q4_0),
        _ => None,
    }
}

/// Rows and columns of a tensor: the contiguous dimension, and all others together.
fn rows_and_cols(tensor: &TensorInfo) -> (usize, usize) {
    let cols = tensor.dims.first().copied().unwrap_or(1);
    ((tensor.elements() / cols.max(1)) as usize, cols as usize)
}

/// Every tensor, in file order.
pub(super) fn raw_tensors(file: &GgufFile) -> Result<Vec<RawTensor>> {
    let raw = |tensor: &TensorInfo| {
        let (rows, cols) = rows_and_cols(tensor);
        let numbers = match dense_type(tensor.ggml_type) {
            _ if rows * cols == 0 => RawNumbers::Other,
            Some(dtype) => RawNumbers::Dense { dtype, rows, cols, region: file.data(tensor)? },
            None => RawNumbers::Ternary,
        };
        Ok(RawTensor { name: tensor.name.clone(), numbers })
    };
    file.tensors().iter().map(raw).collect()
}

/// The trits of a ternary tensor by its name in the file, without a scale that stands beside it.
pub(super) fn decode_raw(
    checkpoint: &GgufCheckpoint,
    name: &str,
    pool: &HybridMemoryPool,
) -> Result<TernaryMatrix> {
    let tensor = checkpoint.file.tensor(name)?;
    let (rows, cols) = rows_and_cols(tensor);
    checkpoint.decode_trits(tensor, rows, cols, Some(pool))
}

impl GgufCheckpoint {
    /// As [`Self::decode_ternary`], without the scale that stands beside the tensor.
    pub(super) fn decode_trits(
        &self,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<TernaryMatrix> {
        let region = self.file.data(tensor)?;
        let matrix = match tensor.ggml_type {
            GgmlType::I2S => i2_s::decode_in(&region, rows, cols, self.layout, pool),
            GgmlType::Tq1_0 => tq1_0::decode_in(&region, rows, cols, pool),
            GgmlType::Tq2_0 => tq2_0::decode_in(&region, rows, cols, pool),
            GgmlType::Q2_0G64 => q2_0::decode_in(&region, rows, cols, 64, pool),
            GgmlType::Q2_0G128 => q2_0::decode_in(&region, rows, cols, 128, pool),
            GgmlType::Iq1Bn => iq1_bn::decode_in(&region, rows, cols, pool),
            GgmlType::Iq2Bn => iq2_bn::decode_in(&region, rows, cols, pool),
            GgmlType::Iq2BnR4 => iq2_bn_r4::decode_in(&region, rows, cols, pool),
            other => {
                return Err(InferenceError::UnsupportedOperation {
                    what: format!("tensor {} of type {}", tensor.name, other.name()),
                    instead: "the ternary types are I2_S, TQ1_0, TQ2_0, Q2_0, IQ1_BN, IQ2_BN and IQ2_BN_R4".into(),
                });
            }
        };
        let matrix = matrix.map_err(|e| self.weights_error(tensor, e))?;
        region.release();
        Ok(matrix)
    }
}
