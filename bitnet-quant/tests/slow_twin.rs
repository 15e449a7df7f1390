//! Decoders of whole words equal naive decoding of single weights, for any bytes.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use bitnet_core::ternary::ScaleGranularity;
use bitnet_quant::Error;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::{TernaryStorage, hf_packed};
use proptest::prelude::*;

/// A storage type, the required multiples of rows and columns, and the positions of its codes.
type Case = (TernaryStorage, usize, usize, fn(&[u8], [usize; 2], usize, usize) -> u8);

const CASES: [Case; 13] = [
    (TernaryStorage::I2S(I2sLayout::X86), 1, 128, |bytes, [_, cols], row, col| {
        let byte = bytes[row * cols / 4 + col / 128 * 32 + col % 32];
        zero_for_three((byte >> (6 - 2 * (col % 128 / 32))) & 3)
    }),
    (TernaryStorage::I2S(I2sLayout::Arm64), 1, 64, |bytes, [_, cols], row, col| {
        let byte = bytes[row * cols / 4 + col / 64 * 16 + col % 16];
        zero_for_three((byte >> (6 - 2 * (col % 64 / 16))) & 3)
    }),
    (TernaryStorage::I2S(I2sLayout::X4), 4, 1, |bytes, [_, cols], row, col| {
        let byte = bytes[row / 4 * cols + col];
        zero_for_three((byte >> (6 - 2 * (row % 4))) & 3)
    }),
    (TernaryStorage::IQ1_BN, 1, 64, |bytes, [_, cols], row, col| {
        let block = &bytes[row * (2 + cols / 64 * 13) + 2 + col / 64 * 13..];
        let (byte, digit) = match col % 16 {
            15 => (12, col % 64 / 16),
            w => (col % 64 / 16 * 3 + w / 5, w % 5),
        };
        let shifted = block[byte].wrapping_mul(3u8.pow(4 - digit as u32));
        ((u16::from(shifted) * 3) >> 8) as u8
    }),
    (TernaryStorage::IQ2_BN, 1, 64, |bytes, [_, cols], row, col| {
        let block = &bytes[row * (4 + cols / 4) + 4 + col / 64 * 16..];
        (block[col % 16] >> (2 * (col % 64 / 16))) & 3
    }),
    (TernaryStorage::IQ2_BN_R4, 4, 64, |bytes, [_, cols], row, col| {
        let block = &bytes[row / 4 * (16 + cols) + 16 + col / 64 * 64..];
        let byte = block[col % 64 / 16 * 16 + row % 4 * 4 + col % 4];
        (byte >> (2 * (col % 16 / 4))) & 3
    }),
    (TernaryStorage::TQ1_0, 1, 256, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 256 + col / 256) * 54..];
        let (byte, digit) = match col % 256 {
            w @ 0..160 => (w % 32, w / 32),
            w @ 160..240 => (32 + (w - 160) % 16, (w - 160) / 16),
            w => (48 + (w - 240) % 4, (w - 240) / 4),
        };
        let shifted = block[byte].wrapping_mul(3u8.pow(digit as u32));
        ((u16::from(shifted) * 3) >> 8) as u8
    }),
    (TernaryStorage::TQ2_0, 1, 256, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 256 + col / 256) * 66..];
        (block[col % 256 / 128 * 32 + col % 32] >> (2 * (col % 128 / 32))) & 3
    }),
    (TernaryStorage::Q2_0 { block: 64 }, 1, 64, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 64 + col / 64) * 18 + 2..];
        (block[col % 64 / 4] >> (2 * (col % 4))) & 3
    }),
    (TernaryStorage::Q2_0 { block: 128 }, 1, 128, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 128 + col / 128) * 34 + 2..];
        (block[col % 128 / 4] >> (2 * (col % 4))) & 3
    }),
    (TernaryStorage::PQ2_0, 1, 128, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 128 + col / 128) * 34 + 2..];
        (block[col % 128 / 4] >> (2 * (col % 4))) & 3
    }),
    (TernaryStorage::PTQ1_0, 1, 128, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 128 + col / 128) * 28..];
        let (byte, digit) = match col % 128 {
            w @ 0..80 => (w % 16, w / 16),
            w @ 80..120 => (16 + (w - 80) % 8, (w - 80) / 8),
            w => (24 + (w - 120) % 2, (w - 120) / 2),
        };
        let shifted = block[byte].wrapping_mul(3u8.pow(digit as u32));
        ((u16::from(shifted) * 3) >> 8) as u8
    }),
    (TernaryStorage::Q1_0, 1, 128, |bytes, [_, cols], row, col| {
        let block = &bytes[(row * cols / 128 + col / 128) * 18 + 2..];
        2 * ((block[col % 128 / 8] >> (col % 8)) & 1)
    }),
];

fn zero_for_three(code: u8) -> u8 {
    if code == 3 { 1 } else { code }
}

