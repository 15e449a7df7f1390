//! Samples as lines of text: the same for a terminal and for a pipe, as many as fit.

use std::collections::VecDeque;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::sample::{Sample, quantile};
use crate::output::bytes;

/// Width of the column of names.
const NAME: usize = 10;
/// Samples that are kept: the width of a wide terminal.
const KEPT: usize = 240;
/// Samples over which rates and step times are taken.
const WINDOW: usize = 5;
/// The heights of a bar.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What does not change: who is watched.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) model: Option<String>,
    /// Tokens of a prompt and its answer together.
    pub(crate) context: Option<u64>,
    /// Texts written at a time, at most.
    pub(crate) parallel: Option<u64>,
}

/// The last samples of a server.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    /// Why the last attempt gave no sample.
    pub(crate) problem: Option<String>,
}

impl History {
    /// Adds a sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        self.problem = None;
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The last sample.
    pub(crate) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// The sample with which the last one is compared.
    fn earlier(&self) -> Option<&Sample> {
        self.samples
            .len()
            .checked_sub(1 + WINDOW)
            .map_or(self.samples.front(), |at| self.samples.get(at))
    }

    /// Returns how much a counter rises in a second.
    fn rate(&self, name: &str) -> f64 {
        let rate = self.last().zip(self.earlier()).and_then(|(last, first)| last.rate(first, name));
        rate.unwrap_or(0.0)
    }

    /// Returns the rates between neighbours, the last ones if there are more than `count`.
    fn rates(&self, name: &str, count: usize) -> Vec<f64> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let rates: Vec<f64> =
            pairs.map(|(first, last)| last.rate(first, name).unwrap_or(0.0)).collect();
        rates[rates.len().saturating_sub(count)..].to_vec()
    }
}

/// Returns at most `height` lines of at most `width` columns.
pub(crate) fn lines(
    server: &Server,
    history: &History,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![title(server, width)];
    if let Some(problem) = &history.problem {
        lines.push(Line::styled(cut(&format!("no answer: {problem}"), width), Color::Red));
    }
    if let Some(sample) = history.last() {
        // In the order in which they are given up where there is little height.
        let blocks = [
            tokens(history, width, height > 16),
            texts(server, sample, width),
            memory(sample, width),
            requests(sample, width),
            steps(history, sample, width, height.saturating_sub(14).clamp(0, 8)),
        ];
        let has_gaps = height >= 18;
        for block in blocks {
            if has_gaps {
                lines.push(Line::default());
            }
            lines.extend(block);
        }
    }
    lines.truncate(height);
    // Only where there is a line to spare.
    if lines.len() + 2 <= height {
        lines.resize(height - 1, Line::default());
        lines.push(Line::styled(cut("q ends", width), Modifier::DIM));
    }
    lines
}

/// Returns the figures of a sample in one line, for a pipe.
pub(crate) fn plain(history: &History) -> String {
    let Some(sample) = history.last() else { return String::new() };
    let classes = sample.step_classes(history.earlier());
    format!(
        "{:.1} tokens/s written, {:.1} read; {} active, {} waiting; {} of {} pages; steps {}; {}",
        history.rate("tokens_written_total"),
        history.rate("prompt_tokens_total"),
        count(sample, "texts_active"),
        count(sample, "requests_waiting"),
        count(sample, "kv_pages"),
        count(sample, "kv_pages_limit"),
        quantiles(&classes),
        ends(sample).join(", "),
    )
}

fn title(server: &Server, width: usize) -> Line<'static> {
    let mut pieces = vec!["bitnet top".to_owned(), server.url.clone()];
    pieces.extend(server.model.clone());
    pieces.extend(server.context.map(|context| format!("context {context}")));
    Line::styled(fit(&pieces, width), Modifier::BOLD)
}

fn tokens(history: &History, width: usize, has_curve: bool) -> Vec<Line<'static>> {
    let pieces = [
        format!("written {:.1}/s", history.rate("tokens_written_total")),
        format!("read {:.1}/s", history.rate("prompt_tokens_total")),
        format!("cached {:.1}/s", history.rate("prompt_tokens_cached_total")),
    ];
    let mut lines = vec![row("Tokens", &pieces, width)];
    if has_curve {
        let rates = history.rates("tokens_written_total", width.saturating_sub(NAME));
        lines.push(Line::from(vec![
            Span::raw(" ".repeat(NAME)),
            Span::styled(curve(&rates), Color::Green),
        ]));
    }
    lines
}

fn texts(server: &Server, sample: &Sample, width: usize) -> Vec<Line<'static>> {
    let active = sample.figure("texts_active").unwrap_or(0.0);
    let of = server.parallel.map_or(String::new(), |parallel| format!(" of {parallel}"));
    let pieces = [
        format!("active {active}{of}"),
        format!("waiting {}", count(sample, "requests_waiting")),
        format!("{} prompt tokens wait", count(sample, "tokens_waiting")),
    ];
    let mut lines = vec![row("Texts", &pieces, width)];
    if let Some(parallel) = server.parallel.filter(|&parallel| parallel > 0) {
        lines.push(bar(active / parallel as f64, 0.0, width));
    }
    lines
}

