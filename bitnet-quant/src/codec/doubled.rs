//! Code 3 of two-bit formats whose value is `scale * (code - 1)`: a weight of twice the scale, beside trits.
//!
//! Q2_0, PQ2_0 and MLX's 2-bit matrices can hold it. A matrix with such weights is decoded as trits with code 2 in their
//! place, and [`DoubledWeights`] that hold the other half of each.

use super::mlx::MlxTensors;
use super::{TernaryStorage, mlx, shape};
use crate::{Error, Result};
use bitnet_core::dense::PlainType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{DoubledWeights, TernaryMatrix};

/// A matrix whose weights are trits, and +2 in a few places.
pub type Doubled = (TernaryMatrix, Option<DoubledWeights>);

/// The low bit of every code 3 of a byte.
#[inline]
fn threes(byte: u8) -> u8 {
    byte & (byte >> 1) & 0x55
}

/// Where the codes of a matrix lie: blocks of `header` bytes and then four codes in a byte, the first in the lowest bits.
#[derive(Debug, Clone, Copy)]
struct Codes {
    cols: usize,
    /// Bytes before the codes of a block.
    header: usize,
    /// Weights of a block.
    block: usize,
}

impl Codes {
    fn of(storage: TernaryStorage, cols: usize) -> Option<Self> {
        match storage {
            TernaryStorage::Q2_0 { block } => Some(Self { cols, header: 2, block }),
            TernaryStorage::PQ2_0 => Some(Self { cols, header: 2, block: 128 }),
            _ => None,
        }
    }

    /// Replaces code 3 by code 2. Returns the places `(row, column)`, in ascending order.
    fn take_threes(self, bytes: &mut [u8]) -> Result<Vec<(usize, usize)>> {
        let Self { cols, header, block } = self;
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (index, stored) in bytes.chunks_exact_mut(header + block / 4).enumerate() {
            for (place, byte) in stored[header..].iter_mut().enumerate() {
                let mut found = threes(*byte);
                *byte &= !found;
                while found != 0 {
                    let weight = index * block + 4 * place + found.trailing_zeros() as usize / 2;
                    shape::reserve_one(&mut places)?;
                    places.push((weight / cols, weight % cols));
                    found &= found - 1;
                }
            }
        }
        Ok(places)
    }

    /// Replaces code 2 by code 3 in the places of weights.
    fn put_threes(self, bytes: &mut [u8], weights: &DoubledWeights) {
        let Self { cols, header, block } = self;
        for row in 0..weights.rows() {
            for weight in weights.row(row) {
                let weight = row * cols + weight.col as usize;
                let place = weight / block * (header + block / 4) + header + weight % block / 4;
                bytes[place] |= 1 << (2 * (weight % 4));
            }
        }
    }
}

