//! Products of matrices with operands of every kind and layout; and other orders of memory.

use bitnet_core::Error;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
use bitnet_core::tensor::{from_blocks, matmul, matmul_into, to_blocks, to_column_major};

use crate::golden::{Arrays, assert_bits};

/// The tensor, and others with the same numbers in other layouts.
fn layouts(x: &BitNetTensor, pool: &HybridMemoryPool) -> Vec<BitNetTensor> {
    let mut all = vec![x.clone(), to_column_major(x, pool).unwrap()];
    for dim in 0..x.shape().len() {
        let turned = x.flip(dim).unwrap().to_contiguous(pool).unwrap();
        all.push(turned.flip(dim).unwrap());
    }
    all
}

#[test]
fn every_kind_of_product_is_numpys() {
    let golden = Arrays::open("matmuls");
    let pool = HybridMemoryPool::new().unwrap();
    for case in 0..18 {
        let a = golden.tensor(&format!("{case}.a"), &pool);
        let b = golden.tensor(&format!("{case}.b"), &pool);
        let expected = golden.get(&format!("{case}.product"));
        for a in layouts(&a, &pool) {
            for b in layouts(&b, &pool) {
                let got = matmul(&a, &b, &pool).unwrap();
                assert_eq!(got.shape(), expected.shape, "{:?} · {:?}", a.shape(), b.shape());
                assert_eq!(got.f32().unwrap(), expected.f32(), "{:?} · {:?}", a.shape(), b.shape());
                let mut out = BitNetTensor::ones(got.shape(), &pool).unwrap();
                matmul_into(&a, &b, &mut out).unwrap();
                assert_bits(out.f32().unwrap(), &expected.f32(), "into");
            }
        }
    }
}

#[test]
fn errors_of_products_are_within_their_bound() {
    let golden = Arrays::open("matmuls");
    let pool = HybridMemoryPool::new().unwrap();
    let (a, b) = (golden.tensor("a", &pool), golden.tensor("b", &pool));
    let got = matmul(&a, &b, &pool).unwrap();
    let (expected, sizes) = (golden.get("product").f64(), golden.get("sizes").f64());
    for ((&got, expected), size) in got.f32().unwrap().iter().zip(expected).zip(sizes) {
        let bound = a.shape()[1] as f64 * 2f64.powi(-24) * size;
        assert!((f64::from(got) - expected).abs() <= bound, "{got} {expected}");
    }
}

#[test]
fn incompatible_operands_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let of = |shape: &[usize]| BitNetTensor::ones(shape, &pool).unwrap();
    let refused = |a: &[usize], b: &[usize]| matmul(&of(a), &of(b), &pool).unwrap_err();
    assert!(matches!(refused(&[], &[2]), Error::ShapeMismatch { .. }));
    assert!(matches!(refused(&[2], &[]), Error::ShapeMismatch { .. }));
    assert!(matches!(refused(&[2, 3], &[2, 3]), Error::ShapeMismatch { .. }));
    assert!(matches!(refused(&[3, 2, 2], &[2, 2, 2]), Error::NotBroadcastable { .. }));
    let bytes = of(&[2, 2]).cast(BitNetDType::I8, CastRule::Checked, &pool).unwrap();
    assert!(matches!(matmul(&bytes, &of(&[2]), &pool), Err(Error::DTypeMismatch { .. })));
    let mut out = of(&[3]);
    let into = matmul_into(&of(&[2, 2]), &of(&[2, 2]), &mut out);
    assert!(matches!(into, Err(Error::ShapeMismatch { .. })));
    let wide = of(&[0, 1, 1]).broadcast_to(&[0, 1 << 40, 1]).unwrap();
    let product = matmul(&wide, &wide.transpose(1, 2).unwrap(), &pool).unwrap();
    assert_eq!(product.shape(), [0, 1 << 40, 1 << 40], "nothing, however large it would be");
}

#[test]
fn half_precision_products_are_summed_in_f32() {
    let pool = HybridMemoryPool::new().unwrap();
    for dtype in [BitNetDType::F16, BitNetDType::BF16] {
        let ones = BitNetTensor::ones(&[2, 4096], &pool).unwrap();
        let ones = ones.cast(dtype, CastRule::Checked, &pool).unwrap();
        let got = matmul(&ones, &ones.transpose(0, 1).unwrap(), &pool).unwrap();
        assert_eq!(got.dtype(), dtype);
        assert_eq!(got.to_f32(&pool).unwrap().f32().unwrap(), [4096.0; 4]);
        let mixed = matmul(&ones, &BitNetTensor::ones(&[4096], &pool).unwrap(), &pool).unwrap();
        assert_eq!(mixed.dtype(), BitNetDType::F32);
    }
}

#[test]
fn blocks_and_columns_represent_the_same_matrix() {
    let pool = HybridMemoryPool::new().unwrap();
    for dtype in [BitNetDType::F32, BitNetDType::BF16, BitNetDType::I8] {
        for shape in [[6, 8], [5, 7], [1, 1], [0, 3]] {
            let count = shape.iter().product::<usize>() as f32;
            let ladder =
                BitNetTensor::arange(0.0, count, 1.0, &pool).unwrap().view(&shape).unwrap();
            let x = ladder.cast(dtype, CastRule::Checked, &pool).unwrap();
            let blocks = to_blocks(&x.flip(0).unwrap(), [3, 4], &pool).unwrap();
            let back = from_blocks(&blocks, shape, &pool).unwrap().flip(0).unwrap();
            assert_eq!(back.to_f32(&pool).unwrap().f32(), ladder.f32());
            let columns = to_column_major(&x, &pool).unwrap();
            assert_eq!(columns.to_f32(&pool).unwrap().f32(), ladder.f32());
            assert_eq!(columns.metadata().strides()[0], 1);
        }
    }
    let x = BitNetTensor::ones(&[2, 2], &pool).unwrap();
    assert!(matches!(to_blocks(&x, [0, 1], &pool), Err(Error::BadArgument { .. })));
    assert!(matches!(from_blocks(&x, [2, 2], &pool), Err(Error::ShapeMismatch { .. })));
    let trits = x.cast(BitNetDType::BitNet158, CastRule::Checked, &pool).unwrap();
    assert!(matches!(to_blocks(&trits, [1, 1], &pool), Err(Error::DTypeMismatch { .. })));
}
