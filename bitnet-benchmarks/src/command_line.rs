//! Command-line arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::filter::Filter;
use crate::sampling::Plan;

/// Compares the memory pool, dense products and quantisation with other libraries.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo bench --package bitnet-benchmarks --")]
pub(crate) struct CommandLine {
    /// Suites or benchmarks whose name contains one of these words, ignoring case.
    pub(crate) filters: Vec<String>,
    /// Processes per number.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repetitions: Option<u16>,
    /// Fewer and shorter processes, for a quick look.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Omits the allocators compiled from C and C++.
    #[arg(long)]
    pub(crate) no_peers: bool,
    /// Writes every sample to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Output format; `html` writes a file and prints its path.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) output_format: Format,
    /// Output file of `--output-format html`.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Prints the names without measuring.
    #[arg(long)]
    pub(crate) list: bool,
    /// Set by cargo for benchmarks.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Set by cargo for tests.
    #[arg(long, hide = true)]
    pub(crate) test: bool,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text.
    Text,
    /// JSON: the whole report with every sample.
    Json,
    /// HTML with charts.
    Html,
}

impl CommandLine {
    pub(crate) fn filter(&self) -> Filter {
        Filter::new(&self.filters)
    }

    pub(crate) fn repetitions(&self) -> usize {
        usize::from(self.repetitions.unwrap_or(if self.quick { 2 } else { 5 }))
    }

    pub(crate) fn plan(&self) -> Plan {
        let [warm_up, sample, samples] = if self.quick { [10, 5, 6] } else { [50, 15, 12] };
        Plan {
            warm_up: Duration::from_millis(warm_up),
            sample: Duration::from_millis(sample),
            samples: samples as usize,
        }
    }

    /// Returns whether to run benchmarks as tests: cargo does so without `--bench`.
    pub(crate) fn only_tests(&self) -> bool {
        self.test || !self.bench
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> CommandLine {
        CommandLine::try_parse_from(std::iter::once("bench").chain(words.split_whitespace()))
            .unwrap()
    }

    #[test]
    fn what_cargo_adds_is_no_filter() {
        let line = parse("memory --bench");
        assert_eq!(line.filters, ["memory"]);
        assert!(!line.only_tests());
        assert!(parse("").only_tests() && parse("--bench --test").only_tests());
        assert_eq!(parse("--bench --output-format html").output_format, Format::Html);
    }

    #[test]
    fn impossible_values_are_refused() {
        for words in ["--repetitions 0", "--output-format pdf", "--repetition 3"] {
            let words = std::iter::once("bench").chain(words.split_whitespace());
            assert!(CommandLine::try_parse_from(words).is_err());
        }
    }
}
