//! What a model is, without loading it: settings, tensors, sizes by type, facts and assumptions.

use std::collections::BTreeMap;

use bitnet_formats::onnx::Initializer;

use crate::Result;
use crate::loader::{Container, LoadOptions, MemoryNeed, ModelFacts};
use crate::model::{ModelSource, open};
use crate::models::ModelConfig;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSummary {
    /// Its name in the file.
    pub name: String,
    /// Its storage type.
    pub storage: String,
    /// Its shape as stored, slowest dimension first.
    pub shape: Vec<u64>,
    /// Bytes in the file.
    pub bytes: u64,
}

/// What a model is.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Shapes and constants.
    pub config: ModelConfig,
    /// The facts and what the rules settled. Assumptions that need the weights are known after loading only.
    pub facts: ModelFacts,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorSummary>,
    /// The memory that it needs.
    pub memory: MemoryNeed,
}

impl Inspection {
    /// Reads the header of a model and describes it.
    ///
    /// # Errors
    /// As loading the model, except for what is wrong with the weights.
    pub fn of(source: ModelSource<'_>, options: &LoadOptions) -> Result<Self> {
        let opened = open(source, options)?;
        let facts = opened.describe(options)?.facts;
        let config = opened.config().clone();
        let memory = MemoryNeed::of_checkpoint(&*opened, options.kv)?;
        let tensors = match opened.container() {
            Container::Gguf(file) => file
                .tensors()
                .iter()
                .map(|t| TensorSummary {
                    name: t.name.clone(),
                    storage: t.ggml_type.name().into(),
                    shape: t.dims.iter().rev().copied().collect(),
                    bytes: t.nbytes,
                })
                .collect(),
            Container::HuggingFace { tensors, .. } => tensors
                .tensors()
                .map(|t| TensorSummary {
                    name: t.name.clone(),
                    storage: t.dtype.name().into(),
                    shape: t.shape.iter().map(|&d| d as u64).collect(),
                    bytes: t.data.len() as u64,
                })
                .collect(),
            Container::Onnx { model, .. } => {
                let summary = |t: &Initializer| TensorSummary {
                    name: t.name.clone(),
                    storage: t.data_type.name().into(),
                    shape: t.shape.iter().map(|&d| d as u64).collect(),
                    bytes: model.data(t).map_or(0, |data| data.len() as u64),
                };
                model.initializers().iter().map(summary).collect()
            }
        };
        Ok(Self { config, facts, tensors, memory })
    }

    /// (storage type, tensors, bytes), largest first.
    pub fn bytes_by_type(&self) -> Vec<(String, usize, u64)> {
        let mut by_type: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for tensor in &self.tensors {
            let entry = by_type.entry(&tensor.storage).or_default();
            entry.0 += 1;
            entry.1 += tensor.bytes;
        }
        let mut out: Vec<_> = by_type.into_iter().map(|(t, (n, b))| (t.to_owned(), n, b)).collect();
        out.sort_by_key(|&(_, _, bytes)| std::cmp::Reverse(bytes));
        out
    }
}
