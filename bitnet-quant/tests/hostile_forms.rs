//! Damaged and hostile input of formats with separate scales, formats without zero, tiled formats, MLX tensors and
//! archives.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use bitnet_core::dense::PlainType;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Error;
use bitnet_quant::codec::mlx::{self, MlxTensors};
use bitnet_quant::codec::{TernaryStorage, archive, hf_packed, sparse34, tl1, tl2};
use proptest::prelude::*;

const TL1: tl1::Tiles = tl1::Tiles { bm: 32, bk: 64, bmm: 32 };
const TL2: tl2::Tiles = tl2::Tiles { bm: 32, bk: 48 };
const ONE: ScaleGranularity = ScaleGranularity::Tensor;

fn matrix(rows: usize, cols: usize) -> TernaryMatrix {
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i * i % 7 % 3) as i8 - 1).collect();
    TernaryMatrix::from_trits(rows, cols, &trits, ONE, vec![0.25]).unwrap()
}

#[test]
fn zeros_are_refused_by_a_format_without_zero() {
    let mut trits = vec![1i8; 3 * 256];
    let encode = |trits: &[i8], scale: f32| {
        let granularity = ScaleGranularity::Tensor;
        let matrix = TernaryMatrix::from_trits(3, 256, trits, granularity, vec![scale]).unwrap();
        let mut out = vec![7];
        let result = TernaryStorage::Q1_0.encode_into(&matrix, &mut out);
        assert_eq!(out.len(), if result.is_ok() { 1 + 3 * 36 } else { 1 });
        result
    };
    assert_eq!(encode(&trits, 0.5), Ok(()));
    trits[2 * 256 + 211] = 0;
    let error = encode(&trits, 0.5).unwrap_err();
    assert_eq!(error, Error::NotBinary { format: "Q1_0", row: 2, col: 211 });
    assert!(error.to_string().contains("is 0") && error.to_string().contains("another format"));
    // A scale of zero makes no room for zero trits.
    trits.fill(0);
    let error = Error::NotBinary { format: "Q1_0", row: 0, col: 0 };
    assert_eq!(encode(&trits, 0.0), Err(error));
}

#[test]
fn shapes_and_lengths_are_checked_first() {
    let huge = usize::MAX - 4095;
    for (rows, cols) in [(0, 64), (32, 0), (huge, huge), (huge, 192), (32, huge)] {
        let results = [
            tl1::decode(&[0; 64], rows, cols, TL1, 1.0, None),
            tl2::decode(&[0; 64], rows, cols, TL2, 1.0, None),
            sparse34::decode(&[0; 64], rows, cols, ONE, vec![1.0], None),
            archive::decode(&[0; 64], rows, cols, None),
            mlx::decode(
                &MlxTensors { weight: [0; 64], scales: [0; 64], biases: [0; 64] },
                PlainType::F16,
                rows,
                cols,
                64,
                None,
            ),
        ];
        for result in results {
            let typed = matches!(
                result,
                Err(Error::EmptyShape { .. }
                    | Error::SizeOverflow { .. }
                    | Error::NotAMultiple { .. }
                    | Error::Length { .. }
                    | Error::Archive { .. })
            );
            assert!(typed, "[{rows}, {cols}]: {result:?}");
        }
    }
    for (len, wrong) in [(2048, 2047), (2048, 2049), (2048, 0)] {
        assert_eq!(tl1::size(64, 128, TL1).unwrap(), len);
        let result = tl1::decode(&vec![0; wrong], 64, 128, TL1, 1.0, None);
        assert!(matches!(result, Err(Error::Length { expected: 2048, .. })), "{result:?}");
        let result = tl2::decode(&vec![0; wrong], 64, 128, TL2, 1.0, None);
        assert!(matches!(result, Err(Error::Length { .. })), "{result:?}");
        let result = sparse34::decode(&vec![0; wrong], 64, 128, ONE, vec![1.0], None);
        assert!(matches!(result, Err(Error::Length { .. })), "{result:?}");
    }
}

