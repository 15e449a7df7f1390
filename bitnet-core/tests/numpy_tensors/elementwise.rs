//! Arithmetic bit for bit, elementary functions within their bounds, broadcasting as in NumPy.

use bitnet_core::Error;
use bitnet_core::device::{Device, LimitedCpu};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule, TensorMetadata};
use bitnet_core::tensor::{self, BinaryOp, Comparison, Reduction, UnaryOp};

use crate::golden::{Arrays, assert_bits, assert_ulps, checksum};

fn every_shape(rank: u32, extents: &[usize]) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for rank in 0..=rank {
        for i in 0..extents.len().pow(rank) {
            let digits = (0..rank).rev().map(|d| i / extents.len().pow(d) % extents.len());
            all.push(digits.map(|digit| extents[digit]).collect());
        }
    }
    all
}

#[test]
fn every_pair_of_shapes_is_broadcast_as_in_numpy() {
    let golden = Arrays::open("broadcast");
    let pool = HybridMemoryPool::new().unwrap();
    for (name, rank, extents) in [("to_4", 4, &[1, 2, 3][..]), ("to_3", 3, &[0, 1, 2, 3])] {
        let shapes = every_shape(rank, extents);
        let ramps = |scale: f32| -> Vec<BitNetTensor> {
            let ramp = |shape: &Vec<usize>| {
                let values: Vec<f32> =
                    (0..shape.iter().product()).map(|i: usize| i as f32 * scale).collect();
                BitNetTensor::from_f32(shape, &values, &pool).unwrap()
            };
            shapes.iter().map(ramp).collect()
        };
        let (a, b) = (ramps(1.0), ramps(1000.0));
        let expected = golden.get(name);
        assert_eq!(expected.shape, [shapes.len(), shapes.len()]);
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
        for ((a, b), expected) in pairs.zip(expected.u32()) {
            match tensor::sub(a, b, &pool) {
                Ok(result) => {
                    let mut numbers: Vec<f32> =
                        result.shape().iter().map(|&extent| extent as f32).collect();
                    numbers.extend(result.f32().unwrap());
                    assert_eq!(checksum(&numbers), expected, "{:?} - {:?}", a.shape(), b.shape());
                }
                Err(error) => {
                    assert_eq!(expected, 0, "{error}");
                    assert!(matches!(error, Error::NotBroadcastable { .. }));
                }
            }
        }
    }
}

#[test]
fn arithmetic_and_comparisons_are_equal_bit_for_bit() {
    let golden = Arrays::open("elementwise");
    let pool = HybridMemoryPool::new().unwrap();
    let x = golden.tensor("edges", &pool);
    let n = x.shape()[0];
    let (a, b) = (x.unsqueeze(1).unwrap(), x.unsqueeze(0).unwrap());
    for (op, name) in [
        (BinaryOp::Add, "add"),
        (BinaryOp::Sub, "subtract"),
        (BinaryOp::Mul, "multiply"),
        (BinaryOp::Div, "divide"),
        (BinaryOp::Min, "minimum"),
        (BinaryOp::Max, "maximum"),
    ] {
        // The order of 0 and -0 is unspecified; adding 0 makes both 0.
        let settled = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| v + 0.0).collect() };
        let got = tensor::binary(op, &a, &b, &pool).unwrap();
        let (got, expected) = (got.f32().unwrap(), golden.f32(name));
        match op {
            BinaryOp::Min | BinaryOp::Max => assert_bits(&settled(got), &settled(&expected), name),
            _ => assert_bits(got, &expected, name),
        }
        let mut in_place = a.broadcast_to(&[n, n]).unwrap().to_contiguous(&pool).unwrap();
        tensor::binary_in_place(op, &mut in_place, &b).unwrap();
        assert_bits(in_place.f32().unwrap(), got, name);
        let mut out = BitNetTensor::zeros(&[n, n], &pool).unwrap();
        tensor::binary_into(op, &a, &b, &mut out).unwrap();
        assert_bits(out.f32().unwrap(), got, name);
    }
    let names = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"];
    for (comparison, name) in Comparison::ALL.into_iter().zip(names) {
        let mask = tensor::compare(comparison, &a, &b, &pool).unwrap();
        assert_eq!(mask.bytes().unwrap(), golden.get(name).bytes(), "{name}");
        let chosen = tensor::select(&mask, &a, &b, &pool).unwrap();
        let values = x.f32().unwrap();
        for (i, chosen) in chosen.f32().unwrap().iter().enumerate() {
            let expected =
                if mask.bytes().unwrap()[i] == 1 { values[i / n] } else { values[i % n] };
            assert_bits(&[*chosen], &[expected], name);
        }
    }
    for (op, name) in [
        (UnaryOp::Neg, "negative"),
        (UnaryOp::Abs, "absolute"),
        (UnaryOp::Sqrt, "sqrt"),
        (UnaryOp::Square, "square"),
        (UnaryOp::Reciprocal, "reciprocal"),
        (UnaryOp::Clamp { low: -0.75, high: 2.5 }, "clip"),
        (UnaryOp::Clamp { low: 2.5, high: -0.75 }, "clip_crossed"),
    ] {
        let got = tensor::unary(op, &x, &pool).unwrap();
        assert_bits(got.f32().unwrap(), &golden.f32(name), name);
    }
}

