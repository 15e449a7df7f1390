//! Results as text.

use std::fmt::Write;

use super::{Cell, Comparison, Group, Report, Row, SuiteReport, number, reach};
use crate::stats::Estimate;
use crate::suite::Unit;

/// Describes machine and protocol.
pub fn head(report: &Report) -> String {
    let facts: Vec<String> =
        report.machine.facts().into_iter().map(|(name, fact)| format!("{name}: {fact}")).collect();
    let mut text = format!("{}\n{}\n", facts.join("; "), report.method.sentence());
    for missing in &report.unavailable {
        let _ = writeln!(text, "unavailable: {}: {}", missing.name, missing.why);
    }
    text.push('\n');
    text
}

/// Returns the versions of a suite's columns, if any are known.
pub fn versions(suite: &SuiteReport) -> String {
    let known =
        suite.columns.iter().filter_map(|c| Some(format!("{}: {}", c.name, c.version.as_ref()?)));
    let known: Vec<String> = known.collect();
    if known.is_empty() { String::new() } else { format!("{}\n", known.join("; ")) }
}

/// Formats a result: the name, and the interval around the median.
///
/// ```text
/// Memory Pool Allocation/small_blocks
///                         time:   [48.21 ns 49.13 ns 50.32 ns]
/// ```
pub fn time_line(name: &str, estimate: &Estimate) -> String {
    let [low, median, high] = [estimate.low, estimate.median, estimate.high]
        .map(|value| number(value, Unit::Nanoseconds));
    format!("{name}\n{:24}time:   [{low} {median} {high}]\n", "")
}

/// Formats a table; the best number of a row has a star, and the reasons of missing results follow.
pub fn table(suite: &SuiteReport, group: &Group) -> String {
    let mut grid = vec![vec![String::new()]];
    grid[0].extend(suite.columns.iter().map(|column| column.name.clone()));
    grid[0].push(String::new());
    let mut notes = Vec::new();
    for row in &group.rows {
        let mut line = vec![row.label.clone()];
        for (index, cell) in row.cells.iter().enumerate() {
            if let Cell::Missing(why) = cell {
                notes.push(format!("{}, {}: {why}", suite.columns[index].name, row.label));
            }
            line.push(cell_text(cell, row, row.best == Some(index)));
        }
        line.push(comparisons(suite, row));
        grid.push(line);
    }
    let mut text = format!("{}: {}\n", group.title, group.about);
    text.push_str(&aligned(&grid));
    for note in notes {
        let _ = writeln!(text, "  no result: {note}");
    }
    text
}

fn cell_text(cell: &Cell, row: &Row, best: bool) -> String {
    let star = if best { "*" } else { "" };
    match cell {
        Cell::Missing(_) => "-".to_owned(),
        Cell::Measured { estimate, .. } if matches!(row.unit, Unit::Part | Unit::Utilization) => {
            format!("{star}{}", number(estimate.median, row.unit))
        }
        Cell::Measured { estimate, .. } => {
            format!("{star}{} {:>6}", number(estimate.median, row.unit), reach(estimate))
        }
    }
}

fn comparisons(suite: &SuiteReport, row: &Row) -> String {
    let texts = row.comparisons.iter().map(|c| comparison(suite, c));
    texts.collect::<Vec<_>>().join(", ")
}

/// Formats a ratio with its interval: to the best other `1.20 x mimalloc [1.18 1.23]`, to the first column as a change.
pub fn comparison(suite: &SuiteReport, comparison: &Comparison) -> String {
    let name = |column: usize| suite.columns.get(column).map_or("", |column| &column.name);
    let Comparison { of, against, ratio } = comparison;
    if *against == 0 {
        return format!("{} {}", name(*of), change(ratio));
    }
    let Estimate { low, median, high } = ratio;
    format!("{median:.2} \u{d7} {} [{low:.2} {high:.2}]", name(*against))
}

/// Formats a ratio as a change in percent: `+1.2 % [+0.8 +1.9]`.
pub fn change(ratio: &Estimate) -> String {
    let [low, median, high] =
        [ratio.low, ratio.median, ratio.high].map(|value| (value - 1.0) * 100.0);
    format!("{median:+.1} % [{low:+.1} {high:+.1}]")
}

/// Aligns the first column to the left, the others to the right.
fn aligned(grid: &[Vec<String>]) -> String {
    let columns = grid.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        grid.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in grid {
        let mut out = String::from(" ");
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                0 => write!(out, " {cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{ColumnReport, Compare};
    use super::*;

    #[test]
    fn the_promised_form() {
        let estimate = Estimate { low: 48.2, median: 49.1, high: 50.3 };
        assert_eq!(
            time_line("Memory Pool Allocation/small_blocks", &estimate),
            "Memory Pool Allocation/small_blocks\n                        time:   [48.20 ns 49.10 ns 50.30 ns]\n"
        );
    }

    #[test]
    fn tables_mark_the_best_and_list_missing_results() {
        let cells = vec![
            Cell::new(vec![vec![30.0]; 2]),
            Cell::new(vec![vec![20.0]; 2]),
            Cell::Missing("no result within 20 s".to_owned()),
        ];
        let row = Row::new("64 B".into(), Unit::Nanoseconds, cells, Compare::FirstWithBestOther);
        let columns = ["pool", "glibc", "other"]
            .map(|name| ColumnReport { name: name.to_owned(), version: None });
        let group = Group { title: "Pair".into(), about: "a pair".into(), rows: vec![row] };
        let suite =
            SuiteReport { name: "memory".into(), columns: columns.into(), groups: Vec::new() };
        let text = table(&suite, &group);
        assert!(text.contains("*20.00 ns") && !text.contains("*30"), "{text}");
        assert!(text.contains("1.50 \u{d7} glibc [1.50 1.50]"), "{text}");
        assert!(text.contains("no result: other, 64 B: no result within 20 s"), "{text}");
    }

    #[test]
    fn changes_are_signed() {
        let ratio = Estimate { low: 0.995, median: 1.01, high: 1.024 };
        assert_eq!(change(&ratio), "+1.0 % [-0.5 +2.4]");
    }
}
