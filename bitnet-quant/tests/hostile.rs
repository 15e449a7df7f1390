//! Damaged and hostile input: every case is a typed error, and every byte value is defined.

use bitnet_core::dense::DenseRows;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Error;
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::i2_s::{self, I2sLayout};
use bitnet_quant::codec::{TernaryStorage, hf_packed};
use bitnet_quant::weights::{absmean, detect_ternary};
use half::f16;
use proptest::prelude::*;

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

#[test]
fn empty_and_oversized_shapes_are_errors() {
    for storage in STORAGES {
        for (rows, cols) in [(0, 256), (4, 0), (0, 0)] {
            assert!(matches!(storage.decode(&[], rows, cols, None), Err(Error::EmptyShape { .. })));
        }
        let huge = usize::MAX - 255;
        for (rows, cols) in [(huge, huge), (huge, 256), (4, huge)] {
            let result = storage.decode(&[0; 64], rows, cols, None);
            assert!(
                matches!(result, Err(Error::SizeOverflow { .. } | Error::Length { .. })),
                "{storage:?} [{rows}, {cols}]: {result:?}"
            );
        }
    }
    for dtype in DENSE {
        assert!(matches!(DenseMatrix::new(dtype, 0, 256, []), Err(Error::EmptyShape { .. })));
        assert!(matches!(DenseMatrix::new(dtype, 1, 0, []), Err(Error::EmptyShape { .. })));
        let huge = usize::MAX - 255;
        assert!(matches!(DenseMatrix::new(dtype, huge, huge, []), Err(Error::SizeOverflow { .. })));
    }
    assert!(matches!(hf_packed::decode(&[], 0, 4, 1.0, None), Err(Error::EmptyShape { .. })));
    assert!(matches!(
        hf_packed::decode(&[], usize::MAX, usize::MAX, 1.0, None),
        Err(Error::SizeOverflow { .. })
    ));
}

#[test]
fn shapes_off_the_block_grid_are_refused() {
    for storage in STORAGES {
        let (rows, cols, dimension) = match storage {
            TernaryStorage::I2S(I2sLayout::X4) => (3, 256, "rows"),
            _ => (4, 32, "columns"),
        };
        match storage.decode(&[0; 64], rows, cols, None) {
            Err(Error::NotAMultiple { dimension: named, .. }) => assert_eq!(named, dimension),
            other => panic!("{storage:?}: {other:?}"),
        }
    }
    let unknown = TernaryStorage::Q2_0 { block: 0 }.decode(&[0; 64], 1, 64, None);
    assert!(matches!(unknown, Err(Error::UnknownBlock { block: 0, .. })));
    assert!(matches!(
        DenseMatrix::new(DenseType::Q6_K, 1, 128, vec![0; 210]),
        Err(Error::NotAMultiple { .. })
    ));
}

#[test]
fn one_byte_more_or_less_is_refused() {
    for storage in STORAGES {
        let size = storage.size(4, 256).unwrap();
        for got in [0, size - 1, size + 1] {
            let result = storage.decode(&vec![0; got], 4, 256, None);
            assert!(
                matches!(result, Err(Error::Length { expected, .. }) if expected == size),
                "{storage:?}: {result:?}"
            );
        }
    }
    for dtype in DENSE {
        let size = dtype.size(4, 256).unwrap();
        for got in [size - 1, size + 1] {
            assert!(matches!(
                DenseMatrix::new(dtype, 4, 256, vec![0; got]),
                Err(Error::Length { .. })
            ));
        }
    }
    assert!(matches!(
        hf_packed::decode(&[0; 7], 4, 8, 1.0, None),
        Err(Error::Length { expected: 8, .. })
    ));
}

