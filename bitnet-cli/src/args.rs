//! The command line as it is typed.

use std::path::PathBuf;

use bitnet_convert::{Storage, Target};
use bitnet_core::backend::ActivationPrecision;
use bitnet_core::kv::KvType;
use bitnet_inference::models::HeadMode;
use bitnet_quant::codec::i2_s::I2sLayout;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::bench::args::BenchArgs;
use crate::commands::calibrate::args::CalibrateArgs;
use crate::model_path;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a check failed (verify, doctor)
  2    wrong usage, or an input that can't be used
  130  interrupted (Ctrl-C)

Environment:
  BITNET_ISA  force an instruction set level (scalar, avx2, avxvnni, avx512vnni, neon, neon-dotprod)
  NO_COLOR    no colours";

const PULL_HELP: &str = "\
Without a file, what is needed to run the model is taken: safetensors weights with their settings \
and tokenizer, or the only GGUF model. The path to run is printed on standard output. A download \
that was cut short goes on when the same command is given again. The cache is that of the hub's \
Python library.

Environment:
  HF_TOKEN                  a token, for private and gated models (or HF_TOKEN_PATH, a file with it)
  HF_ENDPOINT               another hub than https://huggingface.co
  HF_HUB_CACHE, HF_HOME     where the cache is [default: ~/.cache/huggingface/hub]
  HF_HUB_OFFLINE            1: use what is in the cache, send nothing
  HF_HUB_DOWNLOAD_TIMEOUT   seconds to wait for an answer or for more bytes [default: 10]
  SSL_CERT_FILE             certificates to trust; HTTPS_PROXY, NO_PROXY: proxies";

/// Runs, checks and trains ternary (BitNet b1.58) language models.
///
/// Without --model, the small story model that is part of the program is used.
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) general: General,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub(crate) struct General {
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads that compute [default: one on each physical core]
    #[arg(long, global = true, value_name = "N", value_parser = positive)]
    pub(crate) threads: Option<usize>,
    /// Seed of whatever is drawn at random [default: another one in each run; it is printed]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) color: ColorChoice,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Which model, and how to read and run it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A GGUF file, a safetensors file, a Hugging Face folder, or hf:OWNER/NAME for what has been pulled
    /// [default: the embedded story model]
    #[arg(short, long, global = true, value_name = "PATH", value_parser = model_path::parser())]
    pub(crate) model: Option<PathBuf>,
    /// Tokens of context to reserve memory for [default: the model's own, up to 4096]
    #[arg(long, global = true, value_name = "N", value_parser = positive)]
    pub(crate) ctx: Option<usize>,
    /// Where to compute
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "cpu",
        hide_default_value = true
    )]
    pub(crate) backend: BackendName,
    /// Byte layout of I2_S tensors, which files do not say
    #[arg(
        long,
        global = true,
        value_name = "LAYOUT",
        default_value = "canonical",
        hide_default_value = true
    )]
    pub(crate) i2s_layout: Layout,
    /// Treatment of the inputs of ternary layers [default: what the model was trained for]
    #[arg(long, global = true, value_name = "HOW")]
    pub(crate) activations: Option<Precision>,
    /// Quantise the inputs of ternary layers within the ranges in FILE, which `bitnet calibrate` wrote (`compare`: those of
    /// the second model)
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "activations")]
    pub(crate) calibration: Option<PathBuf>,
    /// Do not keep prepared weights and heads on disk, and do not use those that are kept
    #[arg(long, global = true)]
    pub(crate) no_cache: bool,
    /// How keys and values of the context are stored
    #[arg(
        long,
        global = true,
        value_name = "TYPE",
        default_value = "f16",
        hide_default_value = true
    )]
    pub(crate) kv: Kv,
    /// How the head is read where only the likeliest tokens are wanted (greedy, or --top-k)
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "refined",
        hide_default_value = true
    )]
    pub(crate) head: HeadReading,
    /// A jinja chat template that replaces the model's own
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
}

/// A back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// Vector kernels on all cores
    Cpu,
    /// The slow, obvious arithmetic that everything is checked against
    Reference,
}

impl BackendName {
    /// The name that the engine knows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Reference => "reference",
        }
    }
}

/// A layout of I2_S.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// 128 weights in 32 bytes: published files, x86 builds, converters
    Canonical,
    /// 64 weights in 16 bytes: files written by ARM builds since November 2025
    Arm64,
    /// Four rows in a byte: builds without ACT_PARALLEL
    X4,
}

impl From<Layout> for I2sLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Canonical => Self::X86,
            Layout::Arm64 => Self::Arm64,
            Layout::X4 => Self::X4,
        }
    }
}

/// A way to read the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadReading {
    /// Through 4-bit codes: another token than with `full` has a chance below 2^-64 each time
    Refined,
    /// Through 8-bit codes: never another token than with `full`
    Certain,
    /// Every weight
    Full,
}

impl From<HeadReading> for HeadMode {
    fn from(reading: HeadReading) -> Self {
        match reading {
            HeadReading::Refined => Self::Refined,
            HeadReading::Certain => Self::Certain,
            HeadReading::Full => Self::Full,
        }
    }
}

