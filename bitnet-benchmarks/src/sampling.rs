//! Sampling of the time per operation of repeatable work.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The sampling plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Warm-up time.
    pub warm_up: Duration,
    /// Time per sample.
    pub sample: Duration,
    /// Samples per process.
    pub samples: usize,
}

impl Plan {
    /// Returns the minimal plan, for testing that work runs.
    pub const ONCE: Self = Self { warm_up: Duration::ZERO, sample: Duration::ZERO, samples: 1 };

    /// Returns the time of one process with this plan.
    pub fn budget(&self) -> Duration {
        self.warm_up + self.sample * u32::try_from(self.samples).unwrap_or(u32::MAX)
    }
}

/// Minimum number of samples, even if slow work exceeds the plan's time.
const FEWEST: usize = 3;

/// Runs `work(rounds)` by `plan`. `work` returns the time of each of its `N` parts, with `operations` operations per
/// round each. Returns the samples of each part in nanoseconds per operation.
///
/// # Errors
/// Errors of `work`.
pub fn sample<const N: usize, E>(
    plan: &Plan,
    operations: f64,
    mut work: impl FnMut(u64) -> Result<[Duration; N], E>,
) -> Result<[Vec<f64>; N], E> {
    let rounds = warm_up(plan, |rounds| work(rounds).map(drop))?;
    let mut samples = [const { Vec::new() }; N];
    let start = Instant::now();
    for taken in 0..plan.samples {
        if taken >= FEWEST && start.elapsed() > plan.budget() * 2 {
            break;
        }
        for (samples, time) in samples.iter_mut().zip(work(rounds)?) {
            samples.push(time.as_secs_f64() * 1e9 / (rounds as f64 * operations));
        }
    }
    Ok(samples)
}

/// Samples work that is repeated as it is, in nanoseconds per operation; `work` has `operations` of them.
///
/// # Errors
/// The first error of `work`.
pub fn timed<E>(
    plan: &Plan,
    operations: f64,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    let samples = sample(plan, operations, |rounds| {
        let start = Instant::now();
        for _ in 0..rounds {
            work()?;
        }
        Ok([start.elapsed()])
    });
    samples.map(|[samples]| samples)
}

/// Doubles the rounds until the warm-up is over; returns the rounds per sample.
fn warm_up<E>(plan: &Plan, mut work: impl FnMut(u64) -> Result<(), E>) -> Result<u64, E> {
    let start = Instant::now();
    let mut rounds = 1_u64;
    loop {
        let began = Instant::now();
        work(rounds)?;
        let took = began.elapsed();
        if start.elapsed() >= plan.warm_up {
            let wanted = plan.sample.as_secs_f64() / took.as_secs_f64().max(1e-9);
            return Ok(((rounds as f64 * wanted) as u64).max(1));
        }
        // Limited to the time of a sample; the last doubling would dominate otherwise.
        if took < plan.sample {
            rounds = rounds.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Refused;

    #[test]
    fn samples_are_times_of_one_operation() {
        // Work with a fixed reported time: 30 ns per round for the first part
        // and 10 ns for the second, 5 operations each.
        let found = sample::<2, Refused>(&Plan::ONCE, 5.0, |rounds| {
            Ok([30, 10].map(|ns| Duration::from_nanos(ns * rounds)))
        });
        let [first, second] = found.unwrap();
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!((first[0] - 6.0).abs() < 1e-9 && (second[0] - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_refusal_ends_it() {
        let refused = Refused { bytes: 7 };
        assert_eq!(sample::<1, _>(&Plan::ONCE, 1.0, |_| Err(refused)), Err(refused));
    }
}
