//! The conformance suite that every back end runs, against formulas written here.
//!
//! Nothing here knows which back end runs. What a back end promises bit for bit is compared bit for bit; the rest
//! within the bound stated at each case. A case that does not hold panics.
//!
//! ```
//! use bitnet_core::reference::ReferenceBackend;
//! use bitnet_testing::{CASES, conformance};
//!
//! // In the tests of a back end: all cases, or all but those of operations that it does not have yet.
//! let skip: Vec<&str> = CASES.iter().map(|case| case.name).filter(|name| *name != "elementwise").collect();
//! conformance(&ReferenceBackend, &skip);
//! ```
//!
//! [`DeviceBackend`] holds tensors and caches in memory that the host cannot
//! read: what runs on it runs on a GPU's back end.
//!
//! Three further checks need more than one back end, or random input:
//!
//! - [`large_results`] are compared between back ends that differ in threads alone;
//! - [`IntegerCase::strategy`] makes random layers whose integers must equal the reference's;
//! - [`Numbers`] and [`Rows`] make fixed input for tests of a back end's own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a case that cannot go on has failed")]

mod batches;
mod cached;
mod dense;
mod device;
mod doubled;
mod elementwise;
mod integers;
mod numbers;
mod recurrent;
mod shapes;
mod ternary;
mod windows;

use bitnet_core::backend::Backend;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;

pub use batches::large_results;
pub use device::DeviceBackend;
pub use integers::IntegerCase;
pub use numbers::{Numbers, Rows};

/// Half an ulp of 1 in f32.
pub(crate) const EPS: f64 = 1.0 / (1u64 << 24) as f64;

/// A group of cases of related operations.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The name by which the group is skipped.
    pub name: &'static str,
    run: fn(&dyn Backend),
}

/// All cases of all operations.
pub const CASES: &[Case] = &[
    Case { name: "ternary layers", run: ternary::cases },
    Case { name: "weights of +2", run: doubled::cases },
    Case { name: "gated layers", run: ternary::gated_cases },
    Case { name: "dense", run: dense::cases },
    Case { name: "cached", run: cached::cases },
    Case { name: "windows", run: windows::cases },
    Case { name: "elementwise", run: elementwise::cases },
    Case { name: "recurrent", run: recurrent::cases },
    Case { name: "shapes", run: shapes::cases },
    Case { name: "batches", run: batches::cases },
];

/// Runs all [`CASES`] but those whose names are in `skip`, which are printed.
///
/// # Panics
/// If a case does not hold, or a name in `skip` is not that of a case.
pub fn conformance(backend: &dyn Backend, skip: &[&str]) {
    for name in skip {
        assert!(CASES.iter().any(|case| case.name == *name), "{name} is not the name of a case");
    }
    for case in CASES {
        if skip.contains(&case.name) {
            eprintln!("{}: skipped: {}", backend.describe(), case.name);
        } else {
            (case.run)(backend);
        }
    }
}

pub(crate) fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

/// Makes a tensor `[rows, cols]` of the given values.
pub(crate) fn tensor(
    rows: usize,
    cols: usize,
    values: &[f32],
    pool: &HybridMemoryPool,
) -> BitNetTensor {
    BitNetTensor::from_f32(&[rows, cols], values, pool).unwrap()
}

/// Makes a tensor of NaN, every element of which an operation must overwrite.
pub(crate) fn dirty(rows: usize, cols: usize, pool: &HybridMemoryPool) -> BitNetTensor {
    tensor(rows, cols, &vec![f32::NAN; rows * cols], pool)
}

/// Returns the bits of every element; every NaN counts as the same.
///
/// # Panics
/// If the tensor is not contiguous f32.
pub fn bits(t: &BitNetTensor) -> Vec<u32> {
    t.f32().unwrap().iter().map(|&x| same_bits(x)).collect()
}

pub(crate) fn same_bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

/// Checks that `got[i]` lies within `bound(i)` of `expected[i]`; a NaN must be a NaN, an infinity that infinity.
pub(crate) fn assert_close(
    case: &str,
    got: &[f32],
    expected: &[f64],
    bound: impl Fn(usize) -> f64,
) {
    assert_eq!(got.len(), expected.len(), "{case}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let got = f64::from(got);
        let same = got == expected || (got.is_nan() && expected.is_nan());
        let (error, bound) = ((got - expected).abs(), bound(i));
        assert!(same || error <= bound, "{case}: [{i}] is {got}, not {expected} ± {bound:e}");
    }
}
