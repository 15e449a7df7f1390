//! What a conversion is asked for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_inference::LoadOptions;

use crate::{Error, Result, Storage};

/// The container and packing of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A GGUF file.
    Gguf,
    /// A Hugging Face folder with packed ternary layers (`quant_method: bitnet`, U8 codes and a scale for each layer).
    HuggingFace,
    /// A Hugging Face folder of ordinary numbers.
    Dense,
    /// A folder as MLX's programs write it, ternary layers with 2 bits, affine.
    Mlx,
}

impl Target {
    /// Its name, as it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hf",
            Self::Dense => "hf-dense",
            Self::Mlx => "mlx",
        }
    }
}

/// What a result must keep to, where its tensors may have types of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bytes of all matrices; the error is to be small.
    Bytes(u64),
    /// Signal over error in decibels, on average over all weights; the bytes are to be few.
    Decibels(f64),
}

/// What a conversion is asked for.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The container; from the output's name unless given: a `.gguf` file, else a Hugging Face folder.
    pub target: Option<Target>,
    /// How ternary layers are stored; what keeps them exactly unless given.
    pub linear: Option<Storage>,
    /// How the embedding table is stored; as in the source unless given.
    pub embedding: Option<Storage>,
    /// How the head is stored, if the model has one of its own; as in the source unless given.
    pub head: Option<Storage>,
    /// Storage of the tensors whose GGUF name (without `.weight`) fits a pattern; the last that fits decides.
    pub overrides: Vec<(String, Storage)>,
    /// Whether layers of ordinary numbers, which nobody trained to be ternary, may be made so.
    pub quantize: bool,
    /// `general.architecture` of a GGUF file, where the model's family has several names.
    pub architecture: Option<String>,
    /// Types for tensors of ordinary numbers are chosen so that the result keeps to this.
    pub budget: Option<Budget>,
    /// Adapters that are merged into the weights, each with a factor on what it adds: folders that the PEFT library wrote.
    pub adapters: Vec<(PathBuf, f32)>,
    /// Bytes of weights in one file; one file holds all unless given.
    pub split: Option<u64>,
    /// Choices that the source leaves open.
    pub load: LoadOptions,
    /// Threads that convert; as many as the system lets the process run unless given.
    pub threads: Option<usize>,
    /// Whether the result is read back and compared.
    pub verify: bool,
    /// Whether a conversion that was interrupted goes on where it stopped.
    pub resume: bool,
    /// Whether an existing output is replaced.
    pub overwrite: bool,
    /// A flag that another thread sets to stop the work, also while nothing of it is reported as progress.
    pub interrupted: Option<&'static AtomicBool>,
}

impl ConvertOptions {
    /// An error once the flag is set.
    pub(crate) fn go_on(&self) -> Result<()> {
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
            load: LoadOptions::default(),
            threads: None,
            verify: true,
            resume: true,
            overwrite: false,
            interrupted: None,
        }
    }
}

/// Where a conversion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A stage of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Tensors are read, converted and written.
    Converting,
    /// What was written is read back.
    Proving,
}
