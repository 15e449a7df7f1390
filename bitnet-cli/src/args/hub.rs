//! `bitnet pull` and `rm`.

use clap::Args;

const PULL_HELP: &str = "\
Without a file, what is needed to run the model is taken: safetensors weights with their settings \
and tokenizer, or the only GGUF model. The path to run is printed on standard output. A download \
that was cut short goes on when the same command is given again. The cache is that of the hub's \
Python library; `bitnet list` shows it and `bitnet rm` removes models from it.

Environment:
  HF_TOKEN                  a token, for private and gated models (or HF_TOKEN_PATH, a file with it)
  HF_ENDPOINT               another hub than https://huggingface.co
  HF_HUB_CACHE, HF_HOME     where the cache is [default: ~/.cache/huggingface/hub]
  HF_HUB_OFFLINE            1: use what is in the cache, send nothing (as --offline)
  HF_HUB_DOWNLOAD_TIMEOUT   seconds to wait for an answer or for more bytes [default: 10]
  SSL_CERT_FILE             certificates to trust; HTTPS_PROXY, NO_PROXY: proxies";

/// `bitnet pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_HELP)]
pub(crate) struct PullArgs {
    /// OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME:FILE or OWNER/NAME:TYPE (such as TQ2_0)
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Take the files whose paths match, whatever they are; * is any text, ? any character; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Leave out the files whose paths match; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// List files and sizes, and download nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `bitnet rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}
