//! Medians, percentiles and bootstrap confidence intervals.
//!
//! Samples are grouped in runs (processes), within which they are more alike than between runs. The two-level bootstrap
//! draws runs with replacement, then samples of each drawn run with replacement, takes the median of all drawn samples,
//! and repeats this [`RESAMPLES`] times. The 95 % confidence interval is between the 2.5 % and the 97.5 % percentile of
//! these medians (the percentile method). For ratios both sides use the same run indices,
//! because runs `i` of all subjects were adjacent in time.

use bitnet_core::rng::SplitMix64;
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 2000;

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// A median with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The lower end.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The upper end.
    pub high: f64,
}

/// The spread of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest sample.
    pub min: f64,
    /// The 5 % percentile.
    pub p5: f64,
    /// The 25 % percentile.
    pub p25: f64,
    /// The 75 % percentile.
    pub p75: f64,
    /// The 95 % percentile.
    pub p95: f64,
    /// The largest sample.
    pub max: f64,
}

/// Returns the quantile `q` (0 to 1) of `sorted` with linear interpolation; `None` if there are no
/// values.
pub fn percentile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// Returns the median of `values`, in any order; `None` if there are none.
pub fn median(values: &[f64]) -> Option<f64> {
    median_of(&mut values.to_vec())
}

fn median_of(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    let lower = if even { below.iter().copied().fold(f64::MIN, f64::max) } else { upper };
    Some((lower + upper) / 2.0)
}

/// Returns the spread of the samples of all runs; `None` if there are none.
pub fn spread(runs: &[Vec<f64>]) -> Option<Spread> {
    let mut all: Vec<f64> = runs.iter().flatten().copied().collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = |q| percentile(&all, q);
    Some(Spread {
        min: at(0.0)?,
        p5: at(0.05)?,
        p25: at(0.25)?,
        p75: at(0.75)?,
        p95: at(0.95)?,
        max: at(1.0)?,
    })
}

/// Returns the median of all samples with its interval; `None` if there are no samples.
pub fn estimate(runs: &[Vec<f64>]) -> Option<Estimate> {
    let runs = nonempty(runs);
    let all: Vec<f64> = runs.iter().flat_map(|run| run.iter().copied()).collect();
    let mut rng = SplitMix64::new(1);
    interval(median(&all)?, |drawn| {
        let picks: Vec<usize> = runs.iter().map(|_| rng.below(runs.len())).collect();
        resampled_median(&runs, &picks, &mut rng, drawn)
    })
}

/// Returns the ratio of the medians of two subjects with its interval; `None` if one has no samples.
pub fn ratio(above: &[Vec<f64>], below: &[Vec<f64>]) -> Option<Estimate> {
    let (above, below) = (nonempty(above), nonempty(below));
    let flat =
        |runs: &[&[f64]]| -> Vec<f64> { runs.iter().flat_map(|run| run.iter().copied()).collect() };
    let point = median(&flat(&above))? / median(&flat(&below))?;
    let shared = above.len().min(below.len());
    let mut rng = SplitMix64::new(2);
    interval(point, |drawn| {
        let picks: Vec<usize> = (0..shared).map(|_| rng.below(shared)).collect();
        let top = resampled_median(&above, &picks, &mut rng, drawn)?;
        Some(top / resampled_median(&below, &picks, &mut rng, drawn)?)
    })
}

/// Returns the runs that have samples.
fn nonempty(runs: &[Vec<f64>]) -> Vec<&[f64]> {
    runs.iter().map(Vec::as_slice).filter(|run| !run.is_empty()).collect()
}

/// Returns the median of samples drawn with replacement from each of the runs `picks`.
fn resampled_median(
    runs: &[&[f64]],
    picks: &[usize],
    rng: &mut SplitMix64,
    drawn: &mut Vec<f64>,
) -> Option<f64> {
    drawn.clear();
    for &pick in picks {
        let run = runs[pick];
        drawn.extend((0..run.len()).map(|_| run[rng.below(run.len())]));
    }
    median_of(drawn)
}

