//! Layers with weights of +2 (code 3): carried over between types that hold them, refused elsewhere.

use bitnet_core::ternary::{DoubledWeights, TernaryMatrix};
use bitnet_quant::codec::TernaryStorage;
use bitnet_quant::loss::LossMeter;

use crate::digest::Digest;
use crate::encode::{Encoded, Encoder, Piece, Proof, in_order};
use crate::tensors::{HeadRows, ModelTensor};
use crate::{Error, Result};

/// The error for a tensor that trits can't say.
pub(crate) fn refused(tensor: &str) -> Error {
    let problem = "it has weights of +2 (code 3), which the type does not hold: write q2_0 or pq2_0 (--type), or ordinary \
                   numbers (--type f16 --embedding-type f16 --head-type f16)";
    Error::refused(format!("tensor {tensor}"), problem)
}

/// The places of weights, in ascending order.
fn places(weights: &DoubledWeights) -> impl Iterator<Item = (usize, usize)> + '_ {
    (0..weights.rows())
        .flat_map(|row| weights.row(row).iter().map(move |weight| (row, weight.col as usize)))
}

impl Digest {
    /// Returns the digest of trits, their scales, and the places of weights of +2.
    pub(crate) fn of_doubled(matrix: &TernaryMatrix, weights: &DoubledWeights) -> Self {
        let mut bytes = format!("{:?}", Self::of_weights(matrix)).into_bytes();
        for (row, col) in places(weights) {
            bytes.extend((row as u64).to_le_bytes());
            bytes.extend((col as u64).to_le_bytes());
        }
        Self::of(&bytes)
    }
}

impl Encoder<'_> {
    /// Encodes a layer of the source that is stored as tensor `name`, rows in the order of the result.
    pub(crate) fn doubled(
        &self,
        tensor: &ModelTensor,
        name: &str,
        (matrix, weights): (TernaryMatrix, DoubledWeights),
        (part, storage): (usize, TernaryStorage),
        is_scale_apart: bool,
    ) -> Result<Encoded> {
        let is_exact = |scale: &f32| half::f16::from_f32(*scale).to_f32() == *scale;
        if is_scale_apart
            || !storage.has_doubled_weights()
            || self.has_adapter(tensor)
            || !matrix.scales().iter().all(is_exact)
        {
            return Err(refused(name));
        }
        let (matrix, weights) =
            match HeadRows::of(tensor, self.files.config(), self.plan.rope_order) {
                Some(moved) => {
                    let matrix = in_order(&matrix, moved)?;
                    let own = |row: usize| {
                        weights.row(moved.source(row)).iter().map(move |w| (row, w.col as usize))
                    };
                    let places: Vec<_> = (0..matrix.rows()).flat_map(own).collect();
                    let weights = DoubledWeights::new(&matrix, &places)?;
                    (matrix, weights)
                }
                None => (matrix, weights),
            };
        let part_name = &self.plan.parts[part].name;
        let bytes = storage
            .encode_doubled(&matrix, &weights)
            .map_err(|source| Error::tensor(part_name, storage.name(), source))?;
        let proof =
            Proof { weights: Some(Digest::of_doubled(&matrix, &weights)), lost: LossMeter::new() };
        Ok(Encoded { pieces: vec![Piece { part, at: 0, bytes }], proof })
    }
}
