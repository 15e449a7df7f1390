//! Mixed precision: selection of a storage type per dense tensor within a budget.

use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{StoredWeight, in_parallel};
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::loss::LossMeter;
use bitnet_quant::mixed::{self, Candidate, TensorChoice};

use crate::choose::Chooser;
use crate::options::{Budget, ConvertOptions, Target};
use crate::tensors::{self, Kind, ModelTensor};
use crate::{Error, Result, Storage};

/// The number of sampled rows for measuring the error of a tensor.
const SAMPLED_ROWS: usize = 256;

/// Candidate types of a dense tensor, besides its own.
const SMALLER: [DenseType; 3] = [DenseType::Q8_0, DenseType::Q6_K, DenseType::Q4_0];

/// Returns a storage type for each matrix within the budget, by name without `.weight`.
///
/// A tensor's error is its noise-to-signal ratio times its number of weights, measured on sampled rows.
pub(crate) fn within(
    budget: Budget,
    files: &ModelFiles,
    options: &ConvertOptions,
    target: Target,
    threads: usize,
) -> Result<Vec<(String, Storage)>> {
    if target != Target::Gguf {
        let problem = "small types need a GGUF file; choose a .gguf name for the result";
        return Err(Error::refused("a budget", problem));
    }
    let all = tensors::of(files)?;
    let chooser = Chooser::new(files, options, target, &all)?;
    let matrices: Vec<&ModelTensor> =
        all.iter().filter(|tensor| !matches!(tensor.kind, Kind::Vector | Kind::Plain)).collect();
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let choice = |index: usize| {
        options.check_stop()?;
        choice(files, &chooser, matrices[index], &pool)
    };
    let choices = in_parallel(matrices.len(), threads, choice, &mut |_, _| {})?;
    let weights: f64 = matrices.iter().map(|tensor| (tensor.rows * tensor.cols) as f64).sum();
    let limit = match budget {
        Budget::Bytes(bytes) => mixed::Budget::Bytes(bytes),
        Budget::Decibels(decibels) => mixed::Budget::Error(weights * 10f64.powf(-decibels / 10.0)),
    };
    let plan = mixed::plan(&choices, limit)
        .map_err(|source| Error::refused("the budget", source.to_string()))?;
    plan.tensors.into_iter().map(|(name, selected)| Ok((name, selected.storage.parse()?))).collect()
}

/// Returns the candidate storage types of a tensor: its default, and smaller ones if the default is dense.
fn choice(
    files: &ModelFiles,
    chooser: &Chooser<'_>,
    tensor: &ModelTensor,
    pool: &HybridMemoryPool,
) -> Result<TensorChoice> {
    let stem = tensor.stem();
    let stored = files.stored_bytes(&stem)?.ok_or_else(|| files.missing(&stem))?;
    let own = chooser.storage(tensor, &stored)?;
    let size = |storage: Storage| storage.size(tensor.rows, tensor.cols);
    let failed = |source| Error::tensor(&stored.tensor, own.name(), source);
    let own_bytes = size(own).map_err(failed)? as u64;
    let first = Candidate { storage: own.name().to_owned(), bytes: own_bytes, error: 0.0 };
    let mut candidates = vec![first];
    if let Storage::Dense(_) = own {
        let rows = ordinary_rows(files, tensor, pool)?;
        for dense in SMALLER {
            let storage = Storage::Dense(dense);
            let Ok(bytes) = size(storage) else { continue };
            if (bytes as u64) < own_bytes {
                let noise = noise(&*rows, dense)
                    .map_err(|source| Error::tensor(&stored.tensor, dense.name(), source))?;
                let error = noise * (tensor.rows * tensor.cols) as f64;
                let storage = storage.name().to_owned();
                candidates.push(Candidate { storage, bytes: bytes as u64, error });
            }
        }
        rows.release();
    }
    Ok(TensorChoice { name: stem, candidates })
}

fn ordinary_rows(
    files: &ModelFiles,
    tensor: &ModelTensor,
    pool: &HybridMemoryPool,
) -> Result<Arc<dyn DenseRows>> {
    let (stem, rows, cols) = (tensor.stem(), tensor.rows, tensor.cols);
    if tensor.kind == Kind::Linear
        && let Some(stored) = files.linear(&stem, rows, cols, pool)?
    {
        return match stored.weight {
            StoredWeight::Dense { rows, .. } => Ok(rows),
            StoredWeight::Ternary(matrix) => {
                Ok(Arc::new(bitnet_inference::loader::TernaryRows::new(matrix, "ternary")))
            }
        };
    }
    Ok(files.dense(&stem, rows, cols, pool)?.ok_or_else(|| files.missing(&stem))?)
}

/// Returns the noise-to-signal ratio in sampled rows of the matrix.
fn noise(rows: &dyn DenseRows, dense: DenseType) -> bitnet_quant::Result<f64> {
    let (count, cols) = (rows.rows(), rows.cols());
    let (mut numbers, mut stored) = (vec![0.0; cols], vec![0.0; cols]);
    let (mut bytes, mut meter) = (Vec::new(), LossMeter::new());
    for row in (0..count).step_by(count.div_ceil(SAMPLED_ROWS)) {
        rows.decode_row(row, &mut numbers)?;
        bytes.clear();
        dense::encode_row(dense, row, &numbers, &mut bytes)?;
        DenseMatrix::new(dense, 1, cols, &bytes)?.decode_row(0, &mut stored)?;
        meter.push(&numbers, &stored)?;
    }
    let loss = meter.loss();
    Ok(if loss.mse == 0.0 { 0.0 } else { 10f64.powf(-loss.sqnr_db / 10.0) })
}
