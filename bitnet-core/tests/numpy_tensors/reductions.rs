//! Reductions over every set of axes, with NaN and infinities, and of no elements.

use bitnet_core::Error;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
use bitnet_core::tensor::{self, Comparison, Reduction};

use crate::golden::{Arrays, assert_bits, assert_ulps};

const ALL_AXES: [&[usize]; 8] = [&[], &[0], &[1], &[2], &[0, 1], &[0, 2], &[1, 2], &[0, 1, 2]];

/// The tensor itself, and others with the same numbers in other layouts.
fn layouts(x: &BitNetTensor, pool: &HybridMemoryPool) -> Vec<BitNetTensor> {
    let turned = x.permute(&[2, 0, 1]).unwrap().to_contiguous(pool).unwrap();
    let backwards = x.flip(2).unwrap().to_contiguous(pool).unwrap();
    vec![x.clone(), turned.permute(&[1, 2, 0]).unwrap(), backwards.flip(2).unwrap()]
}

#[test]
fn every_set_of_axes_is_reduced_as_numpy_does() {
    let golden = Arrays::open("reductions");
    let pool = HybridMemoryPool::new().unwrap();
    for name in ["x", "holed"] {
        for x in layouts(&golden.tensor(name, &pool), &pool) {
            for axes in ALL_AXES {
                let digits: String = axes.iter().map(ToString::to_string).collect();
                let key = |op: &str| format!("{name}.{digits}.{op}");
                for (op, word) in
                    [(Reduction::Sum, "sum"), (Reduction::Mean, "mean"), (Reduction::Prod, "prod")]
                {
                    let got = tensor::reduce(op, &x, Some(axes), false, &pool).unwrap();
                    assert_eq!(got.shape(), golden.get(&key(word)).shape);
                    assert_ulps(got.f32().unwrap(), &golden.get(&key(word)).f64(), 0.51, word);
                }
                for correction in [0, 1] {
                    let var = tensor::var(&x, Some(axes), correction, false, &pool).unwrap();
                    let expected = golden.get(&key(&format!("var{correction}"))).f64();
                    assert_ulps(var.f32().unwrap(), &expected, 0.51, "var");
                    let std = tensor::std(&x, Some(axes), correction, false, &pool).unwrap();
                    let expected = golden.get(&key(&format!("std{correction}"))).f64();
                    assert_ulps(std.f32().unwrap(), &expected, 0.51, "std");
                }
                for (op, word) in [(Reduction::Max, "max"), (Reduction::Min, "min")] {
                    let got = tensor::reduce(op, &x, Some(axes), true, &pool).unwrap();
                    let expected_shape: Vec<usize> = (0..3)
                        .map(|dim| if axes.contains(&dim) { 1 } else { x.shape()[dim] })
                        .collect();
                    assert_eq!(got.shape(), expected_shape);
                    assert_bits(got.f32().unwrap(), &golden.f32(&key(word)), word);
                }
                let zero = BitNetTensor::full(&[], 0.0, &pool).unwrap();
                let mask = tensor::compare(Comparison::Greater, &x, &zero, &pool).unwrap();
                let any = tensor::any(&mask, Some(axes), false, &pool).unwrap();
                assert_eq!(any.bytes().unwrap(), golden.get(&key("any")).bytes());
                let all = tensor::all(&mask, Some(axes), false, &pool).unwrap();
                assert_eq!(all.bytes().unwrap(), golden.get(&key("all")).bytes());
            }
            for axis in [Some(0), Some(1), Some(2), None] {
                let word = axis.map_or("flat".to_owned(), |axis| axis.to_string());
                let expected = |op: &str| -> Vec<u64> {
                    let array = golden.get(&format!("{name}.{word}.{op}"));
                    array.u32().into_iter().map(u64::from).collect()
                };
                let largest = tensor::argmax(&x, axis, false, &pool).unwrap();
                assert_eq!(largest.values(), expected("argmax"), "{name} {word}");
                let smallest = tensor::argmin(&x, axis, true, &pool).unwrap();
                assert_eq!(smallest.values(), expected("argmin"), "{name} {word}");
                assert_eq!(smallest.shape().len(), 3);
            }
        }
    }
}

#[test]
fn empty_reductions_have_a_sum_but_no_maximum() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::zeros(&[2, 0], &pool).unwrap();
    let of = |op, axis| tensor::reduce(op, &x, Some(&[axis]), false, &pool);
    assert_eq!(of(Reduction::Sum, 1).unwrap().f32().unwrap(), [0.0; 2]);
    assert_eq!(of(Reduction::Prod, 1).unwrap().f32().unwrap(), [1.0; 2]);
    assert!(of(Reduction::Mean, 1).unwrap().f32().unwrap().iter().all(|x| x.is_nan()));
    let var = tensor::var(&x, Some(&[1]), 0, false, &pool).unwrap();
    assert!(var.f32().unwrap().iter().all(|x| x.is_nan()));
    for op in [Reduction::Max, Reduction::Min] {
        assert!(matches!(of(op, 1), Err(Error::EmptyReduction { .. })));
        assert_eq!(of(op, 0).unwrap().shape(), [0], "no outputs, none of them of nothing");
    }
    assert!(matches!(tensor::argmax(&x, None, false, &pool), Err(Error::EmptyReduction { .. })));
    assert!(matches!(tensor::argmin(&x, Some(1), false, &pool), Err(Error::EmptyReduction { .. })));
    assert!(tensor::argmin(&x, Some(0), false, &pool).is_ok());
    assert_eq!(tensor::any(&x, Some(&[1]), false, &pool).unwrap().bytes().unwrap(), [0, 0]);
    assert_eq!(tensor::all(&x, Some(&[1]), false, &pool).unwrap().bytes().unwrap(), [1, 1]);
    let one = BitNetTensor::ones(&[1], &pool).unwrap();
    assert!(tensor::var(&one, None, 1, false, &pool).unwrap().item().unwrap().is_nan());
}

