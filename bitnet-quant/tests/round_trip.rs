//! Every codec round-trips on every supported shape.

use bitnet_core::dense::DenseRows;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Error;
use bitnet_quant::codec::dense::{self, DenseMatrix, DenseType};
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::{TernaryStorage, hf_packed};
use bitnet_quant::weights::{absmean, detect_ternary};
use half::f16;
use proptest::prelude::*;

/// A storage type and the required multiples of rows and columns.
const STORAGES: [(TernaryStorage, usize, usize); 13] = [
    (TernaryStorage::I2S(I2sLayout::X86), 1, 128),
    (TernaryStorage::I2S(I2sLayout::Arm64), 1, 64),
    (TernaryStorage::I2S(I2sLayout::X4), 4, 1),
    (TernaryStorage::IQ1_BN, 1, 64),
    (TernaryStorage::IQ2_BN, 1, 64),
    (TernaryStorage::IQ2_BN_R4, 4, 64),
    (TernaryStorage::TQ1_0, 1, 256),
    (TernaryStorage::TQ2_0, 1, 256),
    (TernaryStorage::Q2_0 { block: 64 }, 1, 64),
    (TernaryStorage::Q2_0 { block: 128 }, 1, 128),
    (TernaryStorage::PQ2_0, 1, 128),
    (TernaryStorage::PTQ1_0, 1, 128),
    (TernaryStorage::Q1_0, 1, 128),
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn trits(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| (self.next() % 3) as i8 - 1).collect()
    }

    /// Returns trits that the storage type holds.
    fn trits_of(&mut self, storage: TernaryStorage, count: usize) -> Vec<i8> {
        let mut trits = self.trits(count);
        if storage == TernaryStorage::Q1_0 {
            trits.iter_mut().for_each(|t| *t = 2 * (self.next() % 2) as i8 - 1);
        }
        trits
    }

    /// Returns positive scales representable in f16, mostly different.
    fn scales(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| f16::from_bits(0x2000 + (self.next() % 0x2000) as u16).to_f32())
            .collect()
    }
}

fn values(matrix: &TernaryMatrix) -> Vec<f32> {
    let trits = matrix.to_trits();
    (0..trits.len())
        .map(|i| matrix.scale_at(i / matrix.cols(), i % matrix.cols()) * f32::from(trits[i]))
        .collect()
}

fn dense(rows: usize, cols: usize, values: &[f32]) -> DenseMatrix<Vec<u8>> {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    DenseMatrix::new(DenseType::F32, rows, cols, bytes).expect("values of the shape")
}

