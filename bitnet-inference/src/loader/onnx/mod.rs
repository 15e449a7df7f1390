//! ONNX files with `MatMulNBits` nodes of 2 bits, beside the `config.json` and `tokenizer.json` of a Hugging Face folder.

mod agreement;
mod codes;
mod folder;
mod graph;
mod names;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::architecture::{Architecture, ModelClass};
use bitnet_formats::names::TensorName;
use bitnet_formats::onnx::{Initializer, OnnxModel};
use bitnet_formats::{MappedFile, Region};
use bitnet_quant::codec::matmul_nbits::FORMAT;
use serde_json::Value;

use self::graph::{Found, Source, Sources};
use super::hf_config::HfConfig;
use super::hf_facts::{OwnFacts, describe};
use super::json_object::read_json;
use super::mapped_rows::{MappedRows, finite_row};
use super::ternary_rows::TernaryRows;
use super::tied_head::differing_head;
use super::{
    Checkpoint, Container, Description, LoadOptions, RawNumbers, RawTensor, StoredBytes,
    StoredLinear, StoredType, StoredWeight, tensor_use,
};
use crate::models::ModelConfig;
use crate::{InferenceError, Result};

pub(crate) use folder::in_folder;
pub use folder::settings_folder;

/// The table of embeddings.
const TABLE: &str = "token_embd";
/// The head.
const HEAD: &str = "output";

/// An open ONNX file with its settings.
pub(crate) struct OnnxCheckpoint {
    folder: PathBuf,
    model: OnnxModel,
    json: Value,
    config: HfConfig,
    sources: Sources,
    precision: Option<ActivationPrecision>,
    /// Whether the head is the embedding table.
    tied: Option<bool>,
    /// What was assumed about head and embedding table.
    head_assumption: Option<String>,
}

