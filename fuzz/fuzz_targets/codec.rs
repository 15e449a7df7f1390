//! Any bytes as a stored matrix in every format: a typed error, or numbers that round-trip.
#![no_main]

use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Result;
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::mlx::{self, MlxTensors};
use bitnet_quant::codec::{TernaryStorage, archive, hf_packed, sparse34, tl1, tl2};
use libfuzzer_sys::fuzz_target;

const STORAGES: [TernaryStorage; 13] = [
    TernaryStorage::I2S(I2sLayout::X86),
    TernaryStorage::I2S(I2sLayout::Arm64),
    TernaryStorage::I2S(I2sLayout::X4),
    TernaryStorage::TQ1_0,
    TernaryStorage::TQ2_0,
    TernaryStorage::Q2_0 { block: 64 },
    TernaryStorage::Q2_0 { block: 128 },
    TernaryStorage::PQ2_0,
    TernaryStorage::PTQ1_0,
    TernaryStorage::Q1_0,
    TernaryStorage::IQ1_BN,
    TernaryStorage::IQ2_BN,
    TernaryStorage::IQ2_BN_R4,
];
const DENSE: [DenseType; 6] = [
    DenseType::F32,
    DenseType::F16,
    DenseType::BF16,
    DenseType::Q8_0,
    DenseType::Q6_K,
    DenseType::Q4_0,
];
const PLAIN: [PlainType; 3] = [PlainType::F32, PlainType::F16, PlainType::BF16];
const ONE: ScaleGranularity = ScaleGranularity::Tensor;

fuzz_target!(|bytes: &[u8]| {
    let [kind, which, rows, cols, fit, data @ ..] = bytes else { return };
    let which = usize::from(*which);
    // Wide and narrow shapes, on the grid of blocks and off it.
    let rows = usize::from(*rows);
    let cols = usize::from(*cols) * if fit & 2 == 0 { 64 } else { 1 };
    // The length of the shape, or that of the input.
    let sized = |size: Result<usize>| match size {
        Ok(size) if fit & 1 == 0 && size <= 1 << 20 && !data.is_empty() => {
            data.iter().copied().cycle().take(size).collect()
        }
        _ => data.to_vec(),
    };
    match kind % 8 {
        0 => {
            let storage = STORAGES[which % STORAGES.len()];
            let stored = sized(storage.size(rows, cols));
            again(storage.decode(&stored, rows, cols, None), |matrix| {
                storage.decode(&storage.encode(matrix)?, rows, cols, None)
            });
        }
        1 => numbers(DENSE[which % DENSE.len()], rows, cols, sized),
        2 => again(
            hf_packed::decode(&sized(hf_packed::size(rows, cols)), rows, cols, 0.5, None),
            |matrix| {
                let (stored, scale) = hf_packed::encode(matrix)?;
                hf_packed::decode(&stored, rows, cols, scale, None)
            },
        ),
        3 => {
            let [bm, bk, bmm] = [which & 7, which >> 3 & 7, which >> 6].map(|n| 32 * n);
            let tiles = tl1::Tiles { bm, bk, bmm };
            let stored = sized(tl1::size(rows, cols, tiles));
            again(tl1::decode(&stored, rows, cols, tiles, 0.5, None), |matrix| {
                let (stored, scale) = tl1::encode(matrix, tiles)?;
                tl1::decode(&stored, rows, cols, tiles, scale, None)
            });
        }
        4 => {
            let tiles = tl2::Tiles { bm: (which & 15) * 32, bk: (which >> 4) * 24 };
            let stored = sized(tl2::size(rows, cols, tiles));
            again(tl2::decode(&stored, rows, cols, tiles, 0.5, None), |matrix| {
                let (stored, scale) = tl2::encode(matrix, tiles)?;
                tl2::decode(&stored, rows, cols, tiles, scale, None)
            });
        }
        5 => {
            let (plain, group) = (PLAIN[which % 3], [64, 128, 32][which / 3 % 3]);
            let sizes = mlx::sizes(rows, cols, group, plain);
            let weight = sized(sizes.clone().map(|(codes, _)| codes));
            let scales = sized(sizes.map(|(_, scales)| scales));
            // Biases that fit, unless the input has others.
            let width = if plain == PlainType::F32 { 4 } else { 2 };
            let mut biases = scales.clone();
            biases.iter_mut().skip(width - 1).step_by(width).for_each(|byte| *byte ^= 0x80);
            let tensors = MlxTensors { weight, scales, biases };
            again(mlx::decode(&tensors, plain, rows, cols, group, None), |matrix| {
                mlx::decode(&mlx::encode(matrix, plain, group)?, plain, rows, cols, group, None)
            });
        }
        6 => {
            let stored = sized(sparse34::size(rows, cols));
            again(sparse34::decode(&stored, rows, cols, ONE, vec![0.5], None), |matrix| {
                sparse34::decode(&sparse34::encode(matrix)?, rows, cols, ONE, vec![0.5], None)
            });
        }
        _ => archived(rows, cols.min(512), data),
    }
});

/// A decoded matrix must round-trip; an error must have a message.
fn again(read: Result<TernaryMatrix>, form: impl FnOnce(&TernaryMatrix) -> Result<TernaryMatrix>) {
    match read {
        Ok(matrix) => {
            let back = form(&matrix).expect("what was read can be written");
            assert_eq!(back.to_trits(), matrix.to_trits());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn numbers(dtype: DenseType, rows: usize, cols: usize, sized: impl Fn(Result<usize>) -> Vec<u8>) {
    let Ok(matrix) = DenseMatrix::new(dtype, rows, cols, sized(dtype.size(rows, cols))) else {
        return;
    };
    let mut row = vec![0.0; cols];
    matrix.decode_row(rows - 1, &mut row).expect("a row that is there");
    for dtype in DENSE {
        let mut out = Vec::new();
        match dense::encode_row(dtype, 0, &row, &mut out) {
            Ok(()) => assert_eq!(out.len(), dtype.size(1, cols).expect("a row that was written")),
            Err(error) => assert!(out.is_empty() && !error.to_string().is_empty()),
        }
    }
}

/// The input as an archive, and as trits to archive.
fn archived(rows: usize, cols: usize, data: &[u8]) {
    again(archive::decode(data, rows, cols, None), |matrix| {
        archive::decode(&archive::encode(matrix)?, rows, cols, None)
    });
    if rows == 0 || cols == 0 || data.is_empty() {
        return;
    }
    let trits: Vec<i8> =
        data.iter().cycle().take(rows * cols).map(|byte| (byte % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(rows, cols, &trits, ONE, vec![0.5]).expect("trits");
    let stored = archive::encode(&matrix).expect("any matrix can be archived");
    assert_eq!(archive::decode(&stored, rows, cols, None), Ok(matrix));
}
