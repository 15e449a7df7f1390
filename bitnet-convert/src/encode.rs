//! From a source's tensor to the bytes of the result, with what was lost on the way.

use std::sync::Arc;

use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{StoredLinear, StoredWeight, TernaryRows};
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::hf_packed;
use bitnet_quant::codec::mlx;
use bitnet_quant::loss::LossMeter;
use bitnet_quant::weights::{absmean_measured_in, detect_ternary_in};
use half::f16;
use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::digest::Digest;
use crate::options::ConvertOptions;
use crate::plan::{Plan, Recipe, Work, tensor_error};
use crate::tensors::{HeadRows, Kind, ModelTensor};
use crate::{Error, Result, Storage};

/// Bytes for a place in a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: usize,
    /// Where they go, counted from the tensor's first byte.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What the bytes must mean when they are read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The digest of every ternary weight.
    pub(crate) weights: Option<Digest>,
    /// What the stored numbers lost against the source's.
    pub(crate) lost: LossMeter,
}

/// One step's outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Encoded {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) proof: Proof,
}

/// Does the steps of a plan, in any order and from any thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder<'a> {
    pub(crate) files: &'a ModelFiles,
    pub(crate) options: &'a ConvertOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) pool: &'a HybridMemoryPool,
}

impl Encoder<'_> {
    /// Does one step.
    pub(crate) fn encode(&self, work: &Work) -> Result<Encoded> {
        let tensor = &work.tensor;
        match &work.recipe {
            Recipe::Vector { part, dense } => self.vector(tensor, *part, *dense),
            Recipe::Copy { part, bytes } => self.copy(tensor, *part, bytes.clone()),
            Recipe::Dense { part, dense, rows } => self.rows(tensor, *part, *dense, rows.clone()),
            Recipe::Ternary { part, storage, scale } => {
                let (matrix, mut lost) = self.trits(tensor)?;
                let name = &self.plan.parts[*part].name;
                let failed = |source| tensor_error(name, storage.name(), source);
                let (stored, mut pieces) = match scale {
                    Some(scale) => apart(matrix, *scale)?,
                    None => (matrix, Vec::new()),
                };
                let meant = if Storage::Ternary(*storage).has_f16_scales() {
                    rounded(&stored, &mut lost)?
                } else {
                    stored.clone()
                };
                let bytes = storage.encode(&stored).map_err(failed)?;
                pieces.push(Piece { part: *part, at: 0, bytes });
                let meant = match scale {
                    Some(_) => together(meant, &pieces[0].bytes)?,
                    None => meant,
                };
                let weights = Some(Digest::of_weights(&meant));
                Ok(Encoded { pieces, proof: Proof { weights, lost } })
            }
            Recipe::Affine { part, scales, biases, scale_type, group } => {
                let (matrix, lost) = self.trits(tensor)?;
                self.affine(matrix, lost, [*part, *scales, *biases], *scale_type, *group)
            }
            Recipe::Packed { part, scale, scale_type, multiply } => {
                self.packed(tensor, *part, *scale, (*scale_type, *multiply))
            }
        }
    }

    fn vector(&self, tensor: &ModelTensor, part: usize, dense: DenseType) -> Result<Encoded> {
        let stem = tensor.stem();
        let numbers =
            self.files.vector(&stem, tensor.cols)?.ok_or_else(|| self.files.missing(&stem))?;
        let mut lost = LossMeter::new();
        let bytes = self.encoded_rows(part, dense, 0..1, tensor.cols, &mut lost, |_, out| {
            out.copy_from_slice(&numbers);
            Ok(())
        })?;
        let pieces = vec![Piece { part, at: 0, bytes }];
        Ok(Encoded { pieces, proof: Proof { weights: None, lost } })
    }

    fn copy(
        &self,
        tensor: &ModelTensor,
        part: usize,
        bytes: std::ops::Range<usize>,
    ) -> Result<Encoded> {
        let stem = tensor.stem();
        let stored = self.files.stored_bytes(&stem)?.ok_or_else(|| self.files.missing(&stem))?;
        let at = bytes.start as u64;
        let region = stored.region.slice(bytes)?;
        let bytes = region.to_vec();
        region.release();
        let proof = Proof { weights: None, lost: LossMeter::new() };
        Ok(Encoded { pieces: vec![Piece { part, at, bytes }], proof })
    }

    /// Rows of ordinary numbers, in the order of the result.
    fn rows(
        &self,
        tensor: &ModelTensor,
        part: usize,
        dense: DenseType,
        rows: std::ops::Range<usize>,
    ) -> Result<Encoded> {
        let (source, factor) = self.source_rows(tensor)?;
        let moved = HeadRows::of(tensor, self.files.config(), self.plan.rope_order);
        let mut lost = LossMeter::new();
        let first = rows.start;
        let bytes = self.encoded_rows(part, dense, rows, tensor.cols, &mut lost, |row, out| {
            source.decode_row(moved.map_or(row, |moved| moved.source(row)), out)?;
            if factor != 1.0 {
                out.iter_mut().for_each(|number| *number *= factor);
            }
            Ok(())
        })?;
        source.release();
        let row_bytes = self.plan.parts[part].nbytes / tensor.rows as u64;
        let pieces = vec![Piece { part, at: first as u64 * row_bytes, bytes }];
        Ok(Encoded { pieces, proof: Proof { weights: None, lost } })
    }

    /// Encodes rows that `read` supplies, and compares what is stored with what was meant.
    fn encoded_rows(
        &self,
        part: usize,
        dense: DenseType,
        rows: std::ops::Range<usize>,
        cols: usize,
        lost: &mut LossMeter,
        mut read: impl FnMut(usize, &mut [f32]) -> bitnet_core::Result<()>,
    ) -> Result<Vec<u8>> {
        let name = &self.plan.parts[part].name;
        let failed = |source: bitnet_quant::Error| tensor_error(name, dense.name(), source);
        let size = dense.size(rows.len(), cols).map_err(failed)?;
        let mut bytes = Vec::with_capacity(size);
        let (mut numbers, mut stored) = (vec![0.0; cols], vec![0.0; cols]);
        for row in rows {
            read(row, &mut numbers)?;
            let start = bytes.len();
            dense::encode_row(dense, row, &numbers, &mut bytes).map_err(failed)?;
            let matrix = DenseMatrix::new(dense, 1, cols, &bytes[start..]).map_err(failed)?;
            matrix.decode_row(0, &mut stored)?;
            lost.push(&numbers, &stored).map_err(failed)?;
        }
        Ok(bytes)
    }

    /// A matrix as rows of numbers, and a factor on them.
    fn source_rows(&self, tensor: &ModelTensor) -> Result<(Arc<dyn DenseRows>, f32)> {
        let stem = tensor.stem();
        let missing = || Error::from(self.files.missing(&stem));
        if tensor.kind != Kind::Linear {
            let rows = self.files.dense(&stem, tensor.rows, tensor.cols, self.pool)?;
            return Ok((self.adapted(tensor, rows.ok_or_else(missing)?, None)?, 1.0));
        }
        let stored = self.files.linear(&stem, tensor.rows, tensor.cols, self.pool)?;
        let (rows, scale): (Arc<dyn DenseRows>, _) = match stored.ok_or_else(missing)?.weight {
            StoredWeight::Ternary(matrix) => (Arc::new(TernaryRows::new(matrix, "ternary")), None),
            StoredWeight::Dense { rows, scale, .. } => (rows, scale),
        };
        Ok((self.adapted(tensor, rows, scale)?, scale.unwrap_or(1.0)))
    }

    fn adapter_of(&self, tensor: &ModelTensor) -> Option<&Adapter> {
        self.plan.adapters.iter().map(|adapter| &**adapter).find(|adapter| adapter.adapts(tensor))
    }

    /// Rows with what every adapter adds; refused where the file keeps a factor on them apart.
    fn adapted(
        &self,
        tensor: &ModelTensor,
        rows: Arc<dyn DenseRows>,
        scale: Option<f32>,
    ) -> Result<Arc<dyn DenseRows>> {
        if let (Some(adapter), Some(_)) = (self.adapter_of(tensor), scale) {
            let problem =
                format!("it has a scale beside it, so that {} does not fit it", adapter.name());
            return Err(Error::refused(format!("tensor {}", tensor.stem()), problem));
        }
        let (config, adapters) = (self.files.config(), &self.plan.adapters);
        Ok(adapters.iter().fold(rows, |rows, adapter| adapter.merged(tensor, config, rows)))
    }

    /// The trits of a tensor, rows in the order of the result, and what making them lost.
    fn trits(&self, tensor: &ModelTensor) -> Result<(TernaryMatrix, LossMeter)> {
        let stem = tensor.stem();
        let stored = self
            .files
            .linear(&stem, tensor.rows, tensor.cols, self.pool)?
            .ok_or_else(|| self.files.missing(&stem))?;
        let name = stored.tensor.clone();
        let ternary = matches!(stored.weight, StoredWeight::Ternary(_));
        if ternary && let Some(adapter) = self.adapter_of(tensor) {
            let problem = format!(
                "it is ternary already, and with {} added it would not be; merge into the full-precision masters, or \
                 write it as f16 or f32",
                adapter.name()
            );
            return Err(Error::refused(format!("tensor {name}"), problem));
        }
        let weight = match stored.weight {
            StoredWeight::Dense { rows, scale, latent } => {
                let rows = self.adapted(tensor, rows, scale)?;
                StoredWeight::Dense { rows, latent: latent || self.options.quantize, scale }
            }
            weight @ StoredWeight::Ternary(_) => weight,
        };
        let stored = StoredLinear { weight, ..stored };
        let (matrix, lost) = engine_trits(stored, self.pool)?.map_err(|_| {
            let problem = "it holds ordinary numbers, where the first layer holds trits; --tensor gives it a type of \
                           its own";
            Error::refused(format!("tensor {name}"), problem)
        })?;
        match HeadRows::of(tensor, self.files.config(), self.plan.rope_order) {
            Some(moved) => Ok((in_order(&matrix, moved)?, lost)),
            None => Ok((matrix, lost)),
        }
    }

    fn affine(
        &self,
        matrix: TernaryMatrix,
        mut lost: LossMeter,
        parts: [usize; 3],
        scale_type: DenseType,
        group: usize,
    ) -> Result<Encoded> {
        let name = &self.plan.parts[parts[0]].name;
        let plain = scale_type.plain().unwrap_or(PlainType::F32);
        let meant = match plain {
            PlainType::F16 => rounded(&matrix, &mut lost)?,
            _ => matrix.clone(),
        };
        let stored = mlx::encode(&matrix, plain, group)
            .map_err(|source| tensor_error(name, mlx::FORMAT, source))?;
        let bytes = [stored.weight, stored.scales, stored.biases];
        let pieces = parts.into_iter().zip(bytes);
        let pieces = pieces.map(|(part, bytes)| Piece { part, at: 0, bytes }).collect();
        let weights = Some(Digest::of_weights(&meant));
        Ok(Encoded { pieces, proof: Proof { weights, lost } })
    }

    fn packed(
        &self,
        tensor: &ModelTensor,
        part: usize,
        scale_part: usize,
        form: (DenseType, bool),
    ) -> Result<Encoded> {
        let (scale_type, multiply) = form;
        let (matrix, mut lost) = self.trits(tensor)?;
        let name = &self.plan.parts[part].name;
        let failed = |source| tensor_error(name, "packed U8", source);
        let (bytes, scale) = hf_packed::encode(&matrix).map_err(failed)?;
        let (stored, read) = stored_scale(scale, scale_type, multiply).map_err(failed)?;
        let meant = if read == scale {
            matrix
        } else {
            let meant = with_scales(&matrix, |_| read)?;
            measure(&matrix, &meant, &mut lost)?;
            meant
        };
        let pieces =
            vec![Piece { part, at: 0, bytes }, Piece { part: scale_part, at: 0, bytes: stored }];
        let weights = Some(Digest::of_weights(&meant));
        Ok(Encoded { pieces, proof: Proof { weights, lost } })
    }
}

