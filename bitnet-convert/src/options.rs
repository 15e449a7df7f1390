//! Options and progress of a conversion.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_inference::loader::NormForm;
use bitnet_inference::{DraftSource, LoadOptions};

use crate::{Error, Result, Storage};

/// The format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder with packed ternary layers (`quant_method: bitnet`, U8 codes and a scale per layer).
    HuggingFace,
    /// A Hugging Face folder with dense layers.
    Dense,
    /// An MLX folder with 2-bit affine ternary layers.
    Mlx,
}

impl Target {
    /// Returns its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hf",
            Self::Dense => "hf-dense",
            Self::Mlx => "mlx",
        }
    }

    /// Returns how its folders hold norms.
    pub(crate) fn norms(self) -> NormForm {
        match self {
            Self::Mlx => NormForm::Multiplier,
            Self::Gguf | Self::HuggingFace | Self::Dense => NormForm::Offset,
        }
    }
}

/// The budget of a mixed-precision result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Maximum bytes of all matrices; minimises the error.
    Bytes(u64),
    /// Minimum mean signal-to-quantisation-noise ratio in decibels; minimises bytes.
    Decibels(f64),
}

/// Options of a conversion.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The format. Default: GGUF for a name ending in `.gguf`, else a Hugging Face folder.
    pub target: Option<Target>,
    /// The type of ternary layers. Default: lossless.
    pub linear: Option<Storage>,
    /// The type of the embedding table. Default: as in the source.
    pub embedding: Option<Storage>,
    /// The type of an untied head. Default: as in the source.
    pub head: Option<Storage>,
    /// Types of tensors whose GGUF name (without `.weight`) matches a pattern; the last match wins.
    pub overrides: Vec<(String, Storage)>,
    /// Allows ternary quantisation of dense layers that were not trained for it.
    pub quantize: bool,
    /// `general.architecture` of a GGUF file, if the family has several names.
    pub architecture: Option<String>,
    /// The budget for selecting types of dense tensors.
    pub budget: Option<Budget>,
    /// LoRA adapters to merge (PEFT folders), each with a factor.
    pub adapters: Vec<(PathBuf, f32)>,
    /// Maximum bytes of weights per file. Default: a single file.
    pub split: Option<u64>,
    /// Load options, for facts that the source does not state.
    pub load: LoadOptions,
    /// The number of threads. Default: the available parallelism.
    pub threads: Option<usize>,
    /// Whether to verify the result.
    pub verify: bool,
    /// Whether to resume an interrupted conversion.
    pub resume: bool,
    /// Whether to replace an existing output.
    pub overwrite: bool,
    /// A flag that another thread sets to stop the conversion, also between progress reports.
    pub interrupted: Option<&'static AtomicBool>,
}

impl ConvertOptions {
    /// Returns an error if the flag is set.
    pub(crate) fn check_stop(&self) -> Result<()> {
        match self.interrupted.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            target: None,
            linear: None,
            embedding: None,
            head: None,
            overrides: Vec::new(),
            quantize: false,
            architecture: None,
            budget: None,
            adapters: Vec::new(),
            split: None,
            load: LoadOptions { draft: DraftSource::Own, ..LoadOptions::default() },
            threads: None,
            verify: true,
            resume: true,
            overwrite: false,
            interrupted: None,
        }
    }
}

/// The progress of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The current stage.
    pub stage: Stage,
    /// Processed bytes.
    pub done: u64,
    /// Total bytes.
    pub total: u64,
}

/// A stage of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Converting tensors.
    Converting,
    /// Verifying the result.
    Proving,
}