impl OnnxCheckpoint {
    /// Opens an `.onnx` file; its settings are in its folder, or in the one above.
    pub(crate) fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        let folder = settings_folder(path);
        let config_path = folder.join("config.json");
        let json = read_json(&config_path)?;
        let config = HfConfig::parse(&json, &config_path.display().to_string())?;
        let family = config.model.architecture;
        if ![Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3].contains(&family) {
            let what = format!("{}: {} in an ONNX file", config_path.display(), config.class);
            let instead = "models of the families llama, qwen2 and qwen3 are read from these; use the GGUF or safetensors \
                           files of this one";
            return Err(InferenceError::unsupported(what, instead));
        }
        let model = OnnxModel::open(path)?;
        let tied = config.tied;
        let Found { sources, unread_table } =
            graph::read(&model, &config.model, tied == Some(true))?;
        let precision = options.activations;
        let head_assumption = unread_table.map(|node| {
            format!("GatherBlockQuantized {node} is not read: config.json says that its table is the head (tied)")
        });
        let mut checkpoint =
            Self { folder, model, json, config, sources, precision, tied, head_assumption };
        tensor_use::check_shapes(&checkpoint)?;
        checkpoint.settle_head()?;
        Ok(checkpoint)
    }

    /// Whether the head is the embedding table: as the settings say, unless the file has two with other numbers.
    fn settle_head(&mut self) -> Result<()> {
        if self.tied != Some(true) {
            return Ok(());
        }
        let tensor = |name: &str| self.sources.get(name).map(|source| source.tensor().to_owned());
        match (tensor(TABLE), tensor(HEAD)) {
            (None, Some(head)) => {
                let source = self.sources[HEAD].clone();
                self.sources.insert(TABLE.into(), source);
                let assumption =
                    || format!("the file has no embedding table: {head} is used (tied)");
                self.head_assumption.get_or_insert_with(assumption);
            }
            (Some(_), Some(_)) if self.has_same_codes()? => {}
            (Some(_), Some(_)) => {
                if let Some(assumption) = differing_head(self)? {
                    self.head_assumption = Some(assumption);
                    self.tied = Some(false);
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// Whether table and head have the same codes, scales and zero points, which may be stored apart.
    fn has_same_codes(&self) -> Result<bool> {
        match (&self.sources[TABLE], &self.sources[HEAD]) {
            (Source::Codes(table, _), Source::Codes(head, _)) => table.equals(head, &self.model),
            _ => Ok(false),
        }
    }

    /// The initializer of a source, its part of the bytes, and how these are stored.
    fn part(&self, source: &Source) -> Result<(&Initializer, Region, StoredType)> {
        let name = source.tensor();
        let tensor = self.model.find(name).ok_or_else(|| InferenceError::MissingTensor {
            file: self.file().into(),
            tensor: name.into(),
        })?;
        let (rows, block, all) = match source {
            Source::Numbers(_, rows) => (rows, None, tensor.shape.first().copied().unwrap_or(1)),
            Source::Codes(codes, rows) => (rows, Some(codes.form.block), codes.form.rows),
        };
        let data = self.model.data(tensor)?;
        let per_row = data.len() / all.max(1);
        let region = data.slice(rows.start * per_row..rows.end * per_row)?;
        Ok((tensor, region, StoredType::Onnx(tensor.data_type, block)))
    }

    /// A matrix of ordinary numbers, `[rows, cols]`.
    fn numbers(&self, source: &Source, rows: usize, cols: usize) -> Result<Arc<dyn DenseRows>> {
        let (tensor, region, _) = self.part(source)?;
        let wrong = |error| InferenceError::weights(self.file(), &tensor.name, error);
        let dense = tensor.data_type.plain().ok_or_else(|| {
            let what = format!("{}: {} of {}", self.file(), tensor.name, tensor.data_type);
            InferenceError::unsupported(what, "FLOAT, FLOAT16 and BFLOAT16 are")
        })?;
        Ok(Arc::new(MappedRows::new(dense.into(), rows, cols, region).map_err(wrong)?))
    }

    /// Checks that a source of a matrix has this shape.
    fn check_shape(&self, source: &Source, rows: usize, cols: usize) -> Result<()> {
        let found = match source {
            Source::Codes(codes, found) => vec![found.len(), codes.form.cols],
            Source::Numbers(name, _) => {
                self.model.find(name).map_or(Vec::new(), |tensor| tensor.shape.clone())
            }
        };
        if found == [rows, cols] {
            return Ok(());
        }
        Err(InferenceError::shape(self.file(), source.tensor(), &found, &[rows, cols]))
    }
}

impl Checkpoint for OnnxCheckpoint {
    fn file(&self) -> &str {
        self.model.name()
    }

    fn container(&self) -> Container<'_> {
        Container::Onnx {
            folder: &self.folder,
            model: &self.model,
            config: &self.json,
            class: &self.config.class,
        }
    }

    fn describe(&self, options: &LoadOptions) -> Result<Description> {
        let mut assumptions = self.config.assumptions.clone();
        assumptions.extend(self.head_assumption.clone());
        let blocks = self.sources.values().filter_map(|source| match source {
            Source::Codes(codes, _) => Some(codes.form.block),
            Source::Numbers(..) => None,
        });
        let mut blocks: Vec<usize> = blocks.collect();
        blocks.sort_unstable();
        blocks.dedup();
        let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
        let own = OwnFacts {
            file: self.file().to_owned(),
            container: "ONNX".into(),
            weights: format!(
                "MatMulNBits, 2 bits, a scale for each {} weights, which multiplies",
                blocks.join(" or ")
            ),
            quantized_inputs: false,
            precision: self.precision,
            assumptions,
        };
        describe(self, &self.folder, &self.config, own, options)
    }

    fn name_in_file(&self, name: &str) -> String {
        if let Some(source) = self.sources.get(name) {
            return source.tensor().to_owned();
        }
        let class = ModelClass::named(&self.config.class);
        let usual = TensorName::from_stem(name).zip(class);
        usual.and_then(|(name, class)| name.to_hf(class)).unwrap_or_else(|| name.into())
    }

    fn tensor_names(&self) -> Vec<String> {
        // Constants of the graph are none of the model's tensors.
        let weights =
            self.model.initializers().iter().filter(|tensor| graph::may_be_weight(tensor));
        weights.map(|tensor| tensor.name.clone()).collect()
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        // The head of a tied model may have zero points of its own.
        let head = if name == TABLE && self.tied == Some(true) { Some(HEAD) } else { None };
        let sources = std::iter::once(name).chain(head).filter_map(|name| self.sources.get(name));
        sources.flat_map(Source::tensors).map(str::to_owned).collect()
    }

    fn raw_tensors(&self) -> Result<Vec<RawTensor>> {
        let is_codes = |name: &str| self.codes_of(name).is_some();
        let used: HashSet<&str> = self.sources.values().flat_map(Source::tensors).collect();
        let is_weight =
            |tensor: &Initializer| used.contains(&*tensor.name) || graph::may_be_weight(tensor);
        let raw = |tensor: &Initializer| {
            let cols = tensor.shape.last().copied().unwrap_or(1);
            let rows = tensor.elements() / cols.max(1);
            let numbers = match tensor.data_type.plain() {
                // Constants of a graph, as those of a mask, may be infinite.
                Some(dtype) if rows * cols > 0 && is_weight(tensor) => RawNumbers::Dense {
                    dtype: dtype.into(),
                    rows,
                    cols,
                    region: self.model.data(tensor)?,
                },
                None if is_codes(&tensor.name) => RawNumbers::Ternary,
                _ => RawNumbers::Other,
            };
            Ok(RawTensor { name: tensor.name.clone(), numbers })
        };
        self.model.initializers().iter().map(raw).collect()
    }

    fn decode_raw(&self, name: &str, pool: &HybridMemoryPool) -> Result<TernaryMatrix> {
        let codes = self.codes_of(name).ok_or_else(|| self.missing(name))?;
        codes.decode(&self.model, &(0..codes.form.rows), pool)
    }

    fn layers_field(&self) -> String {
        "num_hidden_layers".into()
    }

    fn config(&self) -> &ModelConfig {
        &self.config.model
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        let rows = match source {
            Source::Numbers(_, rows) => rows.len(),
            Source::Codes(..) => 0,
        };
        if rows != len {
            return Err(InferenceError::shape(self.file(), source.tensor(), &[rows], &[len]));
        }
        let numbers = self.numbers(source, 1, len)?;
        finite_row(&*numbers, self.file(), source.tensor()).map(Some)
    }

    fn stored(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        self.check_shape(source, rows, cols)?;
        let weight = match source {
            Source::Codes(codes, rows) => {
                StoredWeight::Ternary(codes.decode(&self.model, rows, pool)?)
            }
            Source::Numbers(..) => {
                let rows = self.numbers(source, rows, cols)?;
                StoredWeight::Dense { rows, latent: false, scale: None }
            }
        };
        let precision = self.precision.unwrap_or(ActivationPrecision::Float);
        Ok(Some(StoredLinear { tensor: source.tensor().to_owned(), weight, precision }))
    }

    fn stored_expert(
        &self,
        name: &str,
        _expert: usize,
        _shape: [usize; 2],
        _pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        // Families with experts are refused when the file is opened.
        Err(self.missing(name))
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Arc<dyn DenseRows>>> {
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        self.check_shape(source, rows, cols)?;
        match source {
            Source::Codes(codes, rows) => {
                let matrix = codes.decode(&self.model, rows, pool)?;
                Ok(Some(Arc::new(TernaryRows::new(matrix, FORMAT))))
            }
            Source::Numbers(..) => self.numbers(source, rows, cols).map(Some),
        }
    }

    fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>> {
        let Some(source) = self.sources.get(name) else { return Ok(None) };
        let (tensor, region, storage) = self.part(source)?;
        let shape = match source {
            Source::Codes(codes, rows) => vec![rows.len(), codes.form.cols],
            Source::Numbers(_, rows) if tensor.shape.len() == 1 => vec![rows.len()],
            Source::Numbers(..) => tensor.shape.clone(),
        };
        Ok(Some(StoredBytes { tensor: tensor.name.clone(), storage, shape, region }))
    }

    fn input_norm_eps(&self) -> f32 {
        self.config.model.norm_eps
    }

    fn tied(&self) -> Option<bool> {
        self.tied
    }

    fn files(&self) -> Vec<Arc<MappedFile>> {
        self.model.files().cloned().collect()
    }

    fn cache_key(&self) -> String {
        format!("onnx {:?} {:?}", self.precision, self.config)
    }

    fn check(&self) -> Result<()> {
        Ok(self.model.check()?)
    }
}

impl OnnxCheckpoint {
    /// The codes of an initializer, if it is one of codes.
    fn codes_of(&self, name: &str) -> Option<&codes::Codes> {
        self.sources.values().find_map(|source| match source {
            Source::Codes(codes, _) if codes.weight == name => Some(codes),
            _ => None,
        })
    }
}
