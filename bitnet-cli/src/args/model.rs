//! Which model, and how to read and run it.

use std::path::PathBuf;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::kv::KvType;
use bitnet_inference::models::HeadMode;
use bitnet_quant::codec::i2_s::I2sLayout;
use clap::{Args, ValueEnum};

use super::values::positive;

/// Which model, and how to read and run it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A GGUF file, a safetensors file, a folder with one model, or OWNER/NAME on a hub, which is downloaded unless it is in the
    /// cache [default: the embedded story model]
    #[arg(short, long, global = true, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// A model on a hub, as --model hf:OWNER/NAME (also -hf)
    #[arg(
        long,
        global = true,
        value_name = "OWNER/NAME",
        conflicts_with = "model",
        hide_short_help = true
    )]
    pub(crate) hf_repo: Option<String>,
    /// Tokens of context to reserve memory for [default: the model's own, up to 4096]
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
    /// Where to compute
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "cpu",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) backend: BackendName,
    /// Byte layout of I2_S tensors, which files do not say
    #[arg(
        long,
        global = true,
        value_name = "LAYOUT",
        default_value = "canonical",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) i2s_layout: Layout,
    /// Treatment of the inputs of ternary layers [default: what the model was trained for]
    #[arg(long, global = true, value_name = "HOW", hide_short_help = true)]
    pub(crate) activations: Option<Precision>,
    /// Quantise the inputs of ternary layers within the ranges in FILE, which `bitnet calibrate` wrote (`compare`: those of
    /// the second model)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "activations",
        hide_short_help = true
    )]
    pub(crate) calibration: Option<PathBuf>,
    /// Do not keep prepared weights and heads on disk, and do not use those that are kept
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) no_cache: bool,
    /// How keys and values of the context are stored
    #[arg(
        long,
        global = true,
        value_name = "TYPE",
        default_value = "f16",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) kv: Kv,
    /// How the head is read where only the likeliest tokens are wanted (greedy, or --top-k)
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