/// Each of the 256 code bytes at every position of a block, compared with the format's definition.
#[test]
fn every_byte_value_has_its_meaning() {
    for byte in 0..=255u8 {
        let pairs: Vec<u8> = (0..4).map(|i| (byte >> (2 * i)) & 3).collect();
        let has_three = pairs.contains(&3);
        let trit = |code: u8| code as i8 - 1;

        let mut stored = vec![byte; 32];
        stored.extend([0u8; 32]);
        for (layout, plane) in [(I2sLayout::X86, 32), (I2sLayout::Arm64, 16)] {
            let trits = i2_s::decode(&stored, 1, 128, layout, None).unwrap().to_trits();
            for (e, &t) in trits.iter().enumerate() {
                let code = pairs[3 - e / plane % 4];
                assert_eq!(t, if code == 3 { 0 } else { trit(code) }, "{layout:?} {byte:#x} {e}");
            }
        }

        let mut stored = vec![byte; 64];
        stored.extend(f16::ONE.to_le_bytes());
        match TernaryStorage::TQ2_0.decode(&stored, 1, 256, None) {
            Ok(matrix) => {
                assert!(!has_three);
                for (e, &t) in matrix.to_trits().iter().enumerate() {
                    assert_eq!(t, trit(pairs[e % 128 / 32]));
                }
            }
            Err(error) => {
                let col = 32 * pairs.iter().position(|&p| p == 3).unwrap();
                assert_eq!(error, Error::NotTernary { format: "TQ2_0", row: 0, col });
            }
        }

        for (storage, cols) in
            [(TernaryStorage::Q2_0 { block: 64 }, 64), (TernaryStorage::PQ2_0, 128)]
        {
            let mut stored = f16::ONE.to_le_bytes().to_vec();
            stored.resize(2 + cols / 4, byte);
            let matrix = storage.decode(&stored, 1, cols, None).unwrap();
            assert_eq!(matrix.doubled() > 0, has_three);
            for (e, &t) in matrix.to_trits().iter().enumerate() {
                assert_eq!(t, if pairs[e % 4] == 3 { 2 } else { trit(pairs[e % 4]) });
            }
        }

        let mut stored = f16::ONE.to_le_bytes().to_vec();
        stored.extend([byte; 16]);
        let trits = TernaryStorage::Q1_0.decode(&stored, 1, 128, None).unwrap().to_trits();
        for (e, &t) in trits.iter().enumerate() {
            assert_eq!(t, if (byte >> (e % 8)) & 1 == 1 { 1 } else { -1 });
        }

        match hf_packed::decode(&[byte], 4, 1, 1.0, None) {
            Ok(matrix) => {
                assert!(!has_three);
                assert_eq!(matrix.to_trits(), pairs.iter().map(|&p| trit(p)).collect::<Vec<_>>());
            }
            Err(error) => {
                let row = pairs.iter().position(|&p| p == 3).unwrap();
                assert_eq!(error, Error::NotTernary { format: "packed U8", row, col: 0 });
            }
        }
    }
}

/// A base-3 byte is `ceil(q * 256 / 243)` for one q, so its digits follow by division; bytes without a q still
/// decode to trits.
#[test]
fn every_base_3_byte_decodes_to_its_digits() {
    let decode = |byte: u8| {
        let mut stored = vec![byte; 52];
        stored.extend(f16::ONE.to_le_bytes());
        TernaryStorage::TQ1_0.decode(&stored, 1, 256, None).unwrap().to_trits()
    };
    let decode_128 = |byte: u8| {
        let mut stored = vec![byte; 26];
        stored.extend(f16::ONE.to_le_bytes());
        TernaryStorage::PTQ1_0.decode(&stored, 1, 128, None).unwrap().to_trits()
    };
    for byte in 0..=255 {
        assert_eq!((decode(byte).len(), decode_128(byte).len()), (256, 128));
    }
    let byte = |q: u16| (q * 256).div_ceil(243) as u8;
    for q in 0..243u16 {
        let trits = decode(byte(q));
        let digits: Vec<i8> = [81, 27, 9, 3, 1].iter().map(|p| (q / p % 3) as i8 - 1).collect();
        for n in 0..5 {
            assert!(trits[n * 32..(n + 1) * 32].iter().all(|&t| t == digits[n]), "{q}");
            assert!(trits[160 + n * 16..176 + n * 16].iter().all(|&t| t == digits[n]), "{q}");
        }
        for n in 0..4 {
            assert!(trits[240 + n * 4..244 + n * 4].iter().all(|&t| t == digits[n]), "{q}");
        }
        let trits = decode_128(byte(q));
        for n in 0..5 {
            assert!(trits[n * 16..(n + 1) * 16].iter().all(|&t| t == digits[n]), "{q}");
            assert!(trits[80 + n * 8..88 + n * 8].iter().all(|&t| t == digits[n]), "{q}");
        }
        for n in 0..4 {
            assert!(trits[120 + n * 2..122 + n * 2].iter().all(|&t| t == digits[n]), "{q}");
        }
    }
}

