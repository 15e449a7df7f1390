//! The report of a run.

mod chart;
pub mod html;
pub mod text;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::stats::{self, Estimate, Spread};
use crate::suite::Unit;

/// The report of a benchmark run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The protocol.
    pub method: Method,
    /// Missing results and the reasons.
    pub unavailable: Vec<Unavailable>,
    /// The results.
    pub suites: Vec<SuiteReport>,
}

/// The measurement protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Processes per number.
    pub repetitions: usize,
    /// Samples per process, if the work is fast enough.
    pub samples: usize,
    /// Milliseconds of warm-up per process.
    pub warm_up_ms: f64,
    /// Milliseconds per sample.
    pub sample_ms: f64,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Confidence of the intervals.
    pub confidence: f64,
}

impl Method {
    /// Describes the protocol in one sentence.
    pub fn sentence(&self) -> String {
        let Self { repetitions, samples, warm_up_ms, sample_ms, resamples, confidence } = self;
        let processes = if *repetitions == 1 { "process" } else { "processes" };
        format!(
            "Each number is the median of {repetitions} {processes} of up to {samples} samples of {sample_ms} ms after {warm_up_ms} ms of \
             warm-up; the processes of all columns take turns. In brackets, and after \u{b1}: the {:.0} % interval of that median by a \
             bootstrap over processes and samples ({resamples} resamples, percentile method).",
            confidence * 100.0
        )
    }
}

/// A missing result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailable {
    /// The name.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// The results of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteReport {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<ColumnReport>,
    /// Its tables.
    pub groups: Vec<Group>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// Its version, if known.
    pub version: Option<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its title.
    pub title: String,
    /// The meaning of its numbers.
    pub about: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A row: one number per column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name within the table.
    pub label: String,
    /// The unit.
    pub unit: Unit,
    /// The numbers, in the order of the columns.
    pub cells: Vec<Cell>,
    /// The column with the best number.
    pub best: Option<usize>,
    /// Comparisons of columns.
    pub comparisons: Vec<Comparison>,
}

/// The result of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// A measured result.
    Measured {
        /// The median with its interval.
        estimate: Estimate,
        /// The spread of the samples.
        spread: Spread,
        /// Every sample, process by process.
        runs: Vec<Vec<f64>>,
    },
    /// A missing result with its reason.
    Missing(String),
}

impl Cell {
    /// Creates a cell from the outcome of the processes.
    pub fn new(runs: Vec<Vec<f64>>) -> Self {
        match (stats::estimate(&runs), stats::spread(&runs)) {
            (Some(estimate), Some(spread)) => Self::Measured { estimate, spread, runs },
            _ => Self::Missing("no samples".to_owned()),
        }
    }

    /// Returns the median with its interval.
    pub fn estimate(&self) -> Option<&Estimate> {
        match self {
            Self::Measured { estimate, .. } => Some(estimate),
            Self::Missing(_) => None,
        }
    }

    fn runs(&self) -> &[Vec<f64>] {
        match self {
            Self::Measured { runs, .. } => runs,
            Self::Missing(_) => &[],
        }
    }
}

/// One column divided by another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The numerator column.
    pub of: usize,
    /// The denominator column.
    pub against: usize,
    /// The ratio with its interval; above 1, `of` is larger.
    pub ratio: Estimate,
}

/// The kind of comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// The first column with the best of the others.
    FirstWithBestOther,
    /// Each other column with the first.
    OthersWithFirst,
}

impl Row {
    /// Creates a row with its best column and its comparisons.
    pub fn new(label: String, unit: Unit, cells: Vec<Cell>, compare: Compare) -> Self {
        let best = best(&cells, 0, unit);
        let pairs: Vec<(usize, usize)> = match compare {
            Compare::FirstWithBestOther => {
                self::best(&cells, 1, unit).map(|other| (0, other)).into_iter().collect()
            }
            Compare::OthersWithFirst => (1..cells.len()).map(|other| (other, 0)).collect(),
        };
        let comparisons = pairs.into_iter().filter_map(|(of, against)| {
            // Shares may be zero or negative, so they have no ratios; levels need none.
            let ratio = (unit == Unit::Nanoseconds)
                .then(|| stats::ratio(cells[of].runs(), cells[against].runs()))??;
            Some(Comparison { of, against, ratio })
        });
        let comparisons = comparisons.collect();
        Self { label, unit, cells, best, comparisons }
    }
}

