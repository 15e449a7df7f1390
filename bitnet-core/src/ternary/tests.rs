//! Tests of ternary matrices.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn packing_keeps_every_trit(rows in 1usize..5, cols in 1usize..300, seed in any::<u64>()) {
        let mut state = seed | 1;
        let trits: Vec<i8> = (0..rows * cols)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 33) % 3) as i8 - 1
            })
            .collect();
        let matrix =
            TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Tensor, vec![0.5]).unwrap();
        prop_assert_eq!(matrix.to_trits(), trits.clone());
        prop_assert_eq!(matrix.padded_cols() % ROW_BLOCK, 0);
        let counts = matrix.counts();
        prop_assert_eq!(counts.plus, trits.iter().filter(|&&t| t == 1).count());
        prop_assert_eq!(counts.minus, trits.iter().filter(|&&t| t == -1).count());
        prop_assert_eq!(counts.zero, trits.iter().filter(|&&t| t == 0).count());
    }
}

#[test]
fn words_that_are_no_matrix_are_refused_where_they_go_wrong() {
    let trits: Vec<i8> = (0..3 * 133).map(|i| (i % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(3, 133, &trits, ScaleGranularity::Row, vec![0.5; 3]);
    let matrix = matrix.unwrap();
    let build = |words: Vec<u32>, scales: Vec<f32>| {
        TernaryMatrix::from_words(3, 133, words.into(), ScaleGranularity::Row, scales)
    };
    assert_eq!(build(matrix.words().to_vec(), vec![0.5; 3]).unwrap(), matrix);
    for (row, col, code) in [(0, 0, 3), (1, 17, 3), (2, 132, 3), (1, 133, 0), (0, 255, 2)] {
        let mut words = matrix.words().to_vec();
        let (word, shift) = (row * 16 + col / CODES_PER_WORD, 2 * (col % CODES_PER_WORD));
        words[word] = (words[word] & !(3 << shift)) | (code << shift);
        let expected = Error::BadCode { row, col, code: code as u8 };
        assert_eq!(build(words, vec![0.5; 3]), Err(expected));
    }
    assert!(matches!(build(vec![ZERO_WORD; 47], vec![0.5; 3]), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(build(vec![ZERO_WORD; 48], vec![0.5; 2]), Err(Error::ScaleCount { .. })));
    assert!(matches!(build(vec![ZERO_WORD; 48], vec![f32::NAN; 3]), Err(Error::BadScale { .. })));
}

#[test]
fn every_trit_changes_its_row_for_its_column() {
    for (rows, cols) in [(1, 1), (3, 200), (16, 16), (17, 130), (300, 40), (513, 257)] {
        let trits: Vec<i8> = (0..rows * cols).map(|i| (i * i % 7 % 3) as i8 - 1).collect();
        let matrix =
            TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Tensor, vec![0.5])
                .unwrap();
        let pool = HybridMemoryPool::new().unwrap();
        let turned = matrix.transposed_trits(Some(&pool)).unwrap();
        assert_eq!(turned, matrix.transposed_trits(None).unwrap());
        let held = (turned.words().len() + 1) * 4;
        assert_eq!(pool.get_metrics().total_allocated, held as u64);
        assert_eq!((turned.rows(), turned.cols()), (cols, rows));
        for row in 0..rows {
            for col in 0..cols {
                assert_eq!(turned.trit(col, row), matrix.trit(row, col), "[{row}, {col}]");
            }
        }
        let padding = turned.row_words(0).last().unwrap() >> 30;
        assert!(rows % ROW_BLOCK == 0 || padding == 1, "padding is zeros");
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let mut trits = vec![0i8; 128];
    trits[0] = 1;
    trits[5] = -1;
    let m = TernaryMatrix::from_trits(1, 128, &trits, ScaleGranularity::Row, vec![2.0]).unwrap();
    let bytes: Vec<u8> = m.row_words(0).iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(bytes[0], 0b01_01_01_10);
    assert_eq!(bytes[1], 0b01_01_00_01);
    assert!(bytes[2..].iter().all(|&b| b == 0x55));
}

#[test]
fn bad_codes_scales_and_shapes_are_named() {
    let mut b = TernaryBuilder::new(2, 20).unwrap();
    let mut codes = [1u8; 20];
    codes[17] = 3;
    assert_eq!(b.push_row(&codes), Err(Error::BadCode { row: 0, col: 17, code: 3 }));
    b.push_row(&[1; 20]).unwrap();
    assert!(matches!(b.push_row(&[1; 19]), Err(Error::ShapeMismatch { .. })));
    b.push_row(&[2; 20]).unwrap();
    assert!(matches!(
        b.finish(ScaleGranularity::Tensor, vec![f32::NAN]),
        Err(Error::BadScale { .. })
    ));
    assert!(TernaryMatrix::from_trits(1, 1, &[2], ScaleGranularity::Tensor, vec![1.0]).is_err());
    assert!(ScaleGranularity::Group(100).scale_count(1, 200).is_err());
    assert!(TernaryBuilder::new(usize::MAX, 4096).is_err());
}

/// Codes of two rows of 128, with a code 3 in row 1, column 70.
fn codes_with_a_three() -> [Vec<u8>; 2] {
    let mut codes = [vec![2u8; 128], vec![1u8; 128]];
    codes[1][70] = 3;
    codes
}

fn built(granularity: ScaleGranularity, scales: Vec<f32>) -> Result<TernaryMatrix> {
    let mut builder = TernaryBuilder::new(2, 128)?.accept_doubled();
    for codes in codes_with_a_three() {
        builder.push_row(&codes)?;
    }
    builder.finish(granularity, scales)
}

#[test]
fn weights_of_2_are_accepted_where_scales_belong_to_groups() {
    let matrix = built(ScaleGranularity::Group(64), vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!((matrix.doubled(), matrix.first_doubled()), (1, Some((1, 70))));
    assert_eq!((matrix.trit(1, 70), matrix.scale_at(1, 70)), (2, 4.0));
    let counts = matrix.counts();
    assert_eq!((counts.minus, counts.zero, counts.plus, counts.doubled), (0, 127, 128, 1));
    assert!(matrix.transposed_trits(None).is_err());
    for (granularity, scales) in
        [(ScaleGranularity::Tensor, vec![1.0]), (ScaleGranularity::Row, vec![1.0; 2])]
    {
        let refused = built(granularity, scales);
        assert!(matches!(refused, Err(Error::ShapeMismatch { .. })), "{refused:?}");
    }
    let mut plain = TernaryBuilder::new(2, 128).unwrap();
    let [first, second] = codes_with_a_three();
    plain.push_row(&first).unwrap();
    assert_eq!(plain.push_row(&second), Err(Error::BadCode { row: 1, col: 70, code: 3 }));
    let mut doubled = TernaryBuilder::new(2, 128).unwrap().accept_doubled();
    let refused = doubled.push_row(&[vec![3; 9], vec![4; 119]].concat());
    assert_eq!(refused, Err(Error::BadCode { row: 0, col: 9, code: 4 }));
}

#[test]
fn words_with_weights_of_2_are_taken_as_such_or_refused() {
    let matrix = built(ScaleGranularity::Group(128), vec![1.0, 2.0]).unwrap();
    let (words, granularity) = (matrix.shared_words(), matrix.granularity());
    let scales = matrix.scales().to_vec();
    let refused = TernaryMatrix::from_words(2, 128, words.clone(), granularity, scales.clone());
    assert_eq!(refused, Err(Error::BadCode { row: 1, col: 70, code: 3 }));
    let same = TernaryMatrix::from_words_with_doubled(2, 128, words, granularity, scales);
    assert_eq!(same.unwrap(), matrix);
    // Padding is zeros here too.
    let padding = vec![ZERO_WORD | 2; 8].into();
    let refused = TernaryMatrix::from_words_with_doubled(
        1,
        64,
        padding,
        ScaleGranularity::Group(64),
        vec![1.0],
    );
    assert!(matches!(refused, Err(Error::BadCode { row: 0, col: 64, .. })), "{refused:?}");
}