#[test]
fn elementary_functions_are_within_their_bounds() {
    let golden = Arrays::open("elementwise");
    let pool = HybridMemoryPool::new().unwrap();
    let x = golden.tensor("numbers", &pool);
    for (op, name) in [
        (UnaryOp::Exp, "exp"),
        (UnaryOp::Log, "log"),
        (UnaryOp::Tanh, "tanh"),
        (UnaryOp::Erf, "erf"),
        (UnaryOp::Sigmoid, "sigmoid"),
    ] {
        let got = tensor::unary(op, &x, &pool).unwrap();
        assert_ulps(got.f32().unwrap(), &golden.get(name).f64(), 0.51, name);
    }
    let edges = golden.tensor("edges", &pool);
    let (a, b) = (edges.unsqueeze(1).unwrap(), edges.unsqueeze(0).unwrap());
    let powers = tensor::pow(&a, &b, &pool).unwrap();
    assert_ulps(powers.f32().unwrap(), &golden.get("power").f64(), 0.51, "pow");
    let two = BitNetTensor::full(&[1, 1], 2.0, &pool).unwrap();
    let squares = tensor::pow(&edges, &two, &pool).unwrap();
    assert_bits(squares.f32().unwrap(), &golden.f32("square"), "x to the power 2");
}

#[test]
fn half_precision_is_computed_in_f32_and_rounded_once() {
    let golden = Arrays::open("elementwise");
    let pool = HybridMemoryPool::new().unwrap();
    for (dtype, name) in [(BitNetDType::F16, "f16"), (BitNetDType::BF16, "bf16")] {
        let half = |which: &str| {
            let array = golden.get(&format!("{name}.{which}"));
            let metadata = TensorMetadata::new(array.shape.clone(), dtype, Device::Cpu);
            let mut t = BitNetTensor::new(metadata, &pool).unwrap();
            for (bytes, stored) in
                t.bytes_mut().unwrap().as_chunks_mut::<2>().0.iter_mut().zip(array.u16())
            {
                *bytes = stored.to_ne_bytes();
            }
            t
        };
        let (p, q) = (half("p"), half("q"));
        for (op, which) in [(BinaryOp::Add, "sum"), (BinaryOp::Div, "quotient")] {
            let got = tensor::binary(op, &p, &q, &pool).unwrap();
            assert_eq!(got.dtype(), dtype);
            assert_eq!(got.bytes(), half(which).bytes(), "{name}.{which}");
        }
        let y = golden.tensor("numbers", &pool).narrow(0, 100..200).unwrap();
        let mixed = tensor::add(&p, &y, &pool).unwrap();
        assert_bits(mixed.f32().unwrap(), &golden.f32(&format!("{name}.mixed")), "mixed");
    }
}

#[test]
fn incompatible_operands_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::ones(&[2, 3], &pool).unwrap();
    let bytes = x.cast(BitNetDType::I8, CastRule::Checked, &pool).unwrap();
    assert!(matches!(tensor::add(&x, &bytes, &pool), Err(Error::DTypeMismatch { .. })));
    assert!(matches!(tensor::exp(&bytes, &pool), Err(Error::DTypeMismatch { .. })));
    assert!(matches!(tensor::select(&x, &x, &x, &pool), Err(Error::DTypeMismatch { .. })));
    let mut small = BitNetTensor::zeros(&[3], &pool).unwrap();
    let into = tensor::binary_into(BinaryOp::Add, &x, &x, &mut small);
    assert!(matches!(into, Err(Error::ShapeMismatch { .. })));
    let grown = tensor::binary_in_place(BinaryOp::Add, &mut small, &x);
    assert!(matches!(grown, Err(Error::NotBroadcastable { .. })));
    let mut shared = x.clone();
    let shared = tensor::unary_in_place(UnaryOp::Neg, &mut shared);
    assert!(matches!(shared, Err(Error::NotWritable { .. })));
    let mut out = BitNetTensor::zeros(&[3, 2], &pool).unwrap().transpose(0, 1).unwrap();
    let strided = tensor::unary_into(UnaryOp::Neg, &x, &mut out);
    assert!(matches!(strided, Err(Error::NotContiguous { .. })));
}

#[test]
fn results_are_on_the_processor_for_operands_on_any_device() {
    let pool = HybridMemoryPool::new().unwrap();
    let limited = Device::from(LimitedCpu::new(1 << 20, 1));
    let of = |dtype| TensorMetadata::new(vec![2, 3], dtype, limited.clone());
    let x = BitNetTensor::new(of(BitNetDType::F32), &pool).unwrap();
    let results = [
        tensor::add(&x, &x, &pool),
        tensor::compare(Comparison::Less, &x, &x, &pool),
        tensor::any(&x, None, false, &pool),
        tensor::all(&x, Some(&[0]), false, &pool),
        tensor::reduce(Reduction::Sum, &x, None, false, &pool),
    ];
    for result in results {
        assert_eq!(result.unwrap().device(), &Device::Cpu);
    }
}