/// Returns the bytes of a stored matrix with valid scales; code 3 occurs at most `threes` times.
fn stored(storage: TernaryStorage, rows: usize, cols: usize, seed: u64, threes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let size = storage.size(rows, cols).unwrap();
    let mut bytes: Vec<u8> =
        (0..size).map(|_| (0..4).fold(0u8, |byte, _| (byte << 2) | (next() % 3) as u8)).collect();
    if matches!(
        storage,
        TernaryStorage::TQ1_0
            | TernaryStorage::PTQ1_0
            | TernaryStorage::IQ1_BN
            | TernaryStorage::Q1_0
    ) {
        bytes.iter_mut().for_each(|byte| *byte = next() as u8);
    }
    for _ in 0..threes {
        let at = next() % size;
        bytes[at] |= 3 << (2 * (next() % 4));
    }
    let one = 0x3c00u16.to_le_bytes();
    let row_bytes = size / rows;
    match storage {
        TernaryStorage::I2S(_) => {
            bytes[size - 32..size - 28].copy_from_slice(&1f32.to_le_bytes());
        }
        TernaryStorage::IQ1_BN => {
            bytes.chunks_exact_mut(row_bytes).for_each(|row| row[..2].copy_from_slice(&one))
        }
        TernaryStorage::IQ2_BN => bytes
            .chunks_exact_mut(row_bytes)
            .for_each(|row| row[..4].copy_from_slice(&1f32.to_le_bytes())),
        TernaryStorage::IQ2_BN_R4 => bytes
            .chunks_exact_mut(4 * row_bytes)
            .for_each(|rows| rows[..16].copy_from_slice(&1f32.to_le_bytes().repeat(4))),
        TernaryStorage::TQ1_0 => {
            bytes.chunks_exact_mut(54).for_each(|b| b[52..].copy_from_slice(&one))
        }
        TernaryStorage::TQ2_0 => {
            bytes.chunks_exact_mut(66).for_each(|b| b[64..].copy_from_slice(&one))
        }
        TernaryStorage::Q2_0 { block } => {
            bytes.chunks_exact_mut(2 + block / 4).for_each(|b| b[..2].copy_from_slice(&one))
        }
        TernaryStorage::PQ2_0 => {
            bytes.chunks_exact_mut(34).for_each(|b| b[..2].copy_from_slice(&one))
        }
        TernaryStorage::PTQ1_0 => {
            bytes.chunks_exact_mut(28).for_each(|b| b[26..].copy_from_slice(&one))
        }
        TernaryStorage::Q1_0 => {
            bytes.chunks_exact_mut(18).for_each(|b| b[..2].copy_from_slice(&one))
        }
    }
    bytes
}

/// Decodes the codes in row-major order, one by one.
fn slow(rows: usize, cols: usize, code: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    (0..rows * cols).map(|i| code(i / cols, i % cols)).collect()
}

fn compare(
    decoded: bitnet_quant::Result<bitnet_core::ternary::TernaryMatrix>,
    codes: &[u8],
    cols: usize,
    doubles: bool,
) -> Result<(), TestCaseError> {
    match (decoded, codes.iter().position(|&code| code == 3)) {
        (Ok(matrix), Some(_)) => {
            prop_assert!(doubles);
            let trits: Vec<i8> = codes.iter().map(|&code| code as i8 - 1).collect();
            prop_assert_eq!(matrix.to_trits(), trits);
            let threes = codes.iter().filter(|&&code| code == 3).count();
            prop_assert_eq!(matrix.doubled(), threes);
            prop_assert!(matches!(matrix.granularity(), ScaleGranularity::Group(64 | 128)));
        }
        (Ok(matrix), None) => {
            let trits: Vec<i8> = codes.iter().map(|&code| code as i8 - 1).collect();
            prop_assert_eq!(matrix.to_trits(), trits.clone());
            let same = bitnet_core::ternary::TernaryMatrix::from_trits(
                matrix.rows(),
                cols,
                &trits,
                matrix.granularity(),
                matrix.scales().to_vec(),
            );
            prop_assert_eq!(Ok(matrix), same);
        }
        (Err(Error::NotTernary { row, col, .. }), Some(first)) => {
            prop_assert!(!doubles);
            prop_assert_eq!((row, col), (first / cols, first % cols));
        }
        (decoded, first) => prop_assert!(false, "{decoded:?}, first code 3 at {first:?}"),
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_storage(which in 0..CASES.len(), rows in 1usize..9, cols in 1usize..40, seed: u64, threes in 0usize..3) {
        let (storage, row_multiple, col_multiple, code) = CASES[which];
        let (rows, cols) = (rows * row_multiple, if col_multiple == 1 { cols } else { cols % 6 * col_multiple + col_multiple });
        let bytes = stored(storage, rows, cols, seed, threes);
        let codes = slow(rows, cols, |row, col| code(&bytes, [rows, cols], row, col));
        compare(storage.decode(&bytes, rows, cols, None), &codes, cols, storage.has_doubled_weights())?;
    }

    #[test]
    fn packed_rows(rows in 1usize..20, cols in 1usize..300, seed: u64, threes in 0usize..3) {
        let packed = rows.div_ceil(4);
        let mut bytes = stored(TernaryStorage::TQ2_0, 1, 256 * (packed * cols).div_ceil(256), seed, threes);
        bytes.truncate(packed * cols);
        bytes.resize(packed * cols, 0b0110_0110);
        bytes.iter_mut().for_each(|byte| if threes == 0 { *byte &= !((*byte << 1) & *byte & 0xaa) });
        let codes = slow(rows, cols, |row, col| (bytes[row % packed * cols + col] >> (2 * (row / packed))) & 3);
        compare(hf_packed::decode(&bytes, rows, cols, 1.0, None), &codes, cols, false)?;
    }
}
