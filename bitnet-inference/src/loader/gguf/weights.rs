//! Tensors of a GGUF file by their own names and types.

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::gguf::{GgmlType, GgufFile, TensorInfo};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::{Storage, TernaryStorage};

use super::super::block_rows::BlockRows;
use super::super::{RawNumbers, RawTensor};
use super::GgufCheckpoint;
use crate::{InferenceError, Result};

/// Returns how a tensor of a GGUF type is stored; I2_S in the given layout.
pub fn storage_of(ggml_type: GgmlType, layout: I2sLayout) -> Option<Storage> {
    Storage::of_ggml(ggml_type.id(), layout, ggml_type.block().0)
}

/// Returns the GGUF type of a storage.
pub fn ggml_type_of(storage: Storage) -> Option<GgmlType> {
    let same = |ggml_type: &GgmlType| {
        let layout = match storage {
            Storage::Ternary(TernaryStorage::I2S(layout)) => layout,
            _ => I2sLayout::default(),
        };
        storage_of(*ggml_type, layout) == Some(storage)
    };
    GgmlType::all().find(same)
}

/// Returns the dense type of a GGUF type, if it is one.
pub(super) fn dense_type(ggml_type: GgmlType) -> Option<DenseType> {
    match storage_of(ggml_type, I2sLayout::default())? {
        Storage::Dense(dense) => Some(dense),
        Storage::Ternary(_) => None,
    }
}

/// Rows and columns of a tensor: the contiguous dimension, and all others together.
pub(super) fn rows_and_cols(tensor: &TensorInfo) -> (usize, usize) {
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

impl GgufCheckpoint {
    /// Returns a ternary matrix that is decoded row by row; `None` if its type, or a scale beside it, does not allow that.
    pub(super) fn block_rows(
        &self,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<Option<BlockRows>> {
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let has_scale = self.file.find(&format!("{stem}.scale")).is_some();
        let storage = storage_of(tensor.ggml_type, self.layout);
        let Some(Storage::Ternary(storage)) = storage.filter(|_| !has_scale) else {
            return Ok(None);
        };
        let (name, region) = (tensor.ggml_type.name(), self.file.data(tensor)?);
        BlockRows::open(storage, name, [rows, cols], region)
            .map_err(|e| InferenceError::weights(self.file.name(), &tensor.name, e))
    }

    /// Decodes what [`Self::decode_ternary`] decodes, without the scale beside the tensor.
    pub(super) fn decode_trits(
        &self,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<TernaryMatrix> {
        let region = self.file.data(tensor)?;
        let Some(Storage::Ternary(storage)) = storage_of(tensor.ggml_type, self.layout) else {
            let what = format!("tensor {} of type {}", tensor.name, tensor.ggml_type.name());
            let instead = "use a ternary type: I2_S, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, Q1_0, IQ1_BN, IQ2_BN, \
                           IQ2_BN_R4";
            return Err(InferenceError::unsupported(what, instead));
        };
        let matrix = storage.decode(&region, rows, cols, pool);
        let matrix =
            matrix.map_err(|e| InferenceError::weights(self.file.name(), &tensor.name, e))?;
        region.release();
        Ok(matrix)
    }
}