proptest! {
    #[test]
    fn one_scale_for_the_tensor(which in 0..STORAGES.len(), rows in 1usize..6, cols in 1usize..5, seed: u64) {
        let (storage, row_multiple, col_multiple) = STORAGES[which];
        let (rows, cols) = (rows * row_multiple, cols * col_multiple);
        let mut random = Random(seed);
        let trits = random.trits_of(storage, rows * cols);
        prop_assume!(trits.iter().any(|&t| t != 0));
        let matrix =
            TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Tensor, random.scales(1)).unwrap();
        let stored = storage.encode(&matrix).unwrap();
        prop_assert_eq!(stored.len(), storage.size(rows, cols).unwrap());
        prop_assert_eq!(storage.decode(&stored, rows, cols, None).unwrap(), matrix);
    }

    #[test]
    fn one_scale_for_each_row(which in 3..STORAGES.len(), rows in 1usize..5, blocks in 1usize..5, seed: u64) {
        let (storage, row_multiple, block) = STORAGES[which];
        let (rows, cols) = (rows * row_multiple, blocks * block);
        let mut random = Random(seed);
        let trits = random.trits_of(storage, rows * cols);
        let scales = random.scales(rows);
        let matrix =
            TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Row, scales).unwrap();
        let mut stored = vec![9];
        storage.encode_into(&matrix, &mut stored).unwrap();
        prop_assert_eq!(stored.len(), 1 + storage.size(rows, cols).unwrap());
        let decoded = storage.decode(&stored[1..], rows, cols, None).unwrap();
        prop_assert_eq!(values(&decoded), values(&matrix));
        prop_assert_eq!(storage.encode(&decoded).unwrap(), &stored[1..]);
    }

    #[test]
    fn one_scale_for_each_block(which in 6..STORAGES.len(), rows in 1usize..5, blocks in 1usize..5, seed: u64) {
        let (storage, _, block) = STORAGES[which];
        let (cols, group) = (blocks * block, ScaleGranularity::Group(block));
        let mut random = Random(seed);
        let trits = random.trits_of(storage, rows * cols);
        let scales = random.scales(rows * blocks);
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, group, scales).unwrap();
        let stored = storage.encode(&matrix).unwrap();
        let decoded = storage.decode(&stored, rows, cols, None).unwrap();
        prop_assert_eq!(values(&decoded), values(&matrix));
        prop_assert_eq!(storage.encode(&decoded).unwrap(), stored);
    }

    #[test]
    fn packed_planes(rows in 1usize..14, cols in 1usize..40, seed: u64, scale in -2f32..2.0) {
        let mut random = Random(seed);
        let trits = random.trits(rows * cols);
        let matrix =
            TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Tensor, vec![scale]).unwrap();
        let (stored, stored_scale) = hf_packed::encode(&matrix).unwrap();
        prop_assert_eq!(stored.len(), hf_packed::size(rows, cols).unwrap());
        prop_assert_eq!(hf_packed::decode(&stored, rows, cols, stored_scale, None).unwrap(), matrix);
    }

    #[test]
    fn floats_survive_their_own_type(rows in 1usize..4, cols in 1usize..700, seed: u64) {
        let mut random = Random(seed);
        let source = random.scales(rows * cols);
        let source = dense(rows, cols, &source);
        for dtype in [DenseType::F32, DenseType::F16] {
            let stored = dense::encode(&source, dtype).unwrap();
            let stored = DenseMatrix::new(dtype, rows, cols, stored).unwrap();
            prop_assert_eq!(dense::encode(&stored, DenseType::F32).unwrap(), source.as_bytes());
        }
        let coarse = dense::encode(&source, DenseType::BF16).unwrap();
        let coarse = DenseMatrix::new(DenseType::BF16, rows, cols, coarse).unwrap();
        prop_assert_eq!(dense::encode(&coarse, DenseType::BF16).unwrap(), coarse.as_bytes());
    }

    #[test]
    fn direct_float_conversion_equals_conversion_through_f32(cols in 1usize..200, seed: u64) {
        use DenseType::{BF16, F16, F32};
        let mut random = Random(seed);
        let source: Vec<f32> =
            (0..3 * cols).map(|_| (random.next() % 200_001) as f32 / 1e5 - 1.0).collect();
        for from in [F32, F16, BF16] {
            let stored = dense::encode(&dense(3, cols, &source), from).unwrap();
            let stored = DenseMatrix::new(from, 3, cols, stored).unwrap();
            for to in [F32, F16, BF16] {
                let mut slow = Vec::new();
                let mut values = vec![0.0; cols];
                for row in 0..3 {
                    stored.decode_row(row, &mut values).unwrap();
                    dense::encode_row(to, row, &values, &mut slow).unwrap();
                }
                prop_assert_eq!(dense::encode(&stored, to).unwrap(), slow, "{:?} to {:?}", from, to);
            }
        }
    }

    #[test]
    fn q8_0_stays_within_half_a_step(rows in 1usize..4, blocks in 1usize..6, seed: u64) {
        let cols = 32 * blocks;
        let mut random = Random(seed);
        let source: Vec<f32> =
            (0..rows * cols).map(|_| (random.next() % 20001) as f32 / 1e4 - 1.0).collect();
        let stored = dense::encode(&dense(rows, cols, &source), DenseType::Q8_0).unwrap();
        let stored = DenseMatrix::new(DenseType::Q8_0, rows, cols, stored).unwrap();
        let mut row = vec![0.0; cols];
        for (index, source) in source.chunks(cols).enumerate() {
            stored.decode_row(index, &mut row).unwrap();
            for (source, row) in source.chunks(32).zip(row.chunks(32)) {
                let step = source.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                // Half a step of rounding, plus 2^-11 of up to 127 steps, because the step is stored as f16.
                let bound = step * (0.5 + 127.0 / 2048.0) * 1.001;
                for (a, b) in source.iter().zip(row) {
                    prop_assert!((a - b).abs() <= bound, "{a} became {b}, step {step}");
                }
            }
        }
    }

    #[test]
    fn ternary_weights_are_detected_and_kept(
        rows in 1usize..5, blocks in 1usize..4, which in 0usize..5, seed: u64,
    ) {
        let granularity = [
            ScaleGranularity::Tensor,
            ScaleGranularity::Row,
            ScaleGranularity::Group(256),
            ScaleGranularity::Group(128),
            ScaleGranularity::Group(64),
        ][which];
        let cols = 256 * blocks;
        let mut random = Random(seed);
        let trits = random.trits(rows * cols);
        let scales = random.scales(granularity.scale_count(rows, cols).unwrap());
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
        let source = values(&matrix);
        let found = detect_ternary(&dense(rows, cols, &source), None).unwrap().unwrap();
        prop_assert_eq!(values(&found), source);
        prop_assert!(found.scales().len() <= matrix.scales().len());
    }

    #[test]
    fn absmean_follows_its_formula_in_each_group(rows in 1usize..4, groups in 1usize..4, seed: u64) {
        let cols = 64 * groups;
        let mut random = Random(seed);
        let source: Vec<f32> =
            (0..rows * cols).map(|_| (random.next() % 2001) as f32 / 1e3 - 1.0).collect();
        let matrix = absmean(&dense(rows, cols, &source), ScaleGranularity::Group(64), None).unwrap();
        for (group, source) in source.chunks(64).enumerate() {
            let mean = source.iter().map(|v| f64::from(v.abs())).sum::<f64>() / 64.0;
            let s = 1.0 / (mean as f32).max(1e-5);
            let (row, start) = (group / groups, group % groups * 64);
            prop_assert_eq!(matrix.scale_at(row, start), 1.0 / s);
            for (j, &w) in source.iter().enumerate() {
                let expected = (w * s).round_ties_even().clamp(-1.0, 1.0) as i8;
                prop_assert_eq!(matrix.trit(row, start + j), expected);
            }
        }
    }
}

