//! Means, medians and spreads of a few samples.

/// A summary of samples, in their unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) mean: f64,
    /// The sample standard deviation (divided by n - 1); 0 for a single sample.
    pub(crate) deviation: f64,
    pub(crate) min: f64,
    /// The lower quartile.
    pub(crate) lower: f64,
    pub(crate) median: f64,
    /// The upper quartile.
    pub(crate) upper: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Returns the summary of `samples`, in any order; `None` if there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let squares: f64 = sorted.iter().map(|x| (x - mean) * (x - mean)).sum();
        let deviation = if sorted.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        let (lower, median, upper) =
            (quantile(&sorted, 0.25), quantile(&sorted, 0.5), quantile(&sorted, 0.75));
        Some(Self { mean, deviation, min, lower, median, upper, max })
    }
}

/// Returns the quantile `share` of sorted samples, with linear interpolation.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (at - at.floor()) * (sorted[above] - sorted[below])
}

/// Returns the median; `None` without samples.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    Summary::of(samples).map(|s| s.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_up() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0, 10.0]).unwrap();
        assert_eq!((s.min, s.lower, s.median, s.upper, s.max), (1.0, 2.0, 3.0, 4.0, 10.0));
        assert_eq!(s.mean, 4.0);
        assert!((s.deviation - 12.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.deviation, one.lower, one.upper), (0.0, 7.0, 7.0));
        assert_eq!(Summary::of(&[]), None);
    }
}
