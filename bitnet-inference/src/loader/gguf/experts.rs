//! Stacks of matrices: the projections of all experts of a layer in one tensor, `[experts, rows, cols]`.

use std::sync::Arc;

use bitnet_core::memory::HybridMemoryPool;
use bitnet_quant::codec::Storage;

use super::super::mapped_rows::MappedRows;
use super::super::{StoredLinear, StoredWeight};
use super::{GgufCheckpoint, storage_of};
use crate::{InferenceError, Result};

impl GgufCheckpoint {
    /// Returns matrix `index` of a stack, `[rows, cols]`, decoded from its own part of the file.
    pub(super) fn one_of_stack(
        &self,
        name: &str,
        index: usize,
        [rows, cols]: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        let count = self.config.mixture.as_ref().map_or(1, |mixture| mixture.experts);
        self.expect(tensor, &self.dims(name, [count * rows, cols]))?;
        let whole = self.file.data(tensor)?;
        let unsupported = || {
            let what = format!("tensor {} of type {}", tensor.name, tensor.ggml_type.name());
            let instead = "experts are read from types whose blocks lie within a row: TQ1_0, TQ2_0, Q2_0, PQ2_0, \
                           PTQ1_0, Q1_0, IQ1_BN, IQ2_BN, and dense types";
            InferenceError::unsupported(what, instead)
        };
        let of_codec = |e| InferenceError::weights(self.file.name(), &tensor.name, e);
        let storage = storage_of(tensor.ggml_type, self.layout).ok_or_else(unsupported)?;
        if matches!(storage, Storage::Ternary(ternary) if !ternary.is_by_rows())
            || !whole.len().is_multiple_of(count)
        {
            return Err(unsupported());
        }
        let bytes = whole.len() / count;
        let region = whole.slice(index * bytes..(index + 1) * bytes)?;
        let weight = match storage {
            Storage::Ternary(ternary) => {
                let decoded = ternary.decode(&region, rows, cols, Some(pool));
                let matrix = decoded.map_err(of_codec)?;
                region.release();
                StoredWeight::Ternary(matrix)
            }
            Storage::Dense(dense) => {
                let latent = self.config.architecture.table().native_ternary;
                let rows = MappedRows::new(dense, rows, cols, region).map_err(of_codec)?;
                StoredWeight::Dense { rows: Arc::new(rows), latent, scale: None }
            }
        };
        let precision = self.input_precision(tensor.ggml_type);
        Ok(Some(StoredLinear { tensor: tensor.name.clone(), weight, precision }))
    }
}
