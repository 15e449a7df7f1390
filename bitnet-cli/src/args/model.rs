//! Options that select a model and how it is loaded and run.

use std::path::PathBuf;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::kv::KvType;
use bitnet_inference::models::HeadMode;
use bitnet_quant::codec::i2_s::I2sLayout;
use clap::Args;

use super::values::{Choice, one_of, positive};

/// Options that select a model and how it is loaded and run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A GGUF, safetensors or ONNX file, a folder with one model, or OWNER/NAME on a hub (downloaded unless cached)
    /// [default: the built-in story model]
    #[arg(short, long, global = true, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// A model on a hub, like --model hf:OWNER/NAME (also -hf)
    #[arg(
        long,
        global = true,
        value_name = "OWNER/NAME",
        conflicts_with = "model",
        hide_short_help = true
    )]
    pub(crate) hf_repo: Option<String>,
    /// Context length in tokens [default: the model's, up to 4096]
    #[arg(
        short = 'c',
        long,
        alias = "ctx-size",
        global = true,
        value_name = "N",
        value_parser = positive,
        hide_short_help = true
    )]
    pub(crate) ctx: Option<usize>,
    /// Compute back end
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        value_parser = one_of(BACKENDS),
        default_value = "cpu",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) backend: &'static str,
    /// Byte layout of I2_S tensors; files do not state it
    #[arg(
        long,
        global = true,
        value_name = "LAYOUT",
        value_parser = one_of(LAYOUTS),
        default_value = "canonical",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) i2s_layout: I2sLayout,
    /// Activations of ternary layers [default: as the model was trained]
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_parser = one_of(PRECISIONS),
        hide_short_help = true
    )]
    pub(crate) activations: Option<ActivationPrecision>,
    /// Quantise the inputs of ternary layers with the static ranges in FILE, written by `bitnet calibrate` (`compare`:
    /// of the second model)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "activations",
        hide_short_help = true
    )]
    pub(crate) calibration: Option<PathBuf>,
    /// Disable the disk cache of prepared weights
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_cache: bool,
    /// Data type of the KV cache
    #[arg(
        long,
        global = true,
        value_name = "TYPE",
        value_parser = one_of(KV_TYPES),
        default_value = "f16",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) kv: KvType,
    /// Precision of the head for greedy and --top-k sampling
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_parser = one_of(HEADS),
        default_value = "refined",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) head: HeadMode,
    /// A chat template that replaces the model's own: a Jinja file, a built-in one (bitnet, llama3, chatml,
    /// falcon3; ./chatml is a file of that name), or one of the model's by its name
    #[arg(
        long,
        alias = "chat-template-file",
        global = true,
        value_name = "FILE|NAME",
        hide_short_help = true
    )]
    pub(crate) chat_template: Option<PathBuf>,
}

/// Back ends, by the engine's names.
const BACKENDS: &[Choice<&str>] = &[
    ("cpu", "Vector kernels on all cores", "cpu"),
    ("reference", "The scalar reference implementation; slow", "reference"),
];

/// Byte layouts of I2_S.
const LAYOUTS: &[Choice<I2sLayout>] = &[
    (
        "canonical",
        "128 weights in 32 bytes: published files, x86 builds, converters",
        I2sLayout::X86,
    ),
    (
        "arm64",
        "64 weights in 16 bytes: files written by ARM builds since November 2025",
        I2sLayout::Arm64,
    ),
    ("x4", "Four rows in a byte: builds without ACT_PARALLEL", I2sLayout::X4),
];

/// Precisions of the head.
const HEADS: &[Choice<HeadMode>] = &[
    (
        "refined",
        "4-bit codes first; differs from `full` with a probability below 2^-64 per token",
        HeadMode::Refined,
    ),
    ("certain", "8-bit codes first; never differs from `full`", HeadMode::Certain),
    ("full", "All weights at full precision", HeadMode::Full),
];

/// How the inputs of ternary layers are quantised.
const PRECISIONS: &[Choice<ActivationPrecision>] = &[
    ("int8", "8 bits with one scale per token (W1.58A8)", ActivationPrecision::Int8),
    (
        "float",
        "24 bits with one scale per token (weight-only quantisation)",
        ActivationPrecision::Float,
    ),
];

/// Data types of the KV cache.
const KV_TYPES: &[Choice<KvType>] = &[
    ("f32", "Single precision", KvType::F32),
    ("f16", "Half precision: half the memory of f32", KvType::F16),
    (
        "int8",
        "8 bits with a scale per position and head: about half the memory of f16",
        KvType::Int8,
    ),
];