/// A copy of `bytes`.
fn copied(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = shape::buffer(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// The matrix of trits `decode` makes of bytes without code 3, with the weights that stood in its places.
fn with_places(matrix: TernaryMatrix, places: &[(usize, usize)]) -> Result<Doubled> {
    let weights = DoubledWeights::new(&matrix, places)?;
    Ok((matrix, Some(weights)))
}

impl TernaryStorage {
    /// Returns whether code 3 is a weight of twice the scale in this format.
    pub fn has_doubled_weights(self) -> bool {
        matches!(self, Self::Q2_0 { .. } | Self::PQ2_0)
    }

    /// Decodes what [`TernaryStorage::decode`] decodes, and code 3 where [`TernaryStorage::has_doubled_weights`].
    ///
    /// # Errors
    /// Those of [`TernaryStorage::decode`], but [`Error::NotTernary`] only for other formats.
    pub fn decode_doubled(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<Doubled> {
        let decoded = self.decode(bytes, rows, cols, pool);
        match (decoded, Codes::of(self, cols)) {
            (Err(Error::NotTernary { .. }), Some(codes)) => {
                let mut bytes = copied(bytes)?;
                let places = codes.take_threes(&mut bytes)?;
                with_places(self.decode(&bytes, rows, cols, pool)?, &places)
            }
            (decoded, _) => Ok((decoded?, None)),
        }
    }

    /// Encodes trits and weights of +2 beside them.
    ///
    /// # Errors
    /// Those of [`TernaryStorage::encode`]; [`Error::NotTernary`] for a format without such weights.
    pub fn encode_doubled(
        self,
        matrix: &TernaryMatrix,
        weights: &DoubledWeights,
    ) -> Result<Vec<u8>> {
        let Some(codes) = Codes::of(self, matrix.cols()) else {
            let row = (0..weights.rows()).find(|&row| !weights.row(row).is_empty()).unwrap_or(0);
            let col = weights.row(row).first().map_or(0, |weight| weight.col as usize);
            return Err(Error::NotTernary { format: self.name(), row, col });
        };
        let mut bytes = self.encode(matrix)?;
        codes.put_threes(&mut bytes, weights);
        Ok(bytes)
    }
}

/// Decodes what [`mlx::decode`] decodes, and code 3.
///
/// # Errors
/// Those of [`mlx::decode`], but [`Error::NotTernary`].
pub fn decode_mlx<B: AsRef<[u8]>>(
    tensors: &MlxTensors<B>,
    scale_type: PlainType,
    rows: usize,
    cols: usize,
    group: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<Doubled> {
    match mlx::decode(tensors, scale_type, rows, cols, group, pool) {
        Err(Error::NotTernary { .. }) => {
            let mut weight = copied(tensors.weight.as_ref())?;
            let codes = Codes { cols, header: 0, block: cols };
            let places = codes.take_threes(&mut weight)?;
            let tensors = MlxTensors {
                weight: &weight[..],
                scales: tensors.scales.as_ref(),
                biases: tensors.biases.as_ref(),
            };
            with_places(mlx::decode(&tensors, scale_type, rows, cols, group, pool)?, &places)
        }
        decoded => Ok((decoded?, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The value of weight `(row, col)` of a decoded matrix.
    fn value((matrix, doubled): &Doubled, row: usize, col: usize) -> f32 {
        let scale = matrix.scale_at(row, col);
        let weights = doubled.as_ref().map_or(&[][..], |doubled| doubled.row(row));
        let more = weights.iter().find(|weight| weight.col as usize == col);
        f32::from(matrix.trit(row, col)) * scale + more.map_or(0.0, |weight| weight.scale)
    }

    proptest! {
        #[test]
        fn all_four_codes_are_decoded_and_come_back(
            codes in prop::collection::vec(0u8..4, 3 * 256),
            scales in prop::collection::vec(1u16..2000, 12),
        ) {
            for storage in [
                TernaryStorage::Q2_0 { block: 64 },
                TernaryStorage::Q2_0 { block: 128 },
                TernaryStorage::PQ2_0,
            ] {
                let block = Codes::of(storage, 256).unwrap().block;
                let mut bytes = Vec::new();
                for (index, codes) in codes.chunks(block).enumerate() {
                    let scale = half::f16::from_f32(f32::from(scales[index]) / 64.0);
                    bytes.extend(scale.to_le_bytes());
                    let four = |c: &[u8]| c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6;
                    bytes.extend(codes.chunks(4).map(four));
                }
                let found = storage.decode_doubled(&bytes, 3, 256, None).unwrap();
                for (index, code) in codes.iter().enumerate() {
                    let (row, col) = (index / 256, index % 256);
                    let scale = f32::from(scales[index / block]) / 64.0;
                    let scale = half::f16::from_f32(scale).to_f32();
                    prop_assert_eq!(value(&found, row, col), scale * (f32::from(*code) - 1.0));
                }
                let threes = codes.iter().filter(|code| **code == 3).count();
                prop_assert_eq!(found.1.as_ref().map_or(0, DoubledWeights::count), threes);
                // A block without weights other than 0 loses its scale.
                if let Some(doubled) = &found.1
                    && codes.chunks(block).all(|codes| codes.iter().any(|code| *code != 1))
                {
                    prop_assert_eq!(storage.encode_doubled(&found.0, doubled).unwrap(), bytes);
                }
            }
        }

        #[test]
        fn mlx_codes_are_scale_times_code_plus_bias(
            codes in prop::collection::vec(0u8..4, 2 * 128),
        ) {
            let weight: Vec<u8> =
                codes.chunks(4).map(|c| c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6).collect();
            let scales = [0.5f32, 2.0, 3.0, 0.25];
            let bytes = |sign: f32| scales.iter().flat_map(|s| (s * sign).to_le_bytes()).collect();
            let tensors: MlxTensors<Vec<u8>> = MlxTensors { weight, scales: bytes(1.0), biases: bytes(-1.0) };
            let found = decode_mlx(&tensors, PlainType::F32, 2, 128, 64, None).unwrap();
            for (index, code) in codes.iter().enumerate() {
                let scale = scales[index / 64];
                let expected = scale * f32::from(*code) - scale;
                prop_assert_eq!(value(&found, index / 128, index % 128), expected);
            }
        }
    }

    #[test]
    fn other_formats_refuse_code_3() {
        let matrix = TernaryStorage::PQ2_0;
        let mut bytes = vec![0x55; 34];
        (bytes[0], bytes[1]) = (0, 0x3c);
        bytes[7] = 0b0101_1101;
        let (matrix, doubled) = matrix.decode_doubled(&bytes, 1, 128, None).unwrap();
        let doubled = doubled.unwrap();
        assert_eq!(doubled.row(0)[0].col, 21);
        let refused = TernaryStorage::TQ2_0.encode_doubled(&matrix, &doubled);
        assert!(matches!(refused, Err(Error::NotTernary { row: 0, col: 21, .. })), "{refused:?}");
    }
}
