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
