//! Operands that do not fit: every operation says so with a typed error.

use crate::{Numbers, Rows, pool};
use bitnet_core::Error;
use bitnet_core::backend::Backend;
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Direction, RopeOrder, RopeTable, Rotation,
    TernaryWeight,
};
use bitnet_core::kv::{KvCache, KvShape, KvSpan, KvType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::ScaleGranularity;

/// A weight that no back end made.
#[derive(Debug)]
struct Foreign;

impl TernaryWeight for Foreign {
    fn rows(&self) -> usize {
        4
    }

    fn cols(&self) -> usize {
        8
    }

    fn bytes(&self) -> usize {
        0
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

macro_rules! refused {
    ($result:expr, $error:pat) => {
        let result = $result;
        assert!(matches!(result, Err($error)), "{}: {result:?}", stringify!($result));
    };
}

fn layers(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let zeros = |rows, cols| BitNetTensor::zeros(&[rows, cols], pool).unwrap();
    let int8 = ActivationPrecision::Int8;
    let matrix = Numbers::new(13).matrix(4, 8, ScaleGranularity::Tensor);
    let weight = backend.prepare(matrix).unwrap();
    let mut out = zeros(2, 4);
    for precision in [int8, ActivationPrecision::Float] {
        refused!(
            backend.bit_linear(&zeros(2, 9), precision, &[&*weight], &mut [&mut out]),
            Error::ShapeMismatch { .. }
        );
        refused!(
            backend.bit_linear(&zeros(3, 8), precision, &[&*weight], &mut [&mut out]),
            Error::ShapeMismatch { .. }
        );
        refused!(
            backend.bit_linear(&zeros(2, 8), precision, &[&Foreign], &mut [&mut out]),
            Error::ForeignWeight { .. }
        );
    }
    refused!(
        backend.bit_linear(&zeros(2, 8), int8, &[&*weight], &mut []),
        Error::ShapeMismatch { .. }
    );
    refused!(backend.bit_linear_integers(&zeros(2, 8), &Foreign), Error::ForeignWeight { .. });
    refused!(backend.bit_linear_integers(&zeros(2, 7), &*weight), Error::ShapeMismatch { .. });
    let strided = zeros(8, 2).transpose(0, 1).unwrap();
    refused!(
        backend.bit_linear(&strided, int8, &[&*weight], &mut [&mut out]),
        Error::NotContiguous { .. }
    );
    let shared = out.clone();
    refused!(
        backend.bit_linear(&zeros(2, 8), int8, &[&*weight], &mut [&mut out]),
        Error::NotWritable { .. }
    );
    drop(shared);
    let table = Rows::plain_f32(4, 8, &[0.0; 32]);
    refused!(backend.linear(&zeros(2, 7), &table, &mut out), Error::ShapeMismatch { .. });
    refused!(backend.linear(&zeros(1, 8), &table, &mut out), Error::ShapeMismatch { .. });
    refused!(backend.embed(&table, &[4], &mut zeros(1, 8)), Error::OutOfRange { .. });
    refused!(backend.embed(&table, &[0], &mut zeros(2, 8)), Error::ShapeMismatch { .. });
}

fn positions(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let zeros = |rows, cols| BitNetTensor::zeros(&[rows, cols], pool).unwrap();
    let table = RopeTable::new(&[1.0, 0.5], 3);
    let order = RopeOrder::Halves;
    refused!(backend.rope(&mut zeros(2, 8), 4, &[2, 3], &table, order), Error::OutOfRange { .. });
    refused!(
        backend.rope(&mut zeros(2, 8), 4, &[0, usize::MAX], &table, order),
        Error::OutOfRange { .. }
    );
    refused!(
        backend.rope(&mut zeros(2, 7), 4, &[0, 1], &table, order),
        Error::ShapeMismatch { .. }
    );
    refused!(
        backend.rope(&mut zeros(2, 8), 2, &[0, 1], &table, order),
        Error::ShapeMismatch { .. }
    );
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 2, scale: 1.0, window: None };
    refused!(backend.rope(&mut zeros(2, 8), 4, &[0], &table, order), Error::ShapeMismatch { .. });
    let (q, mut out) = (zeros(2, 8), zeros(2, 8));
    let mut cache =
        KvCache::new(KvShape { kind: KvType::F16, layers: 1, kv_heads: 2, head_dim: 2 }, 3, pool)
            .unwrap();
    let mut narrow =
        KvCache::new(KvShape { kind: KvType::F16, layers: 1, kv_heads: 1, head_dim: 4 }, 3, pool)
            .unwrap();
    let (x, other) = (zeros(2, 4), zeros(2, 5));
    refused!(backend.store(&x, &x, &mut cache, 0, 0), Error::OutOfRange { .. });
    cache.reserve(3).unwrap();
    narrow.reserve(3).unwrap();
    refused!(backend.store(&x, &x, &mut cache, 0, 2), Error::OutOfRange { .. });
    refused!(backend.store(&x, &x, &mut cache, 1, 0), Error::OutOfRange { .. });
    refused!(backend.store(&x, &x, &mut cache, 0, usize::MAX), Error::OutOfRange { .. });
    refused!(backend.store(&other, &x, &mut cache, 0, 0), Error::ShapeMismatch { .. });
    refused!(backend.store(&x, &other, &mut cache, 0, 0), Error::ShapeMismatch { .. });
    let mut shared = cache.fork(0);
    refused!(backend.store(&x, &x, &mut shared, 0, 0), Error::OutOfRange { .. });
    cache.advance(3);
    let mut shared = cache.fork(3);
    refused!(backend.store(&x, &x, &mut shared, 0, 0), Error::NotWritable { .. });
    let span = KvSpan { cache: &cache, layer: 0, first: 0, tokens: 2 };
    let deep = KvSpan { layer: 1, ..span };
    let late = KvSpan { first: 2, ..span };
    let short = KvSpan { tokens: 1, ..span };
    let foreign = KvSpan { cache: &narrow, ..span };
    let odd = AttentionShape { kv_heads: 3, ..shape };
    refused!(backend.attention(&q, &[late], shape, &mut out), Error::OutOfRange { .. });
    refused!(backend.attention(&q, &[deep], shape, &mut out), Error::OutOfRange { .. });
    refused!(backend.attention(&q, &[short], shape, &mut out), Error::ShapeMismatch { .. });
    refused!(backend.attention(&q, &[foreign], shape, &mut out), Error::ShapeMismatch { .. });
    refused!(backend.attention(&q, &[span], odd, &mut out), Error::ShapeMismatch { .. });
    let blind = AttentionShape { window: Some(0), ..shape };
    refused!(backend.attention(&q, &[span], blind, &mut out), Error::ShapeMismatch { .. });
}

fn pairs(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let zeros = |rows, cols| BitNetTensor::zeros(&[rows, cols], pool).unwrap();
    let (mut x, y) = (zeros(2, 4), zeros(4, 2));
    refused!(backend.add(&mut x, &y), Error::ShapeMismatch { .. });
    refused!(backend.gate(Activation::Silu, &mut x, &y), Error::ShapeMismatch { .. });
    let weight = |n| BitNetTensor::ones(&[n], pool).unwrap();
    refused!(backend.rms_norm(&y, &weight(2), 1e-5, &mut x), Error::ShapeMismatch { .. });
    for n in [0, 3] {
        let normed = backend.rms_norm(&zeros(2, 4), &weight(n), 1e-5, &mut x);
        refused!(normed, Error::ShapeMismatch { .. });
    }
    let (square, x) = (zeros(2, 2), &mut zeros(2, 4));
    refused!(backend.rms_norm(&zeros(2, 4), &square, 1e-5, x), Error::ShapeMismatch { .. });
}

fn rotations(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let zeros = |rows, cols| BitNetTensor::zeros(&[rows, cols], pool).unwrap();
    let rotation = Rotation::new(4, vec![1.0; 8]).unwrap();
    for direction in [Direction::Forward, Direction::Inverse] {
        let run = |x: &BitNetTensor, out: &mut BitNetTensor| {
            backend.hadamard(x, &rotation, direction, out)
        };
        refused!(run(&zeros(2, 4), &mut zeros(2, 4)), Error::ShapeMismatch { .. });
        refused!(run(&zeros(2, 8), &mut zeros(1, 8)), Error::ShapeMismatch { .. });
        refused!(run(&zeros(2, 8), &mut zeros(2, 16)), Error::ShapeMismatch { .. });
        let flat = BitNetTensor::zeros(&[8], pool).unwrap();
        refused!(run(&flat, &mut zeros(1, 8)), Error::ShapeMismatch { .. });
        let strided = zeros(8, 2).transpose(0, 1).unwrap();
        refused!(run(&strided, &mut zeros(2, 8)), Error::NotContiguous { .. });
    }
    let empty = Rotation::new(4, vec![]).unwrap();
    backend.hadamard(&zeros(2, 0), &empty, Direction::Forward, &mut zeros(2, 0)).unwrap();
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    layers(backend, &pool);
    positions(backend, &pool);
    pairs(backend, &pool);
    rotations(backend, &pool);
}
