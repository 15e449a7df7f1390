//! Arguments of `bitnet serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Serve a model over HTTP with OpenAI's API.
///
/// Point a client at http://HOST:PORT/v1. Requests share the machine: a stream never waits for another's prompt. Ctrl-C
/// takes no more requests and lets those in progress end.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The address to listen on; 0.0.0.0 = all interfaces
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// The port to listen on; 0 = a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,
    /// The texts written at a time, at most
    #[arg(long, visible_alias = "np", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=255))]
    pub(crate) parallel: u16,
    /// Memory for keys and values, of texts in progress and earlier ones, in MiB [default: eight contexts, at most half
    /// of what is free]
    #[arg(long, value_name = "MIB")]
    pub(crate) kv_memory: Option<usize>,
    /// What clients call the model [default: the file's name]
    #[arg(long, visible_alias = "alias", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A file with API keys, one in a line; requests need one of them then
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Seconds that requests in progress may take once the server shall end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) drain: u64,
    /// Tokens that are read ahead while one text is written alone; texts do not change
    #[arg(long, value_name = "SOURCE", default_value = "off")]
    pub(crate) draft: ServeDraft,
    /// The form of a line about each request on standard error, without prompts and keys [default: text on a terminal, else
    /// off]
    #[arg(long, value_name = "FORM")]
    pub(crate) log: Option<LogForm>,
    /// The connections at a time, at most; further ones get status 503
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,
}

/// Where a server's drafts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServeDraft {
    /// What followed the same tokens earlier in the text; only as many as save time
    Ngram,
    /// No drafts
    Off,
}

/// The form of the lines about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// A JSON object in a line
    Json,
    /// A line for people
    Text,
    /// None
    Off,
}