fn memory(sample: &Sample, width: usize) -> Vec<Line<'static>> {
    let figure = |name: &str| sample.figure(name).unwrap_or(0.0);
    let (pages, limit, size) =
        (figure("kv_pages"), figure("kv_pages_limit"), figure("kv_page_bytes"));
    let pieces = [
        format!("pages {pages} of {limit}"),
        // Saturates for figures that are no sizes.
        format!("{} of {}", bytes((pages * size) as u64), bytes((limit * size) as u64)),
        format!("{} in use", count(sample, "kv_pages_active")),
        format!("{} earlier texts", count(sample, "prefixes")),
        format!("{} dropped", count(sample, "prefixes_evicted_total")),
    ];
    let mut lines = vec![row("Memory", &pieces, width)];
    if limit > 0.0 {
        lines.push(bar(figure("kv_pages_active") / limit, pages / limit, width));
    }
    lines
}

fn requests(sample: &Sample, width: usize) -> Vec<Line<'static>> {
    vec![row("Requests", &ends(sample), width)]
}

fn ends(sample: &Sample) -> Vec<String> {
    let ends = ["finished", "failed", "cancelled", "refused"];
    ends.map(|end| format!("{} {end}", count(sample, &format!("requests_{end}_total")))).to_vec()
}

fn steps(history: &History, sample: &Sample, width: usize, rows: usize) -> Vec<Line<'static>> {
    let classes = sample.step_classes(history.earlier().filter(|earlier| *earlier != sample));
    let rate = format!("{:.1}/s", history.rate("step_seconds_count"));
    let mut lines = vec![row("Steps", &[rate, quantiles(&classes)], width)];
    let most = classes.iter().map(|(_, count)| *count).fold(0.0, f64::max);
    let all: f64 = classes.iter().map(|(_, count)| count).sum();
    let found: Vec<_> = classes.iter().filter(|(_, count)| *count > 0.0).collect();
    // The slowest are those that users feel.
    for (bound, count) in &found[found.len().saturating_sub(rows)..] {
        let label = format!(
            "{:>width$} {:>5.1} % ",
            seconds(*bound),
            100.0 * count / all,
            width = NAME - 1
        );
        let columns = width.saturating_sub(label.chars().count());
        let filled = ((count / most) * columns as f64).round() as usize;
        lines.push(Line::from(vec![
            Span::raw(cut(&label, width)),
            Span::styled("█".repeat(filled.min(columns)), Color::Cyan),
        ]));
    }
    lines
}

fn quantiles(classes: &[(f64, f64)]) -> String {
    match (quantile(classes, 0.5), quantile(classes, 0.99)) {
        (Some(median), Some(high)) => format!("half {}, 99 % {}", seconds(median), seconds(high)),
        _ => "none".to_owned(),
    }
}

/// Formats a bound of step times.
fn seconds(bound: f64) -> String {
    match bound {
        f64::INFINITY => "slower".to_owned(),
        bound if bound < 1.0 => format!("≤ {} ms", bound * 1000.0),
        bound => format!("≤ {bound} s"),
    }
}

fn count(sample: &Sample, name: &str) -> String {
    sample.figure(name).map_or("?".to_owned(), |value| value.to_string())
}

/// Returns a name and what fits of the pieces after it.
fn row(name: &str, pieces: &[String], width: usize) -> Line<'static> {
    let name = cut(&format!("{name:<NAME$}"), width);
    let rest = fit(pieces, width.saturating_sub(NAME));
    Line::from(vec![Span::styled(name, Modifier::DIM), Span::raw(rest)])
}

/// Returns a bar of two shares of its width, of which the second includes the first.
fn bar(first: f64, second: f64, width: usize) -> Line<'static> {
    let columns = width.saturating_sub(NAME);
    let part =
        |share: f64| ((share.clamp(0.0, 1.0) * columns as f64).round() as usize).min(columns);
    let (first, second) = (part(first), part(second).max(part(first)));
    Line::from(vec![
        Span::raw(" ".repeat(NAME.min(width))),
        Span::styled("█".repeat(first), Color::Green),
        Span::styled("▒".repeat(second - first), Color::Green),
        Span::styled("░".repeat(columns - second), Style::new().add_modifier(Modifier::DIM)),
    ])
}

/// Returns the values as heights, of which the largest is the highest.
fn curve(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let top = HEIGHTS.len() - 1;
    let height = |value: &f64| match most > 0.0 {
        true => HEIGHTS[((value / most * top as f64).round() as usize).min(top)],
        false => HEIGHTS[0],
    };
    values.iter().map(height).collect()
}

/// Joins the first pieces that fit into a width together.
fn fit(pieces: &[String], width: usize) -> String {
    let mut text = String::new();
    for piece in pieces {
        let gap = if text.is_empty() { "" } else { "  " };
        if text.chars().count() + gap.len() + piece.chars().count() > width {
            break;
        }
        text.push_str(gap);
        text.push_str(piece);
    }
    if text.is_empty() {
        pieces.first().map_or(String::new(), |first| cut(first, width))
    } else {
        text
    }
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
