//! Loading a model with settings of choice.

use std::path::Path;
use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::kv::KvType;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::CpuOptions;

use crate::Result;
use crate::loader::{LoadOptions, backend_by_name, backend_in_pool};
use crate::model::{Model, ModelSource};

/// Settings for loading a model. What is not set is as [`Model::open`] has it.
///
/// ```
/// use bitnet_inference::{KvType, Model};
///
/// let model = Model::builder().threads(2).kv(KvType::Int8).embedded()?;
/// assert_eq!(model.kv(), KvType::Int8);
/// # Ok::<(), bitnet_inference::InferenceError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ModelBuilder {
    options: LoadOptions,
    cpu: CpuOptions,
    backend: Option<Arc<dyn Backend>>,
}

impl ModelBuilder {
    /// Sets all choices that a file may leave open, and how the head is
    /// read, the pool and the cache of prepared weights.
    pub fn options(self, options: LoadOptions) -> Self {
        Self { options, ..self }
    }

    /// Sets the number of threads of the CPU back end; all physical cores otherwise.
    pub fn threads(mut self, threads: usize) -> Self {
        self.cpu.threads = Some(threads);
        self
    }

    /// Sets the instruction set level of the CPU back end; the best one otherwise.
    pub fn isa(mut self, level: IsaLevel) -> Self {
        self.cpu.isa = Some(level);
        self
    }

    /// Sets how sessions store keys and values; half precision otherwise.
    pub fn kv(mut self, kind: KvType) -> Self {
        self.options.kv = kind;
        self
    }

    /// Sets the back end; threads and instruction set are its own then.
    pub fn backend(self, backend: Arc<dyn Backend>) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Loads a GGUF file, a safetensors file or a Hugging Face folder.
    ///
    /// # Errors
    /// Those of [`Model::load_with`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Model> {
        self.load(ModelSource::Path(path.as_ref()))
    }

    /// Loads the model that is part of the program.
    ///
    /// # Errors
    /// Those of [`Model::load_with`].
    pub fn embedded(self) -> Result<Model> {
        self.load(ModelSource::Embedded)
    }

    fn load(self, source: ModelSource<'_>) -> Result<Model> {
        let backend = match (self.backend, &self.options.pool) {
            (Some(backend), _) => backend,
            (None, Some(pool)) => backend_in_pool("cpu", self.cpu, pool)?,
            (None, None) => backend_by_name("cpu", self.cpu)?,
        };
        Model::load_with(source, &self.options, backend, &mut |_, _| {})
    }
}

impl Model {
    /// Loads a GGUF file, a safetensors file or a Hugging Face folder, to run on all physical cores.
    ///
    /// # Errors
    /// Those of [`Model::load_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Returns settings for loading, to be changed.
    pub fn builder() -> ModelBuilder {
        ModelBuilder::default()
    }
}