#[test]
fn bad_axes_and_types_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::ones(&[2, 3], &pool).unwrap();
    let over = |axes: &[usize]| tensor::reduce(Reduction::Sum, &x, Some(axes), false, &pool);
    assert!(matches!(over(&[2]), Err(Error::OutOfRange { .. })));
    assert!(matches!(over(&[1, 1]), Err(Error::BadArgument { .. })));
    let trits = x.cast(BitNetDType::BitNet158, CastRule::Checked, &pool).unwrap();
    let sum = tensor::reduce(Reduction::Sum, &trits, None, false, &pool);
    assert!(matches!(sum, Err(Error::DTypeMismatch { .. })));
}

#[test]
fn half_precision_sums_have_the_precision_of_f32() {
    let pool = HybridMemoryPool::new().unwrap();
    // Added one by one in f16 the sum would stop at 2048, in bf16 at 256.
    for dtype in [BitNetDType::F16, BitNetDType::BF16] {
        let ones = BitNetTensor::ones(&[4096], &pool).unwrap();
        let ones = ones.cast(dtype, CastRule::Checked, &pool).unwrap();
        let sum = tensor::reduce(Reduction::Sum, &ones, None, false, &pool).unwrap();
        assert_eq!((sum.dtype(), sum.item()), (dtype, Ok(4096.0)));
    }
}

/// Shape, axes, the shape of `numpy.sum`, and whether `numpy.max` is an error (NumPy 2).
type EmptyReduction = (&'static [usize], &'static [usize], &'static [usize], bool);

#[test]
fn reductions_over_empty_axes_agree_with_numpy() {
    let pool = HybridMemoryPool::new().unwrap();
    #[rustfmt::skip]
    let cases: [EmptyReduction; 20] = [
        (&[0], &[], &[0], false),        (&[0], &[0], &[], true),
        (&[0, 0], &[0], &[0], true),     (&[0, 0], &[1], &[0], true),
        (&[0, 0], &[0, 1], &[], true),   (&[0, 3], &[0], &[3], true),
        (&[0, 3], &[1], &[0], false),    (&[3, 0], &[0], &[0], false),
        (&[3, 0], &[1], &[3], true),     (&[3, 0], &[0, 1], &[], true),
        (&[2, 0, 3], &[0], &[0, 3], false),  (&[2, 0, 3], &[1], &[2, 3], true),
        (&[2, 0, 3], &[0, 2], &[0], false),  (&[2, 0, 3], &[1, 2], &[2], true),
        (&[0, 2, 0], &[0], &[2, 0], true),   (&[0, 2, 0], &[1], &[0, 0], false),
        (&[0, 2, 0], &[2], &[0, 2], true),   (&[0, 2, 0], &[0, 1], &[0], true),
        (&[0, 2, 0], &[1, 2], &[0], true),   (&[0, 2, 0], &[0, 2], &[2], true),
    ];
    for (shape, axes, expected, is_error) in cases {
        let x = BitNetTensor::zeros(shape, &pool).unwrap();
        let of = |op| tensor::reduce(op, &x, Some(axes), false, &pool);
        let empty_sum =
            [(Reduction::Sum, 0.0), (Reduction::Prod, 1.0), (Reduction::Mean, f32::NAN)];
        for (op, value) in empty_sum {
            let got = of(op).unwrap();
            assert_eq!(got.shape(), expected, "{op:?} of {shape:?} over {axes:?}");
            assert!(
                got.f32()
                    .unwrap()
                    .iter()
                    .all(|x| x.to_bits() == f32::to_bits(value) || (x.is_nan() && value.is_nan()))
            );
        }
        let std = tensor::std(&x, Some(axes), 0, false, &pool).unwrap();
        assert_eq!(std.shape(), expected);
        assert!(std.f32().unwrap().iter().all(|x| x.is_nan()));
        assert_eq!(tensor::any(&x, Some(axes), false, &pool).unwrap().shape(), expected);
        for op in [Reduction::Max, Reduction::Min] {
            match of(op) {
                Ok(got) => assert!(!is_error && got.shape() == expected, "{shape:?} over {axes:?}"),
                Err(error) => {
                    assert!(matches!(error, Error::EmptyReduction { .. }), "{error}");
                    assert!(is_error, "{op:?} of {shape:?} over {axes:?}");
                }
            }
        }
        if let &[axis] = axes {
            for position in [tensor::argmax, tensor::argmin] {
                let got = position(&x, Some(axis), false, &pool);
                assert_eq!(got.is_err(), is_error, "position in {shape:?} along {axis}");
                assert!(got.is_err() || got.unwrap().shape() == expected);
            }
        }
        assert!(tensor::argmax(&x, None, false, &pool).is_err(), "{shape:?}");
    }
}
