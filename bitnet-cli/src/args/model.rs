//! Options that select a model and how it is loaded and run.

use std::path::PathBuf;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::kv::KvType;
use bitnet_inference::models::HeadMode;
use bitnet_quant::codec::i2_s::I2sLayout;
use clap::{Args, ValueEnum};

use super::values::positive;

/// Options that select a model and how it is loaded and run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A GGUF file, a safetensors file, a folder with one model, or OWNER/NAME on a hub (downloaded unless cached) [default: the
    /// built-in story model]
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
        default_value = "cpu",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) backend: BackendName,
    /// Byte layout of I2_S tensors; files do not state it
    #[arg(
        long,
        global = true,
        value_name = "LAYOUT",
        default_value = "canonical",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) i2s_layout: Layout,
    /// Activations of ternary layers [default: as the model was trained]
    #[arg(long, global = true, value_name = "HOW", hide_short_help = true)]
    pub(crate) activations: Option<Precision>,
    /// Quantise the inputs of ternary layers with the static ranges in FILE, written by `bitnet calibrate` (`compare`: of the
    /// second model)
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
        default_value = "f16",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) kv: Kv,
    /// Precision of the head for greedy and --top-k sampling
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        default_value = "refined",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) head: HeadReading,
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

/// A back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// Vector kernels on all cores
    Cpu,
    /// The scalar reference implementation; slow
    Reference,
}

impl BackendName {
    /// Returns the engine's name for the back end.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Reference => "reference",
        }
    }
}

/// A byte layout of I2_S.
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

/// A precision of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadReading {
    /// 4-bit codes first; differs from `full` with a probability below 2^-64 per token
    Refined,
    /// 8-bit codes first; never differs from `full`
    Certain,
    /// All weights at full precision
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

/// How the inputs of ternary layers are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// 8 bits with one scale per token (W1.58A8)
    Int8,
    /// Not quantised (weight-only quantisation)
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

/// A data type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// Single precision
    F32,
    /// Half precision: half the memory of f32
    F16,
    /// 8 bits with a scale per position and head: about half the memory of f16
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