/// A treatment of the inputs of ternary layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// Quantised to 8 bits, one scale for each token (W1.58A8)
    Int8,
    /// Left as they are (weight-only quantisation)
    Float,
}

impl From<Precision> for ActivationPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Int8 => Self::Int8,
            Precision::Float => Self::Float,
        }
    }
}

/// A type of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// As they are
    F32,
    /// Half precision (the default): half the memory of f32
    F16,
    /// 8 bits with a scale for each position and head: about half the memory of f16
    Int8,
}

impl From<Kv> for KvType {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::F32 => Self::F32,
            Kv::F16 => Self::F16,
            Kv::Int8 => Self::Int8,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Say what a model file is, and what will be assumed about it
    Inspect(InspectArgs),
    /// Turn a model into another format, tensor by tensor, and prove that the result is right
    #[command(visible_alias = "quantize")]
    Convert(ConvertArgs),
    /// Split text into tokens, or join tokens to text
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Measure how far one model's predictions of a text are from another's
    Compare(CompareArgs),
    /// Find the ranges of a model's activations with a text, and what quantising them costs
    Calibrate(CalibrateArgs),
    /// Measure speed, against the machine's limits and other programs
    Bench(BenchArgs),
    /// Check a model's arithmetic against the reference, integer by integer
    Verify(VerifyArgs),
    /// Prepared weights and heads that are kept on disk, so that a model starts sooner
    Cache(CacheArgs),
    /// Download a model from a hub
    Pull(PullArgs),
    /// Check this machine
    Doctor,
    /// Train a small ternary model
    Train(TrainArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
}

/// `bitnet cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

/// What to do with what is kept.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum CacheAction {
    /// Name the files and their sizes
    List,
    /// Remove them all; they are made again when a model is loaded
    Clear,
}

/// `bitnet run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The text to continue; `-` reads it from standard input
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Do not print the prompt before the text
    #[arg(long)]
    pub(crate) no_echo: bool,
    /// Say afterwards where every byte of memory is (on standard error; with --json as `memory`)
    #[arg(long)]
    pub(crate) memory_report: bool,
}

/// How tokens are chosen and when writing stops. A value that is not given is the one that the model's authors
/// suggest, if they do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Writing")]
pub(crate) struct SamplingArgs {
    /// Write at most this many tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: usize,
    /// Temperature; 0 always takes the likeliest token [default: the model's, else 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    /// Choose among the K likeliest tokens; 0 = all [default: the model's, else all]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Choose among the likeliest tokens that reach probability P together [default: the model's, else 0.9]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than P times the likeliest one
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) min_p: f32,
    /// Locally typical sampling; 1 = off
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) typical: f32,
    /// Penalty on tokens of the last 64; 1 = none
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) repeat_penalty: f32,
    /// Penalty for each time that a token was among the last 64; 0 = none
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) frequency_penalty: f32,
    /// Penalty on tokens that were among the last 64; 0 = none
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(crate) presence_penalty: f32,
    /// Add V to the logit of token ID (-inf forbids it); may be repeated
    #[arg(long, value_name = "ID=V", value_parser = logit_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// `bitnet chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The system prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// `bitnet inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model, as for --model
    #[arg(value_name = "MODEL", value_parser = model_path::parser())]
    pub(crate) path: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Compare two models tensor by tensor, as the engine reads them; exit code 1 if they differ
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["path", "tensors"], value_parser = model_path::parser())]
    pub(crate) diff: Vec<PathBuf>,
}

/// `bitnet compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The model that is compared with
    #[arg(value_name = "A", value_parser = model_path::parser())]
    pub(crate) first: PathBuf,
    /// The model that is compared
    #[arg(value_name = "B", value_parser = model_path::parser())]
    pub(crate) second: PathBuf,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Tokens of a window [default: 512, or the models' context if that is smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Score every token of every window, instead of its second half
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model: a GGUF file, a safetensors file or a Hugging Face folder
    #[arg(value_name = "IN", value_parser = model_path::parser())]
    pub(crate) input: PathBuf,
    /// The result: a name that ends in .gguf, or a folder
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The container of the result [default: gguf for a name that ends in .gguf, else hf]
    #[arg(long, value_name = "WHAT")]
    pub(crate) to: Option<ConvertTarget>,
    /// Type of the ternary layers: i2_s, tq1_0, tq2_0, q2_0, f16, ... [default: the first that keeps them exactly]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) linear: Option<Storage>,
    /// Type of the embedding table: f32, f16, bf16, q8_0, q6_k, q4_0 [default: as it is]
    #[arg(long, value_name = "TYPE")]
    pub(crate) embedding_type: Option<Storage>,
    /// Type of the head, if it is not the embedding table [default: that of the embedding table]
    #[arg(long, value_name = "TYPE")]
    pub(crate) head_type: Option<Storage>,
    /// Type of the tensors whose name fits PATTERN (`blk.*.ffn_down`; * and ?); may be repeated, the last that fits
    /// decides
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub(crate) tensor: Vec<(String, Storage)>,
    /// Make layers ternary that nobody trained to be: the result will hardly write sense
    #[arg(long)]
    pub(crate) quantize: bool,
    /// Name of the architecture in a GGUF file, where there are several (bitnet-b1.58, bitnet)
    #[arg(long, value_name = "NAME")]
    pub(crate) arch: Option<String>,
    /// Choose types for the embedding table, the head and layers of ordinary numbers so that all matrices take at most SIZE
    /// (500M, 4G) and lose as little as they can
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "min_sqnr")]
    pub(crate) max_size: Option<u64>,
    /// Choose them so that the result is small, and signal over error is at least DB decibels on average
    #[arg(long, value_name = "DB")]
    pub(crate) min_sqnr: Option<f64>,
    /// Merge a LoRA adapter (a folder that PEFT wrote) into the weights, times FACTOR; may be repeated
    #[arg(long, value_name = "DIR[=FACTOR]", value_parser = adapter)]
    pub(crate) lora: Vec<(PathBuf, f32)>,
    /// Split the result into files of at most SIZE of weights (500M, 4G)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) split_max_size: Option<u64>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not read the result back and compare it
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Begin anew, even if an interrupted conversion could go on
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Replace a result that is there already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

