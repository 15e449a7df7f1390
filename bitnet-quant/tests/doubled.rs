//! Weights of +2: code 3 of the two-bit formats, by value, in every format that holds them, and refused by all others.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use bitnet_core::dense::PlainType;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_quant::Error;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::mlx::{self, MlxTensors};
use bitnet_quant::codec::{TernaryStorage, archive, hf_packed, sparse34, tl1, tl2};
use half::f16;
use proptest::prelude::*;

/// Four codes in a byte, the first in the lowest bits.
fn packed(codes: &[u8]) -> Vec<u8> {
    codes.chunks(4).map(|c| c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6).collect()
}

/// Blocks of a scale and `block` codes.
fn blocks(codes: &[u8], scales: &[f32], block: usize) -> Vec<u8> {
    let of_block = |(codes, scale): (&[u8], &f32)| {
        [&f16::from_f32(*scale).to_le_bytes()[..], &packed(codes)].concat()
    };
    codes.chunks(block).zip(scales).flat_map(of_block).collect()
}

fn value(matrix: &TernaryMatrix, row: usize, col: usize) -> f32 {
    f32::from(matrix.trit(row, col)) * matrix.scale_at(row, col)
}

proptest! {
    #[test]
    fn all_four_codes_are_decoded_and_come_back(
        codes in prop::collection::vec(0u8..4, 3 * 256),
        scales in prop::collection::vec(1u16..2000, 12),
        equal: bool,
    ) {
        let scales: Vec<f32> =
            scales.iter().map(|s| if equal { 0.5 } else { f32::from(*s) / 64.0 }).collect();
        let threes = codes.iter().filter(|code| **code == 3).count();
        for (storage, block) in [
            (TernaryStorage::Q2_0 { block: 64 }, 64),
            (TernaryStorage::Q2_0 { block: 128 }, 128),
            (TernaryStorage::PQ2_0, 128),
        ] {
            let bytes = blocks(&codes, &scales, block);
            let matrix = storage.decode(&bytes, 3, 256, None).unwrap();
            for (index, code) in codes.iter().enumerate() {
                let scale = f16::from_f32(scales[index / block]).to_f32();
                let expected = scale * (f32::from(*code) - 1.0);
                prop_assert_eq!(value(&matrix, index / 256, index % 256), expected);
            }
            prop_assert_eq!(matrix.doubled(), threes);
            // A block without weights other than 0 loses its scale.
            if codes.chunks(block).all(|codes| codes.iter().any(|code| *code != 1)) {
                prop_assert_eq!(storage.encode(&matrix).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn mlx_codes_are_scale_times_code_plus_bias(codes in prop::collection::vec(0u8..4, 2 * 128)) {
        let scales = [0.5f32, 2.0, 3.0, 0.25];
        let bytes = |sign: f32| scales.iter().flat_map(|s| (s * sign).to_le_bytes()).collect();
        let tensors: MlxTensors<Vec<u8>> =
            MlxTensors { weight: packed(&codes), scales: bytes(1.0), biases: bytes(-1.0) };
        let matrix = mlx::decode(&tensors, PlainType::F32, 2, 128, 64, None).unwrap();
        for (index, code) in codes.iter().enumerate() {
            let scale = scales[index / 64];
            prop_assert_eq!(value(&matrix, index / 128, index % 128), scale * f32::from(*code) - scale);
        }
        if codes.chunks(64).all(|codes| codes.iter().any(|code| *code != 1)) {
            prop_assert_eq!(mlx::encode(&matrix, PlainType::F32, 64).unwrap(), tensors);
        }
    }
}

/// Every weight 1 but one of +2.
fn one_doubled() -> TernaryMatrix {
    let mut codes = vec![2; 64 * 768];
    codes[768 + 21] = 3;
    let bytes = blocks(&codes, &[1.0; 6 * 64], 128);
    TernaryStorage::PQ2_0.decode(&bytes, 64, 768, None).unwrap()
}

#[test]
fn formats_of_trits_alone_name_the_first_weight_of_2() {
    let matrix = one_doubled();
    let refused = |result: Result<(), Error>, name: &str| {
        assert!(
            matches!(result, Err(Error::NotTernary { row: 1, col: 21, .. })),
            "{name}: {result:?}"
        );
    };
    for storage in [
        TernaryStorage::I2S(I2sLayout::X86),
        TernaryStorage::TQ1_0,
        TernaryStorage::TQ2_0,
        TernaryStorage::PTQ1_0,
        TernaryStorage::Q1_0,
        TernaryStorage::IQ1_BN,
        TernaryStorage::IQ2_BN,
        TernaryStorage::IQ2_BN_R4,
    ] {
        assert!(!storage.has_doubled_weights());
        refused(storage.encode(&matrix).map(drop), storage.name());
    }
    refused(hf_packed::encode(&matrix).map(drop), "packed U8");
    refused(sparse34::encode(&matrix).map(drop), "3 of 4");
    refused(archive::encode(&matrix).map(drop), "archive");
    let tiles = tl1::Tiles { bm: 32, bk: 64, bmm: 32 };
    refused(tl1::encode(&matrix, tiles).map(drop), "TL1");
    let tiles = tl2::Tiles { bm: 32, bk: 48 };
    refused(tl2::encode(&matrix, tiles).map(drop), "TL2");
}

#[test]
fn counts_tell_weights_of_1_and_of_2_apart() {
    let counts = one_doubled().counts();
    assert_eq!((counts.minus, counts.zero, counts.plus, counts.doubled), (0, 0, 64 * 768 - 1, 1));
}