/// Returns the percentile interval of [`RESAMPLES`] resampled values around `point`.
fn interval(
    point: f64,
    mut resample: impl FnMut(&mut Vec<f64>) -> Option<f64>,
) -> Option<Estimate> {
    let mut drawn = Vec::new();
    let mut values: Vec<f64> =
        (0..RESAMPLES).map(|_| resample(&mut drawn)).collect::<Option<_>>()?;
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some(Estimate {
        low: percentile(&values, tail)?,
        median: point,
        high: percentile(&values, 1.0 - tail)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns each value as its own run, for the ordinary bootstrap.
    fn plain(values: &[f64]) -> Vec<Vec<f64>> {
        values.iter().map(|&value| vec![value]).collect()
    }

    /// Roughly normal, with mean 0 and deviation 1.
    fn normal(rng: &mut SplitMix64) -> f64 {
        (0..12).map(|_| rng.next_u64() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }

    #[test]
    fn medians_and_percentiles_match_the_definition() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        let sorted: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.25), Some(2.5));
        assert_eq!(percentile(&sorted, 1.0), Some(10.0));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(spread(&[vec![5.0], vec![1.0, 3.0]]).unwrap().p25, 2.0);
        assert!(estimate(&[vec![], vec![]]).is_none());
    }

    /// Of 11 values, the chance that a resample's median is at most the k-th smallest is that of at least 6 of 11 draws
    /// being among the first k: 0.0072 for k = 2, 0.0512 for k = 3, and the same from above. The 2.5 % percentile is
    /// therefore the third value, and the 97.5 % percentile the third from the top.
    #[test]
    fn interval_of_eleven_values_is_exact() {
        let values = [8.0, 1.0, 2.0, 16.0, 32.0, 4.0, 128.0, 64.0, 1024.0, 256.0, 512.0];
        let found = estimate(&plain(&values)).unwrap();
        assert_eq!(found, Estimate { low: 4.0, median: 32.0, high: 256.0 });
    }

    /// `scipy.stats.bootstrap` (1.17.1) with `method="percentile"`, 200,000 resamples, `np.median` of `X`; and, paired,
    /// the ratio of the medians of `1.3 X + i mod 5` and `X`.
    #[test]
    fn intervals_agree_with_those_of_scipy() {
        let x = [
            49.1, 48.2, 50.3, 47.9, 51.2, 49.6, 48.8, 49.9, 53.4, 48.1, 47.5, 50.9, 49.3, 48.6,
            52.2, 49.0, 48.4, 50.0, 61.7, 49.4, 48.9, 50.6, 47.8, 49.7, 51.5,
        ];
        let found = estimate(&plain(&x)).unwrap();
        assert_eq!(found, Estimate { low: 48.8, median: 49.4, high: 50.3 });
        let y: Vec<f64> = x.iter().enumerate().map(|(i, x)| 1.3 * x + (i % 5) as f64).collect();
        let found = ratio(&plain(&y), &plain(&x)).unwrap();
        // 2,000 resamples find the percentiles of this smoother distribution to about 0.002.
        let theirs = [1.312_424, 1.346_761, 1.357_755];
        for (ours, theirs) in [found.low, found.median, found.high].into_iter().zip(theirs) {
            assert!((ours - theirs).abs() < 0.003, "{found:?}");
        }
    }

    #[test]
    fn runs_that_differ_widen_the_interval() {
        let mut rng = SplitMix64::new(8);
        let mut runs = |spread: f64| -> Vec<Vec<f64>> {
            let mut run =
                |offset: f64| (0..20).map(|_| 100.0 + offset + normal(&mut rng)).collect();
            [-2.0, -1.0, 0.0, 1.0, 2.0].map(|offset| run(offset * spread)).into()
        };
        let width = |e: Estimate| e.high - e.low;
        let alike = width(estimate(&runs(0.0)).unwrap());
        let apart = width(estimate(&runs(5.0)).unwrap());
        assert!(apart > 4.0 * alike, "{alike} {apart}");
    }

    /// 300 experiments with a known median: 95 % of the intervals should contain it. The bounds are four standard
    /// deviations of that count, minus one percent, because the percentile method is slightly narrow.
    #[test]
    fn intervals_have_95_percent_coverage() {
        let mut rng = SplitMix64::new(5);
        let held = (0..300)
            .filter(|_| {
                let values: Vec<f64> = (0..30).map(|_| 50.0 + normal(&mut rng)).collect();
                let found = estimate(&plain(&values)).unwrap();
                (found.low..=found.high).contains(&50.0)
            })
            .count();
        assert!((267..=300).contains(&held), "{held} of 300");
    }

    #[test]
    fn ratios_keep_runs_together() {
        // A slow run affects both sides, so the interval of the ratio is narrower.
        let slow = [1.0, 1.5, 0.8, 1.2, 1.0, 2.0];
        let below: Vec<_> = slow.iter().map(|s| vec![10.0 * s; 3]).collect();
        let above: Vec<_> = slow.iter().map(|s| vec![20.0 * s; 3]).collect();
        let found = ratio(&above, &below).unwrap();
        assert_eq!(found, Estimate { low: 2.0, median: 2.0, high: 2.0 });
        assert!(ratio(&above, &[]).is_none());
    }
}