/// Ordinary numbers, and a factor on them that the file stores beside them.
pub(crate) type Ordinary = (Arc<dyn DenseRows>, Option<f32>);

/// A stored layer's trits as the engine makes them, and what making them lost; its numbers where it makes none of them.
pub(crate) fn engine_trits(
    stored: StoredLinear,
    pool: &HybridMemoryPool,
) -> Result<std::result::Result<(TernaryMatrix, LossMeter), Ordinary>> {
    let mut lost = LossMeter::new();
    let (rows, latent, scale) = match stored.weight {
        StoredWeight::Ternary(matrix) => return Ok(Ok((matrix, lost))),
        StoredWeight::Dense { rows, latent, scale } => (rows, latent, scale),
    };
    let failed = |source: bitnet_quant::Error| tensor_error(&stored.tensor, "trits", source);
    let matrix = match detect_ternary_in(&*rows, Some(pool)).map_err(failed)? {
        Some(matrix) => matrix,
        None if latent => {
            let made = absmean_measured_in(&*rows, ScaleGranularity::Tensor, Some(pool));
            let (matrix, measured) = made.map_err(failed)?;
            lost.merge(&measured);
            matrix
        }
        None => return Ok(Err((rows, scale))),
    };
    rows.release();
    let matrix = match scale {
        Some(scale) => matrix.scaled_in(scale, Some(pool))?,
        None => matrix,
    };
    Ok(Ok((matrix, lost)))
}

