//! Tables of a run: rates with their spread, ratios, shares of the limits, and memory.

use std::borrow::Borrow;

use super::OURS;
use super::record::{peak, percent, quantity, rate};
use super::run_file::{Limits, RunFile, Series, Test};
use super::statistics::{Summary, median};
use crate::output::{self, or_unavailable};

/// Returns the tokens per second of every participant in every test, and the ratios.
pub(crate) fn speed(file: &RunFile) -> String {
    let names: Vec<&str> = file.participants.iter().map(|p| p.name.as_str()).collect();
    let peers: Vec<&str> = names.iter().copied().filter(|name| *name != OURS).collect();
    let mut headings = vec!["test".to_owned(), "threads".to_owned()];
    headings.extend(names.iter().map(|name| escaped(name)));
    headings.extend(peers.iter().map(|peer| format!("{OURS} / {}", escaped(peer))));
    if peers.len() > 1 {
        headings.push(format!("{OURS} / fastest other"));
    }
    headings.push("of limit".into());
    let rows = file.tests().into_iter().map(|(test, threads)| {
        let mut row = vec![test.name(), threads.to_string()];
        row.extend(names.iter().map(|name| spread(file.series(name, test, threads))));
        row.extend(ratios(file, &peers, test, threads));
        row.push(percent(share(file, test, threads)));
        row
    });
    table(&headings, 2, rows)
}

/// Returns this program's median divided by each other's, then by the fastest's if there are several.
fn ratios(file: &RunFile, peers: &[&str], test: Test, threads: usize) -> Vec<String> {
    let middle = |name: &str| median(&file.series(name, test, threads)?.samples_ts);
    let ours = middle(OURS);
    let ratio = |theirs: Option<f64>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => format!("{:.2}", ours / theirs),
        _ => "-".into(),
    };
    let mut ratios: Vec<String> = peers.iter().map(|peer| ratio(middle(peer))).collect();
    if peers.len() > 1 {
        ratios.push(ratio(peers.iter().filter_map(|peer| middle(peer)).reduce(f64::max)));
    }
    ratios
}

fn share(file: &RunFile, test: Test, threads: usize) -> Option<f64> {
    let series = file.series(OURS, test, threads)?;
    file.limits(threads)?.share(test, series.cost.as_ref()?, median(&series.samples_ts)?)
}

/// Formats the median, the range, and the interquartile range.
fn spread(series: Option<&Series>) -> String {
    let summary = series.and_then(|s| Summary::of(&s.samples_ts));
    summary.map_or_else(
        || "-".into(),
        |s| {
            let iqr = s.upper - s.lower;
            format!("{:.2} ({:.2}..{:.2}, IQR {iqr:.2})", s.median, s.min, s.max)
        },
    )
}

/// Returns the participants with their peak memory.
pub(crate) fn memory(file: &RunFile) -> String {
    let headings = ["program", "build", "model", "tensors", "params", "peak memory"];
    let rows = file.participants.iter().map(|p| {
        let of_it = file.series.iter().filter(|s| s.participant == p.name);
        vec![
            escaped(&p.name),
            escaped(&p.build),
            escaped(&p.model_type),
            said(p.model_size, output::bytes),
            said(p.model_n_params, quantity),
            peak(of_it.flat_map(|s| s.peak_bytes.iter().copied()).max()),
        ]
    });
    table(&headings, 3, rows)
}

/// Returns a number reported by a program, or 0.
fn said(number: u64, written: fn(u64) -> String) -> String {
    if number == 0 { "unavailable".into() } else { written(number) }
}

/// Returns this program's cost per step and its share of the machine's limits.
pub(crate) fn costs(file: &RunFile) -> String {
    let headings = [
        "test",
        "threads",
        "MB per step",
        "ternary",
        "head",
        "KV cache",
        "rows skipped",
        "columns skipped",
        "rate",
        "limit",
        "share",
    ];
    let rows = file.tests().into_iter().filter_map(|(test, threads)| {
        let series = file.series(OURS, test, threads)?;
        let (cost, tokens) = (series.cost?, median(&series.samples_ts)?);
        let limits = file.limits(threads);
        let limit = match (test.n_prompt, test.n_gen) {
            (0, _) => limits.and_then(Limits::bandwidth).map(|b| format!("{:.2} GB/s", b / 1e9)),
            (_, 0) => {
                limits.and_then(Limits::integer_peak).map(|p| format!("{:.1} GMAC/s", p / 1e9))
            }
            _ => return None,
        };
        Some(vec![
            test.name(),
            threads.to_string(),
            format!("{:.1}", cost.bytes / 1e6),
            format!("{:.1}", cost.ternary_bytes / 1e6),
            format!("{:.1}", cost.head_bytes / 1e6),
            format!("{:.1}", cost.kv_bytes / 1e6),
            percent(cost.gated_rows_skipped),
            percent(cost.sparse_columns_skipped),
            rate(test, &cost, tokens),
            or_unavailable(limit),
            percent(share(file, test, threads)),
        ])
    });
    table(&headings, 1, rows)
}

/// Returns a Markdown table; the first `words` columns are text, the others numbers.
pub(crate) fn table(
    headings: &[impl Borrow<str>],
    words: usize,
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let dashes = "---|".repeat(words) + &"---:|".repeat(headings.len() - words);
    let mut text = format!("| {} |\n|{dashes}\n", headings.join(" | "));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

/// Escapes a name for one line of a table.
pub(crate) fn escaped(text: &str) -> String {
    output::without_controls(text).replace(['\n', '\t'], " ").replace('|', "\\|")
}