/// Returns the column from `first` on with the best median.
fn best(cells: &[Cell], first: usize, unit: Unit) -> Option<usize> {
    let sign = if unit.larger_is_better() { -1.0 } else { 1.0 };
    let medians = cells.iter().enumerate().skip(first);
    medians
        .filter_map(|(column, cell)| Some((column, cell.estimate()?.median)))
        .min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))
        .map(|(column, _)| column)
}

/// Formats a number with its unit in four digits: `48.21 ns`, `1.203 µs`, `2.1 %`.
pub fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Part | Unit::Utilization => format!("{:.1} %", value * 100.0),
        Unit::GigaMacs => format!("{} GMAC/s", four_digits(value)),
        Unit::Gigabytes => format!("{} GB/s", four_digits(value)),
        Unit::Nanoseconds => {
            let scales = [(1e3, 1.0, "ns"), (1e6, 1e3, "\u{b5}s"), (1e9, 1e6, "ms")];
            let found = scales.into_iter().find(|(below, ..)| value < below * 0.999_95);
            let (_, divisor, name) = found.unwrap_or((f64::MAX, 1e9, "s"));
            format!("{} {name}", four_digits(value / divisor))
        }
    }
}

fn four_digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Formats the half-width of the interval relative to the median: `±1.2%`.
pub fn reach(estimate: &Estimate) -> String {
    let reach = (estimate.high - estimate.median).max(estimate.median - estimate.low);
    let part = reach / estimate.median.abs().max(f64::MIN_POSITIVE) * 100.0;
    if part < 9.95 { format!("\u{b1}{part:.1}%") } else { format!("\u{b1}{part:.0}%") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits_and_a_unit() {
        let cases = [
            (0.1234, "0.123 ns"),
            (48.213, "48.21 ns"),
            (999.9, "999.9 ns"),
            (999.99, "1.000 \u{b5}s"),
            (6_336_000.0, "6.336 ms"),
            (2.5e9, "2.500 s"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value, Unit::Nanoseconds), text);
        }
        assert_eq!(number(0.0213, Unit::Part), "2.1 %");
        assert_eq!(number(0.87, Unit::Utilization), "87.0 %");
        assert_eq!(number(152.34, Unit::GigaMacs), "152.3 GMAC/s");
        assert_eq!(number(12.345, Unit::Gigabytes), "12.35 GB/s");
    }

    #[test]
    fn rows_know_the_best_and_compare_with_it() {
        let cell = |value: f64| Cell::new(vec![vec![value]; 3]);
        let missing = || Cell::Missing("failed".to_owned());
        let row = |cells, compare| Row::new("row".into(), Unit::Nanoseconds, cells, compare);

        let cells = vec![cell(30.0), missing(), cell(20.0), cell(15.0)];
        let best_other = row(cells.clone(), Compare::FirstWithBestOther);
        assert_eq!(best_other.best, Some(3));
        let [comparison] = best_other.comparisons.as_slice() else { panic!("one comparison") };
        assert_eq!((comparison.of, comparison.against), (0, 3));
        assert_eq!(comparison.ratio, Estimate { low: 2.0, median: 2.0, high: 2.0 });

        let with_first = row(cells, Compare::OthersWithFirst);
        let compared: Vec<_> = with_first.comparisons.iter().map(|c| c.of).collect();
        assert_eq!(compared, [2, 3], "missing results are not compared");
        let rates = Row::new(
            "row".into(),
            Unit::GigaMacs,
            vec![cell(3.0), cell(4.0)],
            Compare::FirstWithBestOther,
        );
        assert_eq!(rates.best, Some(1), "the larger rate is the better one");
        let none = row(vec![missing(), missing()], Compare::FirstWithBestOther);
        assert_eq!((none.best, none.comparisons.len()), (None, 0));
    }
}
