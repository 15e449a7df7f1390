//! Cases of matrices with weights of +2: `prepare`, `bit_linear`, `bit_linear_integers` and `gate_up`.

use crate::ternary::{float_case, int8_case};
use crate::{Numbers, bits, dirty, pool, tensor};
use bitnet_core::backend::ActivationPrecision::{Float, Int8};
use bitnet_core::backend::{Activation, Backend};
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// A matrix whose codes are those of `code`, with scales for groups.
fn matrix(
    [rows, cols]: [usize; 2],
    group: usize,
    numbers: &mut Numbers,
    mut code: impl FnMut(&mut Numbers) -> u8,
) -> TernaryMatrix {
    let mut builder = TernaryBuilder::new(rows, cols).unwrap().accept_doubled();
    for _ in 0..rows {
        let codes: Vec<u8> = (0..cols).map(|_| code(numbers)).collect();
        builder.push_row(&codes).unwrap();
    }
    let scales = numbers.floats(rows * cols / group);
    builder.finish(ScaleGranularity::Group(group), scales).unwrap()
}

/// Any code.
fn any(numbers: &mut Numbers) -> u8 {
    (numbers.bits() % 4) as u8
}

/// Codes 3 that are one of a hundred.
fn few(numbers: &mut Numbers) -> u8 {
    (numbers.bits() % 100).min(3) as u8 ^ u8::from(numbers.bits().is_multiple_of(2))
}

/// Products of all sizes.
fn products(backend: &dyn Backend) {
    let mut numbers = Numbers::new(60);
    for (group, [rows, cols], code) in [
        (64, [70, 192], any as fn(&mut Numbers) -> u8),
        (64, [5, 256], few),
        (128, [133, 256], any),
        (128, [6, 384], few),
        (192, [5, 384], any),
        (256, [33, 512], any),
        (512, [49, 1024], any),
    ] {
        let matrix = matrix([rows, cols], group, &mut numbers, code);
        for tokens in [0, 1, 2, 3, 7, 9, 21, 55] {
            let values = numbers.floats(tokens * cols);
            int8_case(backend, &matrix, tokens, &values);
            float_case(backend, &matrix, tokens, &values);
        }
    }
}

/// The largest sums that there are, which lanes of 16 bits must hold.
fn largest_sums(backend: &dyn Backend) {
    let mut numbers = Numbers::new(63);
    for group in [64, 128, 192, 256, 512] {
        let matrix = matrix([9, 2 * group], group, &mut numbers, |_| 3);
        for tokens in [1, 2, 7, 8, 49] {
            for extreme in [-1.0, 1.0] {
                int8_case(backend, &matrix, tokens, &vec![extreme; tokens * 2 * group]);
            }
        }
    }
}

/// `gate_up` is `bit_linear` and `gate`.
fn gated(backend: &dyn Backend) {
    let (pool, mut numbers) = (pool(), Numbers::new(61));
    let weights = [any, few].map(|code| matrix([300, 256], 128, &mut numbers, code));
    let weights = weights.map(|matrix| backend.prepare(matrix).unwrap());
    let weights = [&*weights[0], &*weights[1]];
    for (tokens, precision) in [(1, Float), (9, Float), (1, Int8), (2, Int8)] {
        for activation in [Activation::Silu, Activation::Relu2] {
            let x = tensor(tokens, 256, &numbers.floats(tokens * 256), &pool);
            let [mut a, mut b, mut up, mut scratch] = [(); 4].map(|()| dirty(tokens, 300, &pool));
            backend.bit_linear(&x, precision, &weights, &mut [&mut a, &mut up]).unwrap();
            backend.gate(activation, &mut a, &up).unwrap();
            backend.gate_up(&x, precision, activation, weights, &mut b, &mut scratch).unwrap();
            assert_eq!(bits(&a), bits(&b), "{activation}, {precision:?}, {tokens} tokens");
        }
    }
}

/// A weight that is restored from its parts is the one that was prepared.
fn restored(backend: &dyn Backend) {
    if backend.parts_layout().is_none() {
        return;
    }
    let (pool, mut numbers) = (pool(), Numbers::new(62));
    for prepare in [<dyn Backend>::prepare, <dyn Backend>::prepare_for_sparse_input] {
        let matrix = matrix([40, 512], 64, &mut numbers, any);
        let weight = prepare(backend, matrix).unwrap();
        let restored = backend.prepare_from_parts(&weight.parts()).unwrap();
        let x = tensor(3, 512, &numbers.floats(3 * 512), &pool);
        let [mut a, mut b] = [(); 2].map(|()| dirty(3, 40, &pool));
        backend.bit_linear(&x, Float, &[&*weight], &mut [&mut a]).unwrap();
        backend.bit_linear(&x, Float, &[&*restored], &mut [&mut b]).unwrap();
        assert_eq!((bits(&a), weight.bytes()), (bits(&b), restored.bytes()));
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    products(backend);
    largest_sums(backend);
    gated(backend);
    restored(backend);
}