/// The bytes of a packed layer's scale, and the factor that a reader makes of them: the nearest that the type has.
fn stored_scale(
    scale: f32,
    scale_type: DenseType,
    multiply: bool,
) -> bitnet_quant::Result<(Vec<u8>, f32)> {
    let factor = |stored: f32| if multiply { stored } else { 1.0 / stored };
    let nearest = if multiply { scale } else { 1.0 / scale };
    let mut best: Option<(Vec<u8>, f32)> = None;
    for candidate in [nearest, nearest.next_down(), nearest.next_up()] {
        let mut bytes = Vec::new();
        dense::encode_row(scale_type, 0, &[candidate], &mut bytes)?;
        let mut read = [0.0];
        DenseMatrix::new(scale_type, 1, 1, &bytes)?.decode_row(0, &mut read)?;
        let read = factor(read[0]);
        if best.as_ref().is_none_or(|(_, other)| (read - scale).abs() < (other - scale).abs()) {
            best = Some((bytes, read));
        }
    }
    Ok(best.unwrap_or_default())
}

/// The same trits with other scales.
fn with_scales(
    matrix: &TernaryMatrix,
    change: impl Fn(f32) -> f32,
) -> bitnet_core::Result<TernaryMatrix> {
    let scales: Vec<f32> = matrix.scales().iter().map(|&scale| change(scale)).collect();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    TernaryMatrix::from_words(rows, cols, matrix.shared_words(), matrix.granularity(), scales)
}

