//! From a piece of work that can be repeated to samples of the time that one operation takes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::blocks::Refused;

/// How long a piece of work is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Time for which the work runs before anything is kept.
    pub warm_up: Duration,
    /// Time that one sample takes.
    pub sample: Duration,
    /// Samples of one process.
    pub samples: usize,
}

impl Plan {
    /// Each piece of work as seldom as possible: whether it runs, not how fast.
    pub const ONCE: Self = Self { warm_up: Duration::ZERO, sample: Duration::ZERO, samples: 1 };

    /// Time for one process that is measured by this plan.
    pub fn budget(&self) -> Duration {
        self.warm_up + self.sample * u32::try_from(self.samples).unwrap_or(u32::MAX)
    }
}

/// Samples that are taken even where the work is so slow that the plan's time is over.
const FEWEST: usize = 3;

/// Runs `work(rounds)` by `plan`. It answers with the time of each of its `N` parts, of which each holds `operations` operations
/// a round; the samples of each part come back in nanoseconds an operation.
///
/// # Errors
/// Those of the work.
pub fn sample<const N: usize>(
    plan: &Plan,
    operations: f64,
    mut work: impl FnMut(u64) -> Result<[Duration; N], Refused>,
) -> Result<[Vec<f64>; N], Refused> {
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

/// Doubles the rounds until the warm-up is over; the rounds that take as long as one sample.
fn warm_up(plan: &Plan, mut work: impl FnMut(u64) -> Result<(), Refused>) -> Result<u64, Refused> {
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
        // Not beyond what a sample takes: the last doubling would be most of the time.
        if took < plan.sample {
            rounds = rounds.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_times_of_one_operation() {
        // A work that says how long it took: 30 ns a round for the first part and 10 ns for the second, 5 operations each.
        let found = sample(&Plan::ONCE, 5.0, |rounds| {
            Ok([30, 10].map(|ns| Duration::from_nanos(ns * rounds)))
        });
        let [first, second] = found.unwrap();
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!((first[0] - 6.0).abs() < 1e-9 && (second[0] - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_refusal_ends_it() {
        let refused = Refused { bytes: 7 };
        assert_eq!(sample::<1>(&Plan::ONCE, 1.0, |_| Err(refused)), Err(refused));
    }
}