#[test]
fn non_finite_scales_are_errors_with_position() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for layout in [I2sLayout::X86, I2sLayout::Arm64, I2sLayout::X4] {
            let mut stored = vec![0; 4 * 128 / 4 + 32];
            stored[128..132].copy_from_slice(&bad.to_le_bytes());
            assert!(matches!(
                i2_s::decode(&stored, 4, 128, layout, None),
                Err(Error::BadScale { format: "I2_S", .. })
            ));
        }
        assert!(matches!(hf_packed::decode(&[0; 4], 4, 4, bad, None), Err(Error::BadScale { .. })));
        for (storage, block_bytes, at) in [
            (TernaryStorage::TQ1_0, 54, 52),
            (TernaryStorage::TQ2_0, 66, 64),
            (TernaryStorage::Q2_0 { block: 128 }, 34, 0),
            (TernaryStorage::PQ2_0, 34, 0),
            (TernaryStorage::PTQ1_0, 28, 26),
            (TernaryStorage::Q1_0, 18, 0),
        ] {
            let size = storage.size(2, 512).unwrap();
            let mut stored = vec![0; size];
            let per_row = size / 2 / block_bytes;
            let start = (per_row + 1) * block_bytes + at;
            stored[start..start + 2].copy_from_slice(&f16::from_f32(bad).to_le_bytes());
            assert!(
                matches!(
                    storage.decode(&stored, 2, 512, None),
                    Err(Error::BadScale { row: 1, block: 1, .. })
                ),
                "{storage:?}"
            );
        }
        for (storage, scale, at) in [
            (TernaryStorage::IQ1_BN, f16::from_f32(bad).to_le_bytes().to_vec(), 5 * (2 + 26)),
            (TernaryStorage::IQ2_BN, bad.to_le_bytes().to_vec(), 5 * (4 + 32)),
            (TernaryStorage::IQ2_BN_R4, bad.to_le_bytes().to_vec(), 4 * (4 + 32) + 4),
        ] {
            let mut stored = vec![0; storage.size(8, 128).unwrap()];
            stored[at..at + scale.len()].copy_from_slice(&scale);
            assert!(
                matches!(
                    storage.decode(&stored, 8, 128, None),
                    Err(Error::BadScale { row: 5, block: 0, .. })
                ),
                "{storage:?}"
            );
        }
        let none =
            TernaryMatrix::from_trits(1, 128, &[1; 128], ScaleGranularity::Tensor, vec![bad]);
        assert!(none.is_err(), "no matrix holds such a scale, so no encoder can meet one");
    }
}

