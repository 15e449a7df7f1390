//! The conformance suite, run for the reference back end and for the CPU back end on every level of this processor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod suite;

use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, Operations, Preparation, RopeOrder,
    RopeTable,
};
use bitnet_core::kv::{KvCache, KvSpan, KvType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_cpu::{CpuBackend, CpuOptions, proven_levels};
use proptest::prelude::*;
use suite::{Numbers, Rows, bits};

fn cpu(level: IsaLevel, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(threads), isa: Some(level) }).unwrap()
}

#[test]
fn the_reference_conforms() {
    suite::suite(&ReferenceBackend);
}

#[test]
fn every_level_of_this_processor_conforms() {
    let available = IsaLevel::available();
    let skipped: Vec<_> = IsaLevel::ALL.iter().filter(|l| !available.contains(l)).collect();
    let names: Vec<_> = skipped.iter().map(|level| level.name()).collect();
    eprintln!("skipped, not on this processor: {}", names.join(", "));
    for level in available {
        for threads in 1..=3 {
            let backend = cpu(level, threads);
            eprintln!("running: {}", backend.describe());
            suite::suite(&backend);
        }
    }
}

#[test]
fn the_back_end_says_what_it_is() {
    let backend = cpu(IsaLevel::Scalar, 1);
    assert_eq!((backend.name(), backend.describe().as_str()), ("cpu", "cpu (scalar, 1 thread)"));
    assert_eq!(cpu(IsaLevel::Scalar, 2).describe(), "cpu (scalar, 2 threads)");
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
    assert!(backend.threads() >= 1);
    assert!(proven_levels().contains(&(backend.level(), true)));
}

/// The results of operations large enough to be divided, as bits.
fn large_results(backend: &dyn Backend) -> Vec<Vec<u32>> {
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
    backend.linear(&x, &table, None, &mut out).unwrap();
    results.push(bits(&out));
    let (k, v) = (tensor(700, 128), tensor(700, 128));
    let shape = AttentionShape { heads: 20, kv_heads: 2, head_dim: 64, scale: 0.125 };
    let mut out = BitNetTensor::zeros(&[9, 1280], &pool).unwrap();
    for kind in [KvType::F32, KvType::F16, KvType::Int8] {
        let mut cache = KvCache::new(kind, 1, 700, 2, 64, &pool).unwrap();
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
    backend.rms_norm(&gate, &[0.5; 64], 1e-5, &mut normed).unwrap();
    results.push(bits(&normed));
    results
}

#[test]
fn no_result_depends_on_the_number_of_threads() {
    for level in IsaLevel::available() {
        let alone = large_results(&cpu(level, 1));
        for threads in [2, 3, 8] {
            assert_eq!(large_results(&cpu(level, threads)), alone, "{level}, {threads} threads");
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    let pool = HybridMemoryPool::new().unwrap();
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
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
        backend.linear(x, &dense, None, &mut out[2]).unwrap();
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

fn granularity() -> impl Strategy<Value = (ScaleGranularity, usize)> {
    let any_width = prop_oneof![Just(ScaleGranularity::Tensor), Just(ScaleGranularity::Row)];
    let group = prop_oneof![Just(64usize), Just(128), Just(192), Just(256), Just(320)];
    prop_oneof![
        (any_width, 1usize..3000),
        (group, 1usize..9).prop_map(|(n, times)| (ScaleGranularity::Group(n), n * times)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn integers_equal_the_reference_on_every_level(
        (granularity, cols) in granularity(),
        rows in 1usize..40,
        tokens in 0usize..10,
        extreme in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let pool = HybridMemoryPool::new().unwrap();
        let mut numbers = Numbers::new(seed);
        let mut values = numbers.floats(tokens * cols);
        let mut matrix = numbers.matrix(rows, cols, granularity);
        if extreme {
            for x in &mut values {
                *x = if seed % 2 == 0 { 1.0 } else { -1.0 };
            }
            let scales = matrix.scales().to_vec();
            matrix =
                TernaryMatrix::from_trits(rows, cols, &vec![1; rows * cols], granularity, scales)
                    .unwrap();
        }
        let x = BitNetTensor::from_f32(&[tokens, cols], &values, &pool).unwrap();
        let reference = ReferenceBackend.prepare(matrix.clone()).unwrap();
        let expected = ReferenceBackend.bit_linear_integers(&x, &*reference).unwrap();
        let mut out = BitNetTensor::zeros(&[tokens, rows], &pool).unwrap();
        ReferenceBackend
            .bit_linear(&x, ActivationPrecision::Int8, &[&*reference], &mut [&mut out])
            .unwrap();
        let expected_out = bits(&out);
        for level in IsaLevel::available() {
            let backend = cpu(level, 1 + (seed % 3) as usize);
            let weight = backend.prepare(matrix.clone()).unwrap();
            let found = backend.bit_linear_integers(&x, &*weight).unwrap();
            prop_assert_eq!(&found, &expected, "{}", level);
            backend
                .bit_linear(&x, ActivationPrecision::Int8, &[&*weight], &mut [&mut out])
                .unwrap();
            prop_assert_eq!(bits(&out), expected_out.clone(), "{}", level);
        }
    }
}
