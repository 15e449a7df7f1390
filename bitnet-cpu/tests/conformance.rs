//! The conformance suite, run for the CPU back end on every level of this processor.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bitnet_core::backend::Backend;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions, proven_levels};
use bitnet_testing::{IntegerCase, conformance, large_results};
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn integers_equal_the_reference(case in IntegerCase::strategy(), threads in 1usize..4) {
        let expected = case.expected();
        for level in IsaLevel::available() {
            prop_assert_eq!(&case.run(&cpu(level, threads)), &expected, "{}", level);
        }
    }
}
