//! Arguments of `bitnet top`.

use std::path::PathBuf;

use clap::Args;

/// Watch a server of `bitnet serve` in the terminal.
///
/// Reads /metrics. q or Ctrl-C ends. Where standard output is no terminal, each sample is a line; with --json, one
/// sample is one document.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The server
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Seconds between samples
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub(crate) interval: u16,
    /// A file with the server's API key in its first line
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
}
