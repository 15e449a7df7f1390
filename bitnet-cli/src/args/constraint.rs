//! What a generated text must follow.

use std::path::PathBuf;

use clap::Args;

/// What a generated text must follow. One of them may be given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Constraints")]
pub(crate) struct ConstraintArgs {
    /// Write JSON that is valid under a JSON Schema: the schema itself, or its file; {} is any JSON
    #[arg(
        short = 'j',
        long,
        alias = "json-schema-file",
        value_name = "SCHEMA|FILE",
        group = "constraint"
    )]
    pub(crate) json_schema: Option<String>,
    /// Write a text that the regex matches as a whole
    #[arg(long, value_name = "REGEX", group = "constraint")]
    pub(crate) regex: Option<String>,
    /// Write a text of a grammar in Lark's syntax
    #[arg(long, alias = "grammar-file", value_name = "FILE", group = "constraint")]
    pub(crate) grammar: Option<PathBuf>,
}