#[test]
fn unsupported_scale_granularity_is_an_error() {
    let group = ScaleGranularity::Group(64);
    let matrix =
        TernaryMatrix::from_trits(1, 256, &[1; 256], group, vec![1.0, 1.0, 2.0, 1.0]).unwrap();
    for storage in STORAGES {
        let result = storage.encode(&matrix);
        match storage {
            TernaryStorage::Q2_0 { block: 64 } => assert!(result.is_ok()),
            TernaryStorage::I2S(I2sLayout::X4) | TernaryStorage::IQ2_BN_R4 => {
                assert!(matches!(result, Err(Error::NotAMultiple { .. })));
            }
            _ => assert!(
                matches!(result, Err(Error::ScaleGranularity { row: 0, .. })),
                "{storage:?}"
            ),
        }
    }
    let by_row =
        TernaryMatrix::from_trits(2, 128, &[1; 256], ScaleGranularity::Row, vec![1.0, 2.0])
            .unwrap();
    assert!(matches!(hf_packed::encode(&by_row), Err(Error::ScaleGranularity { row: 1, .. })));
    for scale in [1e6, 1e-9] {
        let matrix =
            TernaryMatrix::from_trits(1, 256, &[1; 256], ScaleGranularity::Tensor, vec![scale])
                .unwrap();
        for storage in [
            TernaryStorage::TQ1_0,
            TernaryStorage::TQ2_0,
            TernaryStorage::PQ2_0,
            TernaryStorage::PTQ1_0,
            TernaryStorage::Q1_0,
            TernaryStorage::IQ1_BN,
        ] {
            assert!(matches!(storage.encode(&matrix), Err(Error::ScaleRange { .. })));
        }
        let stored = i2_s::encode(&matrix, I2sLayout::X86).unwrap();
        assert_eq!(i2_s::decode(&stored, 1, 256, I2sLayout::X86, None).unwrap(), matrix);
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let values = [1.0, 0.5, -1.0, 2.0, bad, 1.0];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = DenseMatrix::new(DenseType::F32, 2, 3, bytes).unwrap();
        for granularity in [ScaleGranularity::Tensor, ScaleGranularity::Row] {
            let error = absmean(&matrix, granularity, None).unwrap_err();
            assert!(matches!(error, Error::BadNumber { row: 1, col: 1, .. }), "{error}");
            assert!(error.to_string().contains("row 1, column 1"));
        }
        for dtype in [DenseType::F32, DenseType::F16, DenseType::BF16] {
            let error = dense::encode(&matrix, dtype).unwrap_err();
            assert!(matches!(error, Error::BadNumber { row: 1, col: 1, .. }), "{error}");
        }
        assert_eq!(detect_ternary(&matrix, None).unwrap(), None);
    }
}

#[test]
fn numbers_beyond_the_type_are_refused() {
    let mut out = Vec::new();
    let mut values = [0f32; 32];
    values[7] = 65520.0;
    assert!(matches!(
        dense::encode_row(DenseType::F16, 5, &values, &mut out),
        Err(Error::BadNumber { row: 5, col: 7, .. })
    ));
    values[7] = -1e8;
    assert!(matches!(
        dense::encode_row(DenseType::Q8_0, 5, &values, &mut out),
        Err(Error::BadNumber { row: 5, col: 7, .. })
    ));
    assert!(dense::encode_row(DenseType::BF16, 5, &values, &mut out).is_ok());
    values[7] = f32::MAX;
    assert!(dense::encode_row(DenseType::BF16, 5, &values, &mut out).is_err());
    assert!(matches!(
        dense::encode_row(DenseType::Q8_0, 0, &values[..31], &mut out),
        Err(Error::NotAMultiple { .. })
    ));
    let mut values = [0.5f32; 512];
    for large in [-1e8, 1e20, f32::MAX] {
        values[300] = large;
        let before = out.clone();
        for dtype in [DenseType::Q8_0, DenseType::Q6_K, DenseType::Q4_0] {
            let result = dense::encode_row(dtype, 5, &values, &mut out);
            let fits = dtype == DenseType::Q6_K && large == -1e8;
            match result {
                Ok(()) => assert!(fits, "{dtype:?} {large}"),
                Err(Error::BadNumber { row: 5, col: 300, .. }) => {
                    assert!(!fits, "{dtype:?} {large}")
                }
                other => panic!("{dtype:?} {large}: {other:?}"),
            }
            if fits {
                out.truncate(before.len());
            }
            assert_eq!(out, before, "a refused row leaves nothing behind");
        }
    }
}

