//! Streaming output of records as Markdown, JSON, JSON lines or CSV.

use anyhow::Result;
use serde_json::Value;

use super::args::Format;
use super::record::{self, Record};
use super::statistics::Summary;
use crate::output::{self, Output, document, without_controls};

/// The columns of the table: heading, minimum width, and whether it is a number.
const COLUMNS: [(&str, usize, bool); 9] = [
    ("model", 28, false),
    ("size", 10, true),
    ("params", 8, true),
    ("threads", 7, true),
    ("test", 12, true),
    ("t/s", 18, true),
    ("median (min..max)", 28, true),
    ("rate", 14, true),
    ("of limit", 8, true),
];

/// Writes records in one format.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    rows: Vec<Value>,
}

impl Printer {
    /// Creates a writer, which writes nothing before the first record.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, rows: Vec::new() }
    }

    /// Writes one record.
    ///
    /// # Errors
    /// If the output is closed.
    pub(crate) fn record(&mut self, record: &Record<'_>, output: &mut Output) -> Result<()> {
        let value = record.to_json();
        match self.format {
            Format::Md => {
                if self.rows.is_empty() {
                    output.verbatim(&table_header())?;
                }
                output.verbatim(&table_row(&cells(record)))?;
            }
            Format::Json => {}
            Format::Jsonl => output.json_line(&value)?,
            Format::Csv => {
                if self.rows.is_empty() {
                    output.verbatim(&csv_header(&value))?;
                }
                output.verbatim(&csv_row(&value))?;
            }
        }
        self.rows.push(value);
        Ok(())
    }

    /// Ends the output.
    ///
    /// # Errors
    /// If the output is closed.
    pub(crate) fn finish(self) -> Result<()> {
        if self.format == Format::Json {
            document::write(&serde_json::to_string_pretty(&self.rows)?)?;
        }
        Ok(())
    }
}

fn cells(record: &Record<'_>) -> Vec<String> {
    let summary = Summary::of(&record.rates());
    let (mean, spread) = summary.map_or_else(Default::default, |s| {
        let mean = format!("{:.2} ± {:.2}", s.mean, s.deviation);
        (mean, format!("{:.2} ({:.2}..{:.2})", s.median, s.min, s.max))
    });
    vec![
        without_controls(&record.model.kind).into_owned(),
        output::bytes(record.model.size),
        record::quantity(record.model.parameters),
        record.threads.to_string(),
        record.test.name(),
        mean,
        spread,
        summary.map_or_else(String::new, |s| record::rate(record.test, &record.cost, s.median)),
        record::percent(record.share()),
    ]
}

fn table_header() -> String {
    let headings: Vec<String> = COLUMNS.iter().map(|c| c.0.to_owned()).collect();
    let dashes: Vec<String> = COLUMNS
        .iter()
        .map(|&(_, width, number)| {
            format!("{}{}", "-".repeat(width - 1), if number { ":" } else { "-" })
        })
        .collect();
    format!("{}\n{}", table_row(&headings), table_row(&dashes))
}

fn table_row(cells: &[String]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(COLUMNS)
        .map(
            |(cell, (_, width, number))| {
                if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            },
        )
        .collect();
    format!("| {} |", padded.join(" | "))
}

/// Fields with a single value, as in llama-bench's CSV.
fn flat(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, v)| *name != "limits" && !v.is_array() && !v.is_object())
}

fn csv_header(value: &Value) -> String {
    flat(value).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")
}

fn csv_row(value: &Value) -> String {
    let quoted = |v: &Value| {
        let text = v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
        let text = if v.is_null() { String::new() } else { text };
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    flat(value).map(|(_, v)| quoted(v)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_has_a_column_for_each_plain_field() {
        let value = json!({ "a": "x \"y\", z", "list": [1], "b": 1.5, "c": null });
        assert_eq!(csv_header(&value), "a,b,c");
        assert_eq!(csv_row(&value), r#""x ""y"", z","1.5","""#);
    }
}