#[test]
fn tiles_that_make_no_layout_are_refused() {
    for (bm, bk, bmm) in
        [(0, 64, 32), (32, 0, 32), (32, 64, 0), (32, 64, 16), (48, 64, 32), (32, 12, 32)]
    {
        let result = tl1::size(64, 128, tl1::Tiles { bm, bk, bmm });
        assert!(matches!(result, Err(Error::BadTiles { .. })), "{bm} {bk} {bmm}: {result:?}");
    }
    for (bm, bk) in [(0, 48), (32, 0), (16, 48), (32, 36)] {
        let result = tl2::size(64, 128, tl2::Tiles { bm, bk });
        assert!(matches!(result, Err(Error::BadTiles { .. })), "{bm} {bk}: {result:?}");
    }
    assert!(matches!(tl1::size(33, 128, TL1), Err(Error::NotAMultiple { dimension: "rows", .. })));
    assert!(matches!(tl1::size(32, 96, TL1), Err(Error::NotAMultiple { .. })));
    assert!(matches!(tl2::size(32, 112, TL2), Err(Error::NotAMultiple { .. })));
    // Usual sizes, as in the converter's settings.
    assert!(tl1::size(1536, 4096, tl1::Tiles { bm: 256, bk: 128, bmm: 32 }).is_ok());
    assert!(tl2::size(3200, 8640, tl2::Tiles { bm: 160, bk: 96 }).is_ok());
}

#[test]
fn undefined_codes_are_named() {
    let (mut stored, scale) = tl1::encode(&matrix(64, 128), TL1).unwrap();
    // The second slab of 32 rows: its byte 17 is lane 1 of the second quad.
    stored[1024 + 17] = 0x09;
    let error = tl1::decode(&stored, 64, 128, TL1, scale, None).unwrap_err();
    assert_eq!(error, Error::UnknownCode { format: "TL1", row: 33, col: 6, code: 9 });

    let (stored, scale) = tl2::encode(&matrix(64, 128), TL2).unwrap();
    // Part 1 has 64 * 96 / 6 bytes, part 2 64 * 96 / 24; in the strip of 32 rows lane 8 is row 16.
    for (at, byte, row, col, code) in
        [(8, 0xe0, 16, 0, 14), (8, 0x0f, 16, 3, 15), (1024 + 256 + 32 + 8, 0x90, 16, 100, 9)]
    {
        let mut stored = stored.clone();
        stored[at] = byte;
        let error = tl2::decode(&stored, 64, 128, TL2, scale, None).unwrap_err();
        assert_eq!(error, Error::UnknownCode { format: "TL2", row, col, code });
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let (stored, _) = tl1::encode(&matrix(64, 128), TL1).unwrap();
        assert!(matches!(
            tl1::decode(&stored, 64, 128, TL1, bad, None),
            Err(Error::BadScale { .. })
        ));
        let (stored, _) = tl2::encode(&matrix(64, 128), TL2).unwrap();
        assert!(matches!(
            tl2::decode(&stored, 64, 128, TL2, bad, None),
            Err(Error::BadScale { .. })
        ));
    }
}

#[test]
fn non_ternary_mlx_tensors_are_named() {
    let good = mlx::encode(&matrix(2, 256), PlainType::F16, 64).unwrap();
    let decode =
        |tensors: &MlxTensors<Vec<u8>>| mlx::decode(tensors, PlainType::F16, 2, 256, 64, None);
    assert_eq!(decode(&good).unwrap(), matrix(2, 256));
    let mut three = good.clone();
    three.weight[64 + 5] |= 0x30;
    three.weight[64 + 5] |= 0x30;
    let doubled = decode(&three).unwrap();
    assert_eq!((doubled.doubled(), doubled.first_doubled()), (1, Some((1, 22))));
    assert_eq!(mlx::encode(&doubled, PlainType::F16, 64).unwrap().weight, three.weight);
    let mut other = good.clone();
    other.biases[10] ^= 1;
    assert!(matches!(decode(&other), Err(Error::NotSymmetric { row: 1, block: 1, .. })));
    for bits in [0x7c00u16, 0x7e00] {
        let mut bad = good.clone();
        bad.scales[10..12].copy_from_slice(&bits.to_le_bytes());
        assert!(matches!(decode(&bad), Err(Error::BadScale { row: 1, block: 1, .. })));
    }
    for part in 0..3 {
        let mut short = good.clone();
        [&mut short.weight, &mut short.scales, &mut short.biases][part].pop();
        assert!(matches!(decode(&short), Err(Error::Length { .. })));
    }
    for group in [0, 32, 65, usize::MAX] {
        let result = mlx::encode(&matrix(2, 256), PlainType::F16, group);
        assert!(matches!(result, Err(Error::UnknownBlock { .. })), "{group}: {result:?}");
    }
    let tiny = TernaryMatrix::from_trits(1, 64, &[1; 64], ONE, vec![1e-9]).unwrap();
    assert!(matches!(mlx::encode(&tiny, PlainType::F16, 64), Err(Error::ScaleRange { .. })));
    assert!(mlx::encode(&tiny, PlainType::BF16, 64).is_ok());
}

