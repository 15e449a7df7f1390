//! The conformance suite, run for the CPU back end on every level of this processor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bitnet_core::backend::{Backend, Direction, Operations, Rotation};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions, proven_levels};
use bitnet_testing::{IntegerCase, Numbers, bits, conformance, large_results};
use proptest::prelude::*;

fn cpu(level: IsaLevel, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(threads), isa: Some(level) }).unwrap()
}

#[test]
fn every_level_conforms() {
    let available = IsaLevel::available();
    let skipped: Vec<_> = IsaLevel::ALL.iter().filter(|l| !available.contains(l)).collect();
    let names: Vec<_> = skipped.iter().map(|level| level.name()).collect();
    eprintln!("skipped, not on this processor: {}", names.join(", "));
    for level in available {
        for threads in 1..=3 {
            let backend = cpu(level, threads);
            eprintln!("running: {}", backend.describe());
            conformance(&backend, &[]);
        }
    }
}

#[test]
fn description_names_level_and_threads() {
    let backend = cpu(IsaLevel::Scalar, 1);
    assert_eq!((backend.name(), backend.describe().as_str()), ("cpu", "cpu (scalar, 1 thread)"));
    assert_eq!(cpu(IsaLevel::Scalar, 2).describe(), "cpu (scalar, 2 threads)");
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
    assert!(backend.threads() >= 1);
    assert!(proven_levels().contains(&(backend.level(), true)));
}

#[test]
fn results_do_not_depend_on_thread_count() {
    for level in IsaLevel::available() {
        let single = large_results(&cpu(level, 1));
        for threads in [2, 3, 8] {
            assert_eq!(large_results(&cpu(level, threads)), single, "{level}, {threads} threads");
        }
    }
}

fn rotated(
    backend: &dyn Operations,
    x: &BitNetTensor,
    rotation: &Rotation,
    direction: Direction,
    pool: &HybridMemoryPool,
) -> Vec<u32> {
    let mut out = BitNetTensor::zeros(x.shape(), pool).unwrap();
    backend.hadamard(x, rotation, direction, &mut out).unwrap();
    bits(&out)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn integers_equal_the_reference(case in IntegerCase::strategy(), threads in 1usize..4) {
        let expected = case.expected();
        for level in IsaLevel::available() {
            prop_assert_eq!(&case.run(&cpu(level, threads)), &expected, "{}", level);
        }
    }

    #[test]
    fn rotations_equal_the_reference(
        log in 0u32..14,
        blocks in 1usize..6,
        tokens in 0usize..4,
        threads in 1usize..4,
        seed: u64,
    ) {
        let (pool, mut numbers) = (HybridMemoryPool::new().unwrap(), Numbers::new(seed));
        let (block, cols) = (1 << log, blocks << log);
        let signs: Vec<f32> = numbers.floats(cols).iter().map(|x| 1f32.copysign(*x)).collect();
        let rotation = Rotation::new(block, signs).unwrap();
        let x = numbers.floats(tokens * cols);
        let x = BitNetTensor::from_f32(&[tokens, cols], &x, &pool).unwrap();
        for direction in [Direction::Forward, Direction::Inverse] {
            let expected = rotated(&ReferenceBackend, &x, &rotation, direction, &pool);
            for level in IsaLevel::available() {
                let got = rotated(&cpu(level, threads), &x, &rotation, direction, &pool);
                prop_assert_eq!(&got, &expected, "{}", level);
            }
        }
    }
}