/// The matrix that a type with scales of half precision holds, and what its rounding lost.
fn rounded(matrix: &TernaryMatrix, lost: &mut LossMeter) -> Result<TernaryMatrix> {
    let round = |scale: f32| f16::from_f32(scale).to_f32();
    if matrix.scales().iter().all(|&scale| round(scale) == scale) {
        return Ok(matrix.clone());
    }
    let rounded = with_scales(matrix, round)?;
    measure(matrix, &rounded, lost)?;
    Ok(rounded)
}

/// Adds what one matrix lost against another to the meter.
fn measure(before: &TernaryMatrix, after: &TernaryMatrix, lost: &mut LossMeter) -> Result<()> {
    let (mut original, mut stored) = (vec![0.0; before.cols()], vec![0.0; before.cols()]);
    for row in 0..before.rows() {
        bitnet_quant::weights::dequantize_row(before, row, &mut original);
        bitnet_quant::weights::dequantize_row(after, row, &mut stored);
        lost.push(&original, &stored)
            .map_err(|source| tensor_error("scales", "half precision", source))?;
    }
    Ok(())
}

/// Trits of scale 1, and the scale as a piece of its own.
fn apart(matrix: TernaryMatrix, part: usize) -> Result<(TernaryMatrix, Vec<Piece>)> {
    let &[scale] = matrix.scales() else {
        let problem = "it has more than one scale, and the architecture's scale tensors hold one; choose another --arch";
        return Err(Error::refused("a ternary tensor", problem));
    };
    let plain = with_scales(&matrix, |_| 1.0)?;
    Ok((plain, vec![Piece { part, at: 0, bytes: scale.to_le_bytes().to_vec() }]))
}

/// The inverse of [`apart`], from the scale's bytes.
fn together(plain: TernaryMatrix, scale: &[u8]) -> Result<TernaryMatrix> {
    let bytes = scale.try_into().unwrap_or_default();
    Ok(plain.scaled(f32::from_le_bytes(bytes))?)
}

/// The matrix with its rows in another order.
fn in_order(matrix: &TernaryMatrix, moved: HeadRows) -> bitnet_core::Result<TernaryMatrix> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut builder = TernaryBuilder::new(rows, cols)?;
    let per_row = match matrix.granularity() {
        ScaleGranularity::Tensor => 0,
        ScaleGranularity::Row => 1,
        ScaleGranularity::Group(n) => cols / n,
    };
    let mut scales = Vec::with_capacity(matrix.scales().len());
    for row in 0..rows {
        let source = moved.source(row);
        builder.push_words(&matrix.row_words(source)[..cols.div_ceil(16)])?;
        scales.extend_from_slice(&matrix.scales()[source * per_row..(source + 1) * per_row]);
    }
    if per_row == 0 {
        scales.extend_from_slice(matrix.scales());
    }
    builder.finish(matrix.granularity(), scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_stored_as_the_nearest_that_reads_back() {
        for scale in [1.22f32, 0.013_7, 3.0e-5, 700.1] {
            let (_, read) = stored_scale(scale, DenseType::F32, true).unwrap();
            assert_eq!(read, scale);
            let (bytes, read) = stored_scale(scale, DenseType::F32, false).unwrap();
            assert!((read / scale - 1.0).abs() <= f32::EPSILON, "{scale} {read}");
            let stored = f32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(1.0 / stored, read);
            let (bytes, read) = stored_scale(scale, DenseType::BF16, true).unwrap();
            assert_eq!(bytes.len(), 2);
            assert!((read / scale - 1.0).abs() <= 1.0 / 256.0);
        }
    }
}
