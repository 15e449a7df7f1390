//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::filter::Filter;
use crate::sampling::Plan;

/// Measures the memory pool, dense products and quantisation beside those of others.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo bench --package bitnet-benchmarks --")]
pub(crate) struct CommandLine {
    /// Suites or benchmarks: those whose name holds one of these words, in whatever case.
    pub(crate) filters: Vec<String>,
    /// Processes for each number.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repetitions: Option<u16>,
    /// Fewer and shorter processes: a look, not a result.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Leaves out the allocators that have to be compiled from C and C++.
    #[arg(long)]
    pub(crate) no_peers: bool,
    /// Writes every sample, for programs, to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What is printed; `html` writes a file and prints its path.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) output_format: Format,
    /// Where `--output-format html` writes.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Prints the names and measures nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// What cargo says when it runs benchmarks.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// What cargo says when it runs tests.
    #[arg(long, hide = true)]
    pub(crate) test: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: the whole report, every sample in it.
    Json,
    /// For people, with charts.
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

    /// Returns whether nothing is to be measured: cargo runs the benchmarks as tests when it does not say `--bench`.
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