/// A container to convert to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConvertTarget {
    /// A GGUF file
    Gguf,
    /// A Hugging Face folder with packed ternary layers
    Hf,
    /// A Hugging Face folder of ordinary numbers
    HfDense,
    /// A folder for MLX's programs: ternary layers with 2 bits, affine
    Mlx,
}

impl From<ConvertTarget> for Target {
    fn from(target: ConvertTarget) -> Self {
        match target {
            ConvertTarget::Gguf => Self::Gguf,
            ConvertTarget::Hf => Self::HuggingFace,
            ConvertTarget::HfDense => Self::Dense,
            ConvertTarget::Mlx => Self::Mlx,
        }
    }
}

/// `bitnet tokenize`.
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The text; `-` reads it from standard input
    #[arg(required_unless_present = "decode")]
    pub(crate) text: Option<String>,
    /// Print the ids only
    #[arg(long)]
    pub(crate) ids: bool,
    /// Neither add the tokens that begin and end a text, nor read special tokens in it
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Print the text of these ids
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',', conflicts_with_all = ["text", "ids"])]
    pub(crate) decode: Vec<u32>,
}

/// `bitnet perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Tokens of a window [default: 512, or the model's context if that is smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Move windows by N tokens and score the last N of each [default: windows follow one another, and the second
    /// half of each is scored]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "all")]
    pub(crate) stride: Option<usize>,
    /// Score every token of every window
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The model, as for --model
    #[arg(value_name = "MODEL", value_parser = model_path::parser())]
    pub(crate) path: Option<PathBuf>,
    /// Tokens to run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub(crate) tokens: usize,
}

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

/// `bitnet train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// The recipe (JSON)
    #[arg(long, value_name = "FILE", required_unless_present = "story")]
    pub(crate) config: Option<PathBuf>,
    /// The folder for checkpoints and the log
    #[arg(long, value_name = "DIR", required_unless_present = "story")]
    pub(crate) out: Option<PathBuf>,
    /// Go on from the checkpoint in the folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print the training story of this seed instead
    #[arg(long, value_name = "SEED", conflicts_with_all = ["config", "out", "resume"])]
    pub(crate) story: Option<u64>,
}

/// `bitnet completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".into()),
        Ok(number) => Ok(number),
    }
}

fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    match text.rsplit_once('=') {
        None => Ok((text.into(), 1.0)),
        Some((folder, factor)) => {
            let factor = factor.parse::<f32>().ok().filter(|factor| factor.is_finite());
            Ok((folder.into(), factor.ok_or("write DIR or DIR=FACTOR, for example adapter=0.5")?))
        }
    }
}

/// Bytes: a whole number, with K, M or G for powers of 1000.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "write a size such as 500M or 4G".into())
}

fn tensor_type(text: &str) -> Result<(String, Storage), String> {
    let (pattern, storage) =
        text.split_once('=').ok_or("write PATTERN=TYPE, for example output=q8_0")?;
    Ok((pattern.to_owned(), storage.parse().map_err(|error| format!("{error}"))?))
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("write ID=V, for example 42=-5")?;
    let id = id.trim().parse().map_err(|_| format!("{id:?} is not a token id"))?;
    let value: f32 = value.trim().parse().map_err(|_| format!("{value:?} is not a number"))?;
    Ok((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!((size("12"), size("3k"), size("4G")), (Ok(12), Ok(3_000), Ok(4_000_000_000)));
        for wrong in
            ["", "0", "G", "-1", "1.5G", "4GB", "99999999999999999999", "99999999999G", "é"]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn logit_biases_are_read() {
        assert_eq!(logit_bias("3=-inf"), Ok((3, f32::NEG_INFINITY)));
        assert_eq!(logit_bias("3=1.5"), Ok((3, 1.5)));
        for wrong in ["3", "x=1", "3=y", "-1=2"] {
            assert!(logit_bias(wrong).is_err(), "{wrong}");
        }
    }
}
