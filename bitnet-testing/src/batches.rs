//! Independence: a result depends neither on the tokens beside it nor on the number of threads.

use crate::{Numbers, Rows, bits};
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, Direction, RopeOrder, RopeTable,
    Rotation,
};
use bitnet_core::kv::{KvCache, KvShape, KvSpan, KvType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::ScaleGranularity;

/// Returns the results of operations that are large enough to be divided among threads, as bits.
///
/// # Panics
/// If an operation fails.
pub fn large_results(backend: &dyn Backend) -> Vec<Vec<u32>> {
    let pool = HybridMemoryPool::new().unwrap();
    let mut numbers = Numbers::new(7);
    let mut tensor = |rows: usize, cols: usize| {
        BitNetTensor::from_f32(&[rows, cols], &numbers.floats(rows * cols), &pool).unwrap()
    };
    let mut results = Vec::new();
    let (x, mut gate) = (tensor(9, 1280), tensor(300, 1280));
    let mut out = BitNetTensor::zeros(&[9, 301], &pool).unwrap();
    let weight =
        backend.prepare(Numbers::new(8).matrix(301, 1280, ScaleGranularity::Group(64))).unwrap();
    for precision in [ActivationPrecision::Int8, ActivationPrecision::Float] {
        backend.bit_linear(&x, precision, &[&*weight], &mut [&mut out]).unwrap();
        results.push(bits(&out));
    }
    let table = Rows::plain_f32(301, 1280, &Numbers::new(9).floats(301 * 1280));
    backend.linear(&x, &table, &mut out).unwrap();
    results.push(bits(&out));
    let (k, v) = (tensor(700, 128), tensor(700, 128));
    let shape = AttentionShape { heads: 20, kv_heads: 2, head_dim: 64, scale: 0.125, window: None };
    let mut out = BitNetTensor::zeros(&[9, 1280], &pool).unwrap();
    for kind in [KvType::F32, KvType::F16, KvType::Int8] {
        let mut cache =
            KvCache::new(KvShape { kind, layers: 1, kv_heads: 2, head_dim: 64 }, 700, &pool)
                .unwrap();
        cache.reserve(700).unwrap();
        backend.store(&k, &v, &mut cache, 0, 0).unwrap();
        let span = |first, tokens| KvSpan { cache: &cache, layer: 0, first, tokens };
        for spans in [&[span(691, 9)][..], &[span(600, 1), span(30, 8)]] {
            backend.attention(&x, spans, shape, &mut out).unwrap();
            results.push(bits(&out));
        }
        let (x, mut out) = (
            x.narrow(0, 0..1).unwrap(),
            out.narrow(0, 0..1).unwrap().to_contiguous(&pool).unwrap(),
        );
        backend.attention(&x, &[span(699, 1)], shape, &mut out).unwrap();
        results.push(bits(&out));
    }
    let up = tensor(300, 1280);
    backend.gate(Activation::Silu, &mut gate, &up).unwrap();
    results.push(bits(&gate));
    backend.add(&mut gate, &up).unwrap();
    let frequencies: Vec<f32> = (0..32).map(|j| 0.8f32.powi(j)).collect();
    let (positions, table) = ((3..303).collect::<Vec<_>>(), RopeTable::new(&frequencies, 303));
    backend.rope(&mut gate, 64, &positions, &table, RopeOrder::Halves).unwrap();
    results.push(bits(&gate));
    let mut normed = BitNetTensor::zeros(&[300, 1280], &pool).unwrap();
    backend
        .rms_norm(&gate, &BitNetTensor::full(&[64], 0.5, &pool).unwrap(), 1e-5, &mut normed)
        .unwrap();
    results.push(bits(&normed));
    let signs = (0..1280).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect::<Vec<f32>>();
    let rotation = Rotation::new(256, signs).unwrap();
    for direction in [Direction::Forward, Direction::Inverse] {
        backend.hadamard(&gate, &rotation, direction, &mut normed).unwrap();
        results.push(bits(&normed));
    }
    results
}

/// A token's result is the same bits alone and beside others.
pub(crate) fn cases(backend: &dyn Backend) {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[6, 300], &Numbers::new(3).floats(1800), &pool).unwrap();
    let ternary = backend.prepare(Numbers::new(4).matrix(9, 300, ScaleGranularity::Row)).unwrap();
    let dense = Rows::plain_f32(9, 300, &Numbers::new(5).floats(2700));
    let run = |x: &BitNetTensor| {
        let tokens = x.shape()[0];
        let mut out: Vec<_> =
            (0..3).map(|_| BitNetTensor::zeros(&[tokens, 9], &pool).unwrap()).collect();
        for (out, precision) in
            out.iter_mut().zip([ActivationPrecision::Int8, ActivationPrecision::Float])
        {
            backend.bit_linear(x, precision, &[&*ternary], &mut [out]).unwrap();
        }
        backend.linear(x, &dense, &mut out[2]).unwrap();
        out.iter().map(bits).collect::<Vec<_>>()
    };
    let together = run(&x);
    for token in 0..6 {
        let alone = run(&x.narrow(0, token..token + 1).unwrap());
        for (together, alone) in together.iter().zip(alone) {
            assert_eq!(together[token * 9..(token + 1) * 9], alone, "token {token}");
        }
    }
}