#[test]
fn equal_scales_are_merged_and_zero_blocks_ignored() {
    let mut trits = vec![1i8; 2 * 512];
    trits[..256].fill(0);
    let with = |scales: Vec<f32>| {
        let matrix =
            TernaryMatrix::from_trits(2, 512, &trits, ScaleGranularity::Group(256), scales)
                .unwrap();
        TernaryStorage::TQ2_0
            .decode(&TernaryStorage::TQ2_0.encode(&matrix).unwrap(), 2, 512, None)
            .unwrap()
    };
    let tensor = with(vec![9.0, 2.0, 2.0, 2.0]);
    assert_eq!((tensor.granularity(), tensor.scales()), (ScaleGranularity::Tensor, &[2.0][..]));
    let row = with(vec![9.0, 2.0, 3.0, 3.0]);
    assert_eq!((row.granularity(), row.scales()), (ScaleGranularity::Row, &[2.0, 3.0][..]));
    let group = with(vec![9.0, 2.0, 3.0, 4.0]);
    assert_eq!(group.granularity(), ScaleGranularity::Group(256));
    assert_eq!(group.scales(), [0.0, 2.0, 3.0, 4.0]);
}

#[test]
fn detection_prefers_the_coarsest_granularity() {
    let detect =
        |rows, cols, values: &[f32]| detect_ternary(&dense(rows, cols, values), None).unwrap();
    let found = detect(2, 3, &[0.0, -0.5, 0.5, -0.0, 0.0, 0.0]).unwrap();
    assert_eq!((found.granularity(), found.scales()), (ScaleGranularity::Tensor, &[0.5][..]));
    assert_eq!(found.to_trits(), [0, -1, 1, 0, 0, 0]);
    let found = detect(2, 2, &[1.0, -1.0, 3.0, 0.0]).unwrap();
    assert_eq!((found.granularity(), found.scales()), (ScaleGranularity::Row, &[1.0, 3.0][..]));
    let found = detect(1, 2, &[0.0, 0.0]).unwrap();
    assert_eq!(found.scales(), [0.0]);
    assert_eq!(detect(1, 3, &[1.0, -1.0, 0.5]), None);
    assert_eq!(detect(2, 2, &[1.0, -1.0, 1.0, 0.5]), None);
    assert_eq!(detect(1, 2, &[f32::NAN, 1.0]), None);
    assert_eq!(detect(1, 2, &[f32::INFINITY, 0.0]), None);
}

#[test]
fn detection_stops_at_the_first_dense_row() {
    #[derive(Debug)]
    struct FirstRowOnly;
    impl DenseRows for FirstRowOnly {
        fn rows(&self) -> usize {
            usize::MAX
        }
        fn cols(&self) -> usize {
            3
        }
        fn type_name(&self) -> &'static str {
            "F32"
        }
        fn bytes(&self) -> usize {
            0
        }
        fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
            assert_eq!(row, 0);
            out.copy_from_slice(&[1.0, 2.0, 3.0]);
            Ok(())
        }
    }
    assert_eq!(detect_ternary(&FirstRowOnly, None).unwrap(), None);
}

/// Quantising ternary weights again preserves the trits but shrinks the scale, so detection must come first.
#[test]
fn absmean_is_not_idempotent() {
    let source = [0.5f32, 0.0, -0.5, 0.0];
    let again = absmean(&dense(1, 4, &source), ScaleGranularity::Tensor, None).unwrap();
    assert_eq!(again.to_trits(), [1, 0, -1, 0]);
    assert_eq!(again.scales(), [0.25]);
    assert_eq!(detect_ternary(&dense(1, 4, &source), None).unwrap().unwrap().scales(), [0.5]);
}

#[test]
fn row_and_tensor_absmean_differ_with_rows() {
    let source = dense(2, 2, &[1.0, -1.0, 0.125, 0.0625]);
    let by_row = absmean(&source, ScaleGranularity::Row, None).unwrap();
    assert_eq!((by_row.to_trits(), by_row.scales()), (vec![1, -1, 1, 1], &[1.0, 0.09375][..]));
    let by_matrix = absmean(&source, ScaleGranularity::Tensor, None).unwrap();
    assert_eq!((by_matrix.to_trits(), by_matrix.scales()), (vec![1, -1, 0, 0], &[0.546_875][..]));
    assert!(matches!(absmean(&source, ScaleGranularity::Group(64), None), Err(Error::Core(_))));
}