/// Plain floats convert like through f32, and numbers out of range are named.
#[test]
fn float_rows_convert_or_name_the_position() {
    use bitnet_core::dense::PlainType::{BF16, F16, F32};
    for (from, bad, to) in [
        (F32, f32::NAN.to_le_bytes().to_vec(), F32),
        (F32, 65520f32.to_le_bytes().to_vec(), F16),
        (F32, f32::MAX.to_le_bytes().to_vec(), BF16),
        (F16, 0x7c00u16.to_le_bytes().to_vec(), BF16),
        (BF16, 0x7f7fu16.to_le_bytes().to_vec(), F16),
        (BF16, 0xffc0u16.to_le_bytes().to_vec(), F32),
    ] {
        let width = bad.len();
        let mut stored = vec![0; 3 * width];
        let mut out = vec![7];
        dense::convert_row(from, to, 4, &stored, &mut out).unwrap();
        assert_eq!(out.len(), 1 + DenseType::from(to).size(1, 3).unwrap());
        out.truncate(1);
        stored[2 * width..].copy_from_slice(&bad);
        let error = dense::convert_row(from, to, 4, &stored, &mut out).unwrap_err();
        assert!(matches!(error, Error::BadNumber { row: 4, col: 2, .. }), "{error}");
        assert_eq!(out, [7]);
        let odd = dense::convert_row(from, to, 4, &stored[1..], &mut out);
        assert!(matches!(odd, Err(Error::NotAMultiple { dimension: "bytes", .. })));
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    for dtype in DENSE {
        let bytes = vec![0; dtype.size(2, 256).unwrap()];
        let matrix = DenseMatrix::new(dtype, 2, 256, bytes).unwrap();
        assert!(matches!(
            matrix.decode_row(2, &mut [0.0; 256]),
            Err(bitnet_core::Error::OutOfRange { index: 2, len: 2, .. })
        ));
        assert!(matches!(
            matrix.decode_row(usize::MAX, &mut [0.0; 256]),
            Err(bitnet_core::Error::OutOfRange { .. })
        ));
        assert!(matches!(
            matrix.decode_row(1, &mut [0.0; 255]),
            Err(bitnet_core::Error::ShapeMismatch { .. })
        ));
        let plain = matches!(dtype, DenseType::F32 | DenseType::F16 | DenseType::BF16);
        assert_eq!(matrix.plain().is_some(), plain);
    }
}

#[test]
fn quantisers_reject_empty_matrices() {
    #[derive(Debug)]
    struct Empty;
    impl DenseRows for Empty {
        fn rows(&self) -> usize {
            3
        }
        fn cols(&self) -> usize {
            0
        }
        fn type_name(&self) -> &'static str {
            "F32"
        }
        fn bytes(&self) -> usize {
            0
        }
        fn decode_row(&self, _: usize, _: &mut [f32]) -> bitnet_core::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(
        absmean(&Empty, ScaleGranularity::Tensor, None),
        Err(Error::EmptyShape { .. })
    ));
    assert!(matches!(detect_ternary(&Empty, None), Err(Error::EmptyShape { .. })));
}

#[test]
fn layout_names_are_the_documented_ones() {
    for (name, layout) in
        [("canonical", I2sLayout::X86), ("arm64", I2sLayout::Arm64), ("x4", I2sLayout::X4)]
    {
        assert_eq!(name.parse(), Ok(layout));
        assert_eq!(layout.name(), name);
    }
    assert!(matches!("X86".parse::<I2sLayout>(), Err(Error::UnknownLayout { .. })));
}

proptest! {
    /// Any bytes decode to a matrix or a typed error, and matrices round-trip.
    #[test]
    fn arbitrary_bytes_never_panic(which in 0..STORAGES.len(), seed in any::<u64>()) {
        let storage = STORAGES[which];
        let mut state = seed;
        let stored: Vec<u8> = (0..storage.size(4, 256).unwrap())
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        if let Ok(matrix) = storage.decode(&stored, 4, 256, None) {
            let again = storage.encode(&matrix).unwrap();
            prop_assert_eq!(storage.decode(&again, 4, 256, None).unwrap().to_trits(), matrix.to_trits());
        }
    }

    /// Blocks decode at any alignment.
    #[test]
    fn storage_needs_no_alignment(which in 0..DENSE.len(), offset in 0usize..8, seed in any::<u8>()) {
        let dtype = DENSE[which];
        let size = dtype.size(2, 256).unwrap();
        let stored: Vec<u8> = (0..size + offset).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
        let aligned = stored[offset..].to_vec();
        let mut a = vec![0f32; 256];
        let mut b = vec![0f32; 256];
        DenseMatrix::new(dtype, 2, 256, &stored[offset..]).unwrap().decode_row(1, &mut a).unwrap();
        DenseMatrix::new(dtype, 2, 256, aligned).unwrap().decode_row(1, &mut b).unwrap();
        prop_assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
