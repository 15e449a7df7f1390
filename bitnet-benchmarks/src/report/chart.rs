//! Bar charts as SVG: a cluster per row, a bar per column, a whisker per interval.

use std::fmt::Write;

use super::{Cell, Group, SuiteReport, number};
use crate::stats::Estimate;
use crate::suite::Unit;

/// Width of the image, which scales with the page.
const WIDTH: f64 = 1000.0;
/// Left end of the bars.
const LEFT: f64 = 270.0;
/// Right end of the longest bar, before its number.
const RIGHT: f64 = 900.0;
/// Height of a bar and the gap below it.
const BAR: f64 = 13.0;
/// Gap between clusters.
const GAP: f64 = 14.0;
/// Height of the axis labels.
const HEAD: f64 = 20.0;

/// Escapes text for HTML content and attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Returns the CSS class of a column.
pub(super) fn colour(column: usize) -> &'static str {
    ["c0", "c1", "c2", "c3", "c4"][column % 5]
}

/// A scale from values to positions.
enum Scale {
    /// Powers of ten from the first to the second.
    Logarithmic(i32, i32),
    /// From 0 to this value.
    Linear(f64),
}

impl Scale {
    fn of(unit: Unit, estimates: &[Estimate]) -> Self {
        let largest = estimates.iter().map(|e| e.high).fold(0.0, f64::max);
        match unit {
            Unit::Part | Unit::GigaMacs | Unit::Gigabytes | Unit::Utilization => {
                Self::Linear(largest.max(1e-3))
            }
            Unit::Nanoseconds => {
                let smallest = estimates.iter().map(|e| e.low).fold(f64::MAX, f64::min).max(1e-3);
                let first = smallest.min(largest).log10().floor() as i32;
                Self::Logarithmic(first, (largest.max(1e-3).log10().ceil() as i32).max(first + 1))
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = match *self {
            Self::Logarithmic(first, last) => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(first)) / f64::from(last - first)
            }
            Self::Linear(largest) => value / largest,
        };
        LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// Returns the grid values.
    fn lines(&self) -> Vec<f64> {
        match *self {
            Self::Logarithmic(first, last) => (first..=last).map(|p| 10f64.powi(p)).collect(),
            Self::Linear(largest) => (0..=4).map(|n| largest * f64::from(n) / 4.0).collect(),
        }
    }
}

/// Returns the bars of a group.
pub(super) fn bars(suite: &SuiteReport, group: &Group) -> String {
    let unit = group.rows.first().map_or(Unit::Nanoseconds, |row| row.unit);
    let cells = group.rows.iter().flat_map(|row| &row.cells);
    let estimates: Vec<Estimate> = cells.filter_map(Cell::estimate).copied().collect();
    if estimates.is_empty() {
        return String::new();
    }
    let scale = Scale::of(unit, &estimates);
    let cluster = suite.columns.len() as f64 * BAR + GAP;
    let height = HEAD + group.rows.len() as f64 * cluster;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(&group.title)
    );
    for value in scale.lines() {
        let x = scale.place(value);
        let label = escaped(&tick(value, unit));
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD}\" y2=\"{height}\"/>"
        );
        let _ = write!(
            out,
            "<text class=\"soft\" x=\"{x:.1}\" y=\"12\" text-anchor=\"middle\">{label}</text>"
        );
    }
    for (index, row) in group.rows.iter().enumerate() {
        let top = HEAD + index as f64 * cluster + GAP / 2.0;
        let middle = top + (cluster - GAP) / 2.0 + 4.0;
        let label = escaped(&row.label);
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 10.0
        );
        for (column, cell) in row.cells.iter().enumerate() {
            write_bar(&mut out, &scale, top + column as f64 * BAR, column, cell, row.unit);
        }
    }
    out.push_str("</svg>");
    out
}

fn write_bar(out: &mut String, scale: &Scale, y: f64, column: usize, cell: &Cell, unit: Unit) {
    let middle = y + BAR / 2.0 - 1.0;
    let Some(estimate) = cell.estimate() else {
        let text = y + BAR - 3.5;
        let _ = write!(
            out,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{text:.1}\">no result</text>",
            LEFT + 6.0
        );
        return;
    };
    let (low, end, high) =
        (scale.place(estimate.low), scale.place(estimate.median), scale.place(estimate.high));
    let (width, height) = ((end - LEFT).max(1.0), BAR - 2.0);
    let _ = write!(
        out,
        "<rect class=\"{}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"1.5\"/>",
        colour(column)
    );
    if high - low > 1.0 {
        let _ = write!(
            out,
            "<line class=\"whisker\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
        );
    }
    let label = escaped(&number(estimate.median, unit));
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
        end.max(high) + 6.0,
        y + BAR - 3.0
    );
}

/// Formats a value of the scale, integers without decimals.
fn tick(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Part | Unit::GigaMacs | Unit::Gigabytes | Unit::Utilization => number(value, unit),
        Unit::Nanoseconds => {
            let text = number(value, unit);
            let (digits, name) = text.split_once(' ').unwrap_or((&text, ""));
            let digits = digits.trim_end_matches('0').trim_end_matches('.');
            format!("{} {name}", if digits.is_empty() { "0" } else { digits })
        }
    }
}