#[test]
fn groups_without_one_zero_are_named() {
    let mut trits = [1i8, 0, -1, 1].repeat(32);
    let encode = |trits: &[i8]| {
        let matrix = TernaryMatrix::from_trits(2, 64, trits, ONE, vec![1.0]).unwrap();
        sparse34::encode(&matrix)
    };
    assert_eq!(encode(&trits).unwrap().len(), 20);
    trits[64 + 21] = 1;
    assert_eq!(
        encode(&trits),
        Err(Error::NotSparse { format: "3:4 sparse", row: 1, col: 20, zeros: 0 })
    );
    trits[64 + 21] = 0;
    trits[64 + 23] = 0;
    assert_eq!(
        encode(&trits),
        Err(Error::NotSparse { format: "3:4 sparse", row: 1, col: 20, zeros: 2 })
    );
    let missing = sparse34::decode(&[0; 20], 2, 64, ScaleGranularity::Row, vec![1.0], None);
    assert!(matches!(missing, Err(Error::Core(_))), "{missing:?}");
    let matrix = matrix(1, 40);
    assert!(matches!(sparse34::encode(&matrix), Err(Error::NotAMultiple { .. })));
}

/// Each of the 32 codes at every position of a block, compared with its definition.
#[test]
fn every_sparse_code_has_its_meaning() {
    for code in 0..32u64 {
        for place in 0..8 {
            let bits = code << (5 * place);
            let stored = &bits.to_le_bytes()[..5];
            let trits = sparse34::decode(stored, 1, 32, ONE, vec![1.0], None).unwrap().to_trits();
            let mut signs = [code >> 2 & 1, code >> 1 & 1, code & 1].into_iter();
            for (j, &trit) in trits[4 * place..4 * place + 4].iter().enumerate() {
                let expected =
                    if j as u64 == code >> 3 { 0 } else { 1 - 2 * signs.next().unwrap() as i8 };
                assert_eq!(trit, expected, "code {code}, place {place}, weight {j}");
            }
        }
    }
}

#[test]
fn every_changed_bit_of_an_archive_is_detected() {
    let matrix = matrix(5, 77);
    let good = archive::encode(&matrix).unwrap();
    assert_eq!(archive::decode(&good, 5, 77, None).unwrap(), matrix);
    assert_eq!(archive::stored_shape(&good).unwrap(), (5, 77));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let result = archive::decode(&bad, 5, 77, None);
            assert!(
                matches!(result, Err(Error::Archive { .. })),
                "byte {at}, bit {bit}: {result:?}"
            );
        }
    }
    for len in 0..good.len() {
        assert!(
            matches!(archive::decode(&good[..len], 5, 77, None), Err(Error::Archive { .. })),
            "{len}"
        );
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(archive::decode(&longer, 5, 77, None), Err(Error::Archive { .. })));
    for (rows, cols) in [(77, 5), (5, 78), (385, 1), (1, 385)] {
        assert!(matches!(archive::decode(&good, rows, cols, None), Err(Error::Archive { .. })));
    }
}

