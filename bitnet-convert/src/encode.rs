//! Encoding of source tensors to the bytes of the result, with their quantisation error.

use std::sync::Arc;

use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{StoredLinear, StoredWeight, TernaryRows};
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::hf_packed;
use bitnet_quant::codec::mlx;
use bitnet_quant::loss::LossMeter;
use bitnet_quant::weights::{absmean, absmean_measured, dequantize_row, detect_ternary};
use half::f16;
use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::digest::Digest;
use crate::options::ConvertOptions;
use crate::order::{Order, Orders};
use crate::plan::{Plan, Recipe, Work};
use crate::tensors::{Kind, ModelTensor};
use crate::{Error, Result, Storage};

/// Bytes at an offset of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: usize,
    /// Their offset in the tensor.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The expected result of reading the bytes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// The digest of every ternary weight.
    pub(crate) weights: Option<Digest>,
    /// The error of the stored numbers.
    pub(crate) lost: LossMeter,
}

/// The result of one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Encoded {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) proof: Proof,
}

/// Executes the steps of a plan, in any order and from any thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder<'a> {
    pub(crate) files: &'a ModelFiles,
    pub(crate) options: &'a ConvertOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) pool: &'a HybridMemoryPool,
}

impl Encoder<'_> {
    /// Executes one step.
    pub(crate) fn encode(&self, work: &Work) -> Result<Encoded> {
        let tensor = &work.tensor;
        match &work.recipe {
            Recipe::Vector { part, dense } => self.vector(tensor, *part, *dense),
            Recipe::Copy { part, bytes } => self.copy(tensor, *part, bytes.clone()),
            Recipe::Dense { part, dense, rows } => self.rows(tensor, *part, *dense, rows.clone()),
            Recipe::Ternary { part, storage, scale } => {
                // A scale in a separate tensor is stored exactly.
                let halves = scale.is_none() && Storage::Ternary(*storage).has_f16_scales();
                let rounding: ScaleRounding<'_> = if halves { &to_half } else { &|scale| scale };
                let stored = self.stored(tensor)?;
                let holds_doubled = storage.has_doubled_weights() && scale.is_none();
                let (matrix, lost) = self.trits(tensor, stored, rounding, holds_doubled)?;
                let name = &self.plan.parts[*part].name;
                let failed = |source| Error::tensor(name, storage.name(), source);
                let (stored, mut pieces) = match scale {
                    Some(scale) => apart(matrix, *scale)?,
                    None => (matrix, Vec::new()),
                };
                let bytes = storage.encode(&stored).map_err(failed)?;
                pieces.push(Piece { part: *part, at: 0, bytes });
                let meant = match scale {
                    Some(_) => together(stored, &pieces[0].bytes)?,
                    None => stored,
                };
                let weights = Some(Digest::of_weights(&meant));
                Ok(Encoded { pieces, proof: Proof { weights, lost } })
            }
            Recipe::Affine { part, scales, biases, signs, scale_type, group } => {
                let parts = [*part, *scales, *biases];
                let mut encoded = self.affine(tensor, parts, *scale_type, *group)?;
                encoded.pieces.extend(signs.and_then(|part| self.signs(tensor, part)));
                Ok(encoded)
            }
            Recipe::Packed { part, scale, scale_type, multiply } => {
                self.packed(tensor, *part, *scale, (*scale_type, *multiply))
            }
        }
    }

    /// Returns where the components of a tensor of the result are in the source.
    pub(crate) fn order(&self, tensor: &ModelTensor) -> Option<Order> {
        let config = self.files.config();
        Order::of(tensor, config, Orders::of_model(config), self.plan.orders)
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

    /// Returns the rows of dense tensors, in the order of the result.
    fn rows(
        &self,
        tensor: &ModelTensor,
        part: usize,
        dense: DenseType,
        rows: std::ops::Range<usize>,
    ) -> Result<Encoded> {
        let (source, factor) = self.source_rows(tensor)?;
        let order = self.order(tensor);
        let mut lost = LossMeter::new();
        let (first, mut free) = (rows.start, vec![0.0; tensor.cols]);
        let bytes = self.encoded_rows(part, dense, rows, tensor.cols, &mut lost, |row, out| {
            source.decode_row(order.map_or(row, |order| order.source_row(row)), out)?;
            if let Some(order) = order {
                order.move_cols(out, &mut free);
            }
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

    /// Encodes the rows of `read` and measures the error of the stored values.
    pub(crate) fn encoded_rows(
        &self,
        part: usize,
        dense: DenseType,
        rows: std::ops::Range<usize>,
        cols: usize,
        lost: &mut LossMeter,
        mut read: impl FnMut(usize, &mut [f32]) -> bitnet_core::Result<()>,
    ) -> Result<Vec<u8>> {
        let name = &self.plan.parts[part].name;
        let failed = |source: bitnet_quant::Error| Error::tensor(name, dense.name(), source);
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

    /// Returns a matrix as rows of numbers and their factor.
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

    /// Returns the rows plus all adapters' contributions; rejected if the file stores a separate factor.
    fn adapted(
        &self,
        tensor: &ModelTensor,
        rows: Arc<dyn DenseRows>,
        scale: Option<f32>,
    ) -> Result<Arc<dyn DenseRows>> {
        if let (Some(adapter), Some(_)) = (self.adapter_of(tensor), scale) {
            let problem =
                format!("it has a separate scale, which {} does not support", adapter.name());
            let name = self.files.stored_names(&tensor.stem()).swap_remove(0);
            return Err(Error::refused(format!("tensor {name}"), problem));
        }
        let (config, adapters) = (self.files.config(), &self.plan.adapters);
        Ok(adapters.iter().fold(rows, |rows, adapter| adapter.merged(tensor, config, rows)))
    }

    /// Returns a layer as the source stores it.
    fn stored(&self, tensor: &ModelTensor) -> Result<StoredLinear> {
        let stem = tensor.stem();
        let stored = self.files.linear(&stem, tensor.rows, tensor.cols, self.pool)?;
        stored.ok_or_else(|| self.files.missing(&stem).into())
    }

    /// Returns the trits of a tensor with their stored scales, rows in the order of the result, and the error. Weights of
    /// +2 are refused unless the result holds them.
    fn trits(
        &self,
        tensor: &ModelTensor,
        stored: StoredLinear,
        rounding: ScaleRounding<'_>,
        holds_doubled: bool,
    ) -> Result<(TernaryMatrix, LossMeter)> {
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
        let (matrix, lost) = engine_trits(stored, rounding, self.pool)?.map_err(|_| {
            let problem = "it holds ordinary numbers, where the first layer holds trits; --tensor gives it a type of \
                           its own";
            Error::refused(format!("tensor {name}"), problem)
        })?;
        if matrix.doubled() > 0 && !holds_doubled {
            let problem = "it has weights of +2 (code 3), which the type does not hold: write q2_0 or pq2_0 (--type), \
                           an MLX folder, or ordinary numbers (--type f16 --embedding-type f16 --head-type f16)";
            return Err(Error::refused(format!("tensor {name}"), problem));
        }
        match self.order(tensor) {
            Some(order) => Ok((order.apply(&tensor.stem(), &matrix)?, lost)),
            None => Ok((matrix, lost)),
        }
    }

    fn affine(
        &self,
        tensor: &ModelTensor,
        parts: [usize; 3],
        scale_type: DenseType,
        group: usize,
    ) -> Result<Encoded> {
        let name = &self.plan.parts[parts[0]].name;
        let plain = scale_type.plain().unwrap_or(PlainType::F32);
        let rounding: ScaleRounding<'_> = match plain {
            PlainType::F16 => &to_half,
            _ => &|scale| scale,
        };
        let (matrix, lost) = self.trits(tensor, self.stored(tensor)?, rounding, true)?;
        let stored = mlx::encode(&matrix, plain, group)
            .map_err(|source| Error::tensor(name, mlx::FORMAT, source))?;
        let bytes = [stored.weight, stored.scales, stored.biases];
        let pieces = parts.into_iter().zip(bytes);
        let pieces = pieces.map(|(part, bytes)| Piece { part, at: 0, bytes }).collect();
        let weights = Some(Digest::of_weights(&matrix));
        Ok(Encoded { pieces, proof: Proof { weights, lost } })
    }

    /// The signs of a rotated weight's inputs.
    pub(crate) fn signs(&self, tensor: &ModelTensor, part: usize) -> Option<Piece> {
        let rotation = self.files.config().rotations.as_ref()?.of(tensor.name)?;
        let bytes = rotation.signs().iter().flat_map(|sign| sign.to_le_bytes()).collect();
        Some(Piece { part, at: 0, bytes })
    }

    fn packed(
        &self,
        tensor: &ModelTensor,
        part: usize,
        scale_part: usize,
        form: (DenseType, bool),
    ) -> Result<Encoded> {
        let (scale_type, multiply) = form;
        let rounding =
            |scale: f32| stored_scale(scale, scale_type, multiply).map_or(scale, |(_, read)| read);
        let (matrix, lost) = self.trits(tensor, self.stored(tensor)?, &rounding, false)?;
        let name = &self.plan.parts[part].name;
        let failed = |source| Error::tensor(name, "packed U8", source);
        let (bytes, scale) = hf_packed::encode(&matrix).map_err(failed)?;
        let (stored, _) = stored_scale(scale, scale_type, multiply).map_err(failed)?;
        let pieces =
            vec![Piece { part, at: 0, bytes }, Piece { part: scale_part, at: 0, bytes: stored }];
        let weights = Some(Digest::of_weights(&matrix));
        Ok(Encoded { pieces, proof: Proof { weights, lost } })
    }
}

/// The rounding of scales of a storage type.
pub(crate) type ScaleRounding<'a> = &'a (dyn Fn(f32) -> f32 + Sync);

/// Dense numbers and their separate factor.
pub(crate) type Ordinary = (Arc<dyn DenseRows>, Option<f32>);

/// Returns a stored layer's trits as in the engine, with the stored scales and the error; or its numbers if the engine
/// leaves the layer dense.
pub(crate) fn engine_trits(
    stored: StoredLinear,
    rounding: ScaleRounding<'_>,
    pool: &HybridMemoryPool,
) -> Result<std::result::Result<(TernaryMatrix, LossMeter), Ordinary>> {
    let (rows, latent, factor) = match stored.weight {
        StoredWeight::Ternary(matrix) => return Ok(Ok(with_rounded_scales(matrix, rounding)?)),
        StoredWeight::Dense { rows, latent, scale } => (rows, latent, scale),
    };
    let failed = |source: bitnet_quant::Error| Error::tensor(&stored.tensor, "trits", source);
    let tensor = ScaleGranularity::Tensor;
    let trits = match (detect_ternary(&*rows, Some(pool)).map_err(failed)?, factor) {
        (Some(matrix), None) => with_rounded_scales(matrix, rounding)?,
        (Some(matrix), Some(factor)) => {
            with_rounded_scales(matrix.scaled_in(factor, Some(pool))?, rounding)?
        }
        (None, _) if !latent => return Ok(Err((rows, factor))),
        (None, None) => absmean_measured(&*rows, tensor, rounding, Some(pool)).map_err(failed)?,
        (None, Some(factor)) => {
            let matrix = absmean(&*rows, tensor, None).map_err(failed)?;
            let matrix = with_scales(&matrix.scaled_in(factor, Some(pool))?, rounding)?;
            let lost = measured(&matrix, |row, out| {
                rows.decode_row(row, out)?;
                out.iter_mut().for_each(|number| *number *= factor);
                Ok(())
            })?;
            (matrix, lost)
        }
    };
    rows.release();
    Ok(Ok(trits))
}

/// Exact trits with rounded scales, and the error of the rounding.
fn with_rounded_scales(
    matrix: TernaryMatrix,
    rounding: ScaleRounding<'_>,
) -> Result<(TernaryMatrix, LossMeter)> {
    if matrix.scales().iter().all(|&scale| rounding(scale) == scale) {
        return Ok((matrix, LossMeter::new()));
    }
    let changed = with_scales(&matrix, rounding)?;
    let lost = measured(&changed, |row, out| {
        dequantize_row(&matrix, row, out);
        Ok(())
    })?;
    Ok((changed, lost))
}

/// Returns the bytes of a packed layer's scale, rounded to the type, and the factor that a reader computes from them.
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

/// Returns the same trits with other scales.
fn with_scales(
    matrix: &TernaryMatrix,
    change: impl Fn(f32) -> f32,
) -> bitnet_core::Result<TernaryMatrix> {
    let scales: Vec<f32> = matrix.scales().iter().map(|&scale| change(scale)).collect();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let (words, granularity) = (matrix.shared_words(), matrix.granularity());
    TernaryMatrix::from_words_with_doubled(rows, cols, words, granularity, scales)
}

/// Returns the nearest half-precision scale, or the scale unchanged if it is out of range, which encoders reject.
fn to_half(scale: f32) -> f32 {
    let half = f16::from_f32(scale).to_f32();
    if half.is_finite() && (half != 0.0 || scale == 0.0) { half } else { scale }
}

/// Returns the error of the trits against the numbers of `read`.
fn measured(
    quantised: &TernaryMatrix,
    mut read: impl FnMut(usize, &mut [f32]) -> bitnet_core::Result<()>,
) -> Result<LossMeter> {
    let mut lost = LossMeter::new();
    let (mut original, mut stored) = (vec![0.0; quantised.cols()], vec![0.0; quantised.cols()]);
    for row in 0..quantised.rows() {
        read(row, &mut original)?;
        dequantize_row(quantised, row, &mut stored);
        lost.push(&original, &stored)
            .map_err(|source| Error::tensor("scales", "half precision", source))?;
    }
    Ok(lost)
}

/// Returns trits with scale 1, and the scale as a separate piece.
fn apart(matrix: TernaryMatrix, part: usize) -> Result<(TernaryMatrix, Vec<Piece>)> {
    let &[scale] = matrix.scales() else {
        let problem = "it has more than one scale, but the architecture's scale tensors hold one; choose another --arch";
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
