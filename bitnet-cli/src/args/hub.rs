//! Arguments of `bitnet pull` and `rm`.

use clap::Args;

const PULL_HELP: &str = "\
Without FILE, downloads what is needed to run the model: of its GGUF files the one that suits this \
machine best, else safetensors weights with settings and tokenizer; --list shows which. Prints the path of the model on standard output. Running the \
same command again resumes an interrupted download. The cache is shared with huggingface_hub; \
`bitnet list` lists it, `bitnet rm` removes models from it.

Environment:
  HF_TOKEN                  access token for private and gated models (or HF_TOKEN_PATH, a file)
  HF_ENDPOINT               the hub [default: https://huggingface.co]
  HF_HUB_CACHE, HF_HOME     location of the cache [default: ~/.cache/huggingface/hub]
  HF_HUB_OFFLINE            1: use the cache only, no network access (like --offline)
  HF_HUB_DOWNLOAD_TIMEOUT   timeout in seconds for a response or more data [default: 10]
  SSL_CERT_FILE             certificates to trust; HTTPS_PROXY, NO_PROXY: proxies";

/// `bitnet pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_HELP)]
pub(crate) struct PullArgs {
    /// OWNER/NAME, OWNER/NAME@REVISION, OWNER/NAME:FILE or OWNER/NAME:TYPE (such as TQ2_0)
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Download only files whose path matches (* is any text, ? any character); may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Skip files whose path matches; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// List files and sizes without downloading
    #[arg(long)]
    pub(crate) list: bool,
    /// Hide the progress display
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `bitnet rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}