/// Headers with a valid checksum that exceed the data, or with invalid scales.
#[test]
fn an_archive_that_lies_is_refused() {
    let good = archive::encode(&matrix(5, 64)).unwrap();
    for (at, number) in [(12, 7u64), (32, 64), (40, u64::MAX), (40, u64::MAX - 3), (40, 1)] {
        let mut bad = good.clone();
        let width = if at == 12 { 4 } else { 8 };
        bad[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        let checksum = crc32fast::hash(&bad[..48]);
        bad[48..52].copy_from_slice(&checksum.to_le_bytes());
        let result = archive::decode(&bad, 5, 64, None);
        assert!(matches!(result, Err(Error::Archive { .. } | Error::Core(_))), "{at}: {result:?}");
    }
    let mut rows = good;
    rows[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    rows[24..32].copy_from_slice(&(1u64 << 20).to_le_bytes());
    let checksum = crc32fast::hash(&rows[..48]);
    rows[48..52].copy_from_slice(&checksum.to_le_bytes());
    // A shape must be the expected one, and memory must suffice.
    assert_eq!(archive::stored_shape(&rows).unwrap(), (1 << 40, 1 << 20));
    assert!(matches!(archive::decode(&rows, 5, 64, None), Err(Error::Archive { .. })));
}

/// A Hugging Face scale multiplies or divides by the checkpoint's class; the caller passes the factor.
#[test]
fn packed_rows_accept_both_scale_directions() {
    let matrix = matrix(7, 10);
    let (stored, scale) = hf_packed::encode(&matrix).unwrap();
    for (class, stored_scale) in [("autobitlinear", scale), ("bitlinear", 1.0 / scale)] {
        let factor = if class == "autobitlinear" { stored_scale } else { 1.0 / stored_scale };
        assert_eq!(hf_packed::decode(&stored, 7, 10, factor, None).unwrap(), matrix, "{class}");
    }
    assert!(matches!(
        hf_packed::decode(&stored, 7, 10, 1.0 / 0.0, None),
        Err(Error::BadScale { .. })
    ));
}

proptest! {
    /// Any bytes decode to a matrix or a typed error, and matrices round-trip.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 2048)) {
        if let Ok(matrix) = tl1::decode(&bytes, 64, 128, TL1, 1.0, None) {
            prop_assert_eq!(tl1::encode(&matrix, TL1).unwrap().0, &bytes[..]);
        }
        let size = tl2::size(64, 128, TL2).unwrap();
        if let Ok(matrix) = tl2::decode(&bytes[..size], 64, 128, TL2, 1.0, None) {
            let again = tl2::encode(&matrix, TL2).unwrap().0;
            prop_assert_eq!(tl2::decode(&again, 64, 128, TL2, 1.0, None).unwrap(), matrix);
        }
        let size = sparse34::size(64, 128).unwrap();
        let matrix = sparse34::decode(&bytes[..size], 64, 128, ONE, vec![1.0], None).unwrap();
        prop_assert_eq!(sparse34::encode(&matrix).unwrap(), &bytes[..size]);
        prop_assert!(archive::decode(&bytes, 64, 128, None).is_err());
    }

    /// Decodes one weight at a time by the formula of the documentation.
    #[test]
    fn tiles_are_where_their_formula_says(trits in proptest::collection::vec(-1i8..2, 64 * 128)) {
        let matrix = TernaryMatrix::from_trits(64, 128, &trits, ONE, vec![1.0]).unwrap();
        let trit = |row: usize, col: usize| trits[row * 128 + col];
        let (stored, _) = tl1::encode(&matrix, TL1).unwrap();
        for row in 0..64 {
            for col in (0..128).step_by(4) {
                // [2][2][1][8][2][2][16]: slab, tile, strip, step, part, quad, lane.
                let step = (row / 32 * 2 + col / 64) * 8 + col % 64 / 8;
                let byte = stored[((step * 2 + row % 32 / 16) * 2 + col % 8 / 4) * 16 + row % 16];
                let two = |col| (3 * trit(row, col) + trit(row, col + 1) + 4) as u8;
                prop_assert_eq!(byte, two(col) << 4 | two(col + 2));
            }
        }
        let (stored, _) = tl2::encode(&matrix, TL2).unwrap();
        for row in 0..64 {
            let lane = [0, 2, 1, 3][row % 32 / 8] * 8 + row % 8;
            for col in (0..96).step_by(3) {
                let v = 9 * trit(row, col) + 3 * trit(row, col + 1) + trit(row, col + 2);
                let byte = stored[((row / 32 * 2 + col / 48) * 8 + col % 48 / 6) * 32 + lane];
                let nibble = if col % 6 == 0 { byte >> 4 } else { byte & 15 };
                prop_assert_eq!(nibble, v.unsigned_abs());
                let at = 1024 + (((row / 32 * 2 + col / 48) * 2 + col % 48 / 24) * 16 + row % 16) * 2;
                let word = u16::from_le_bytes([stored[at], stored[at + 1]]);
                let bit = 15 - (2 * (col % 24 / 3) + row % 32 / 16);
                prop_assert_eq!((word >> bit) & 1 == 1, v < 0);
            }
            for col in (96..128).step_by(2) {
                let byte = stored[1024 + 256 + (row / 32 * 8 + (col - 96) / 4) * 32 + lane];
                let nibble = if col % 4 == 0 { byte >> 4 } else { byte & 15 };
                prop_assert_eq!(nibble, (3 * trit(row, col) + trit(row, col + 1) + 4) as u8);
            }
        }
    }
}
