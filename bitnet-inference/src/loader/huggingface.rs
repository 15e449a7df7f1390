//! Hugging Face folders: `config.json`, safetensors, `tokenizer.json` and their companions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::MappedFile;
use bitnet_formats::architecture::ModelClass;
use bitnet_formats::names::{Part, Role, TensorName};
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorView};
use bitnet_quant::codec::mlx;
use serde_json::Value;

use super::hf_config::{HfConfig, module_of};
use super::hf_drafts::read_drafts;
use super::hf_numbers::{NormForm, from_hf_form};
use super::hf_rotation::rotations;
use super::json_object::read_json;
use super::quantization::Quantization;
use super::ternary_rows::TernaryRows;
use super::tied_head::differing_head;
use super::{
    Checkpoint, Container, Description, HfPacking, LoadOptions, RawTensor, StoredBytes,
    StoredLinear, StoredType, tensor_use,
};
use crate::models::{ModelConfig, tensors};
use crate::{InferenceError, Result};

/// An open Hugging Face folder.
pub(crate) struct HfCheckpoint {
    pub(super) folder: PathBuf,
    pub(super) tensors: SafeTensors,
    pub(super) json: Value,
    pub(super) config: HfConfig,
    pub(super) precision: Option<ActivationPrecision>,
    pub(super) norms: NormForm,
    /// Whether the head is the embedding table.
    pub(super) tied: Option<bool>,
    /// What was assumed about head and embedding table.
    pub(super) head_assumption: Option<String>,
}

impl HfCheckpoint {
    /// Opens a folder, or the folder of the file named.
    pub(crate) fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let config_path = folder.join("config.json");
        let json = read_json(&config_path)?;
        let config = HfConfig::parse(&json, &config_path.display().to_string())?;
        let named_weights = path.extension().is_some_and(|e| e == "safetensors")
            || path.to_str().is_some_and(|p| p.ends_with(".safetensors.index.json"));
        let tensors = SafeTensors::open(if named_weights { path } else { folder })?;
        let precision = options.activations;
        let (folder, tied) = (folder.to_owned(), config.tied);
        let (norms, head_assumption) = (NormForm::default(), None);
        let mut checkpoint =
            Self { folder, tensors, json, config, precision, norms, tied, head_assumption };
        checkpoint.norms = checkpoint.norm_form()?;
        let Self { tensors, json, config, norms, .. } = &mut checkpoint;
        read_drafts(config, tensors, json, *norms, options)?;
        checkpoint.settle_bit_linears();
        tensor_use::check_layers(&checkpoint)?;
        tensor_use::check_shapes(&checkpoint)?;
        checkpoint.config.model.rotations = rotations(&checkpoint)?.map(Arc::new);
        (checkpoint.tied, checkpoint.head_assumption) = checkpoint.settle_head()?;
        Ok(checkpoint)
    }

    /// How norms are stored, by the rule of mlx-lm: convolutions whose channels come last mark a folder that holds the
    /// norms as they multiply.
    fn norm_form(&self) -> Result<NormForm> {
        let mut found: Option<(NormForm, String)> = None;
        for spec in tensors(&self.config.model) {
            let is_conv = spec.name.role == Role::DeltaConv;
            let Some(tensor) = is_conv.then(|| self.find(&spec.name.stem())).flatten() else {
                continue;
            };
            let form = match tensor.shape[..] {
                [_, taps, 1] if taps > 1 => NormForm::Multiplier,
                _ => NormForm::Offset,
            };
            match &found {
                Some((other, name)) if *other != form => {
                    let what = format!(
                        "{}: {name} and {} in two layouts",
                        self.tensors.name(),
                        tensor.name
                    );
                    let instead = "the order of taps and channels tells how norms are stored: write all of them in one";
                    return Err(InferenceError::unsupported(what, instead));
                }
                _ => found = Some((form, tensor.name)),
            }
        }
        Ok(found.map_or(NormForm::default(), |(form, _)| form))
    }

    pub(super) fn find(&self, name: &str) -> Option<TensorView> {
        let found = self.hf_names(name).iter().find_map(|name| self.tensors.find(name));
        // A tied model may have been saved with the head alone.
        if found.is_none() && name == "token_embd" && self.config.tied == Some(true) {
            return self.find("output");
        }
        found
    }

    /// A folder without settings of quantisation whose projections have norms on their inputs holds the full-precision
    /// masters of ternary layers: such norms belong to BitLinear (microsoft/bitnet-embedding).
    fn settle_bit_linears(&mut self) {
        if self.config.quantization != Quantization::None {
            return;
        }
        let norms = tensor_use::linears(&self.config.model)
            .map(|linear| linear.name.with(Part::InputNorm).stem());
        let Some(norm) = norms.filter_map(|norm| self.find(&norm)).next() else { return };
        let input_norm_eps = Some(self.config.model.norm_eps);
        self.config.quantization =
            Quantization::BitNet { multiply: true, online: true, input_norm_eps };
        self.config.assumptions.push(format!(
            "config.json has no quantization_config, but {} is in the file: projections are BitLinear, whose weights are \
             made ternary at load (absmean) and whose inputs have 8 bits",
            norm.name
        ));
    }

    /// Whether the head is the embedding table, by the rule of transformers 5: a head in the file that differs from the
    /// table is used, whatever `tie_word_embeddings` is.
    fn settle_head(&self) -> Result<(Option<bool>, Option<String>)> {
        let declared = self.config.tied;
        let (Some(head), Some(table)) = (self.find("output"), self.find("token_embd")) else {
            return Ok((declared, None));
        };
        if declared != Some(true) || !self.config.model.has_head {
            return Ok((declared, None));
        }
        if head.name == table.name {
            let assumption =
                format!("the file has no embedding table: {} is used (tied)", head.name);
            return Ok((declared, Some(assumption)));
        }
        let (rows, cols) = (self.config.model.vocab_size, self.config.model.hidden);
        if table.shape == [rows, cols] && same_bytes(&head, &table) {
            return Ok((declared, None));
        }
        match differing_head(self)? {
            None => Ok((declared, None)),
            assumption => Ok((Some(false), assumption)),
        }
    }

    /// The names that a tensor may have here: those of the model's class, then the other spellings in use.
    pub(super) fn hf_names(&self, name: &str) -> Vec<String> {
        let Some(parsed) = TensorName::from_stem(name) else {
            return Vec::new();
        };
        let own = ModelClass::named(&self.config.class);
        let mut names: Vec<String> = Vec::new();
        let layers = self.config.model.layers;
        let of_class = |class: &ModelClass| parsed.to_hf_of(class, layers);
        // A name that the model's class has for another tensor is no other spelling of this one.
        let is_others = |name: &str| {
            let found = own.and_then(|class| TensorName::from_hf_of(name, class));
            found.is_some_and(|found| found.role != parsed.role)
        };
        for name in own.into_iter().chain(ModelClass::all()).filter_map(of_class) {
            if !names.contains(&name) && !is_others(&name) {
                names.push(name);
            }
        }
        let recurrent = self.config.model.recurrent.is_some();
        for index in 0..names.len() {
            if let Some(stem) = names[index].strip_suffix(".norm.weight")
                && name.ends_with("_norm_in")
            {
                names.push(format!("{stem}.rms_norm.weight"));
            }
            if let Some(bare) = names[index].strip_prefix("model.").map(str::to_owned) {
                if recurrent {
                    names.push(format!("model.language_model.{bare}"));
                }
                names.push(bare);
            }
            if recurrent {
                names.push(format!("language_model.{}", names[index]));
            }
        }
        names
    }

    pub(super) fn shape_error(&self, tensor: &TensorView, expected: &[usize]) -> InferenceError {
        InferenceError::shape(self.tensors.name(), &tensor.name, &tensor.shape, expected)
    }
}

/// Whether two tensors of plain numbers are stored with the same bytes; NaN is equal to itself then.
fn same_bytes(a: &TensorView, b: &TensorView) -> bool {
    let plain = StoredType::Safetensors(a.dtype).is_plain();
    let same = plain && (a.dtype, &a.shape) == (b.dtype, &b.shape) && *a.data == *b.data;
    a.data.release();
    b.data.release();
    same
}

impl Checkpoint for HfCheckpoint {
    fn file(&self) -> &str {
        self.tensors.name()
    }

    fn container(&self) -> Container<'_> {
        Container::HuggingFace {
            folder: &self.folder,
            tensors: &self.tensors,
            config: &self.json,
            class: &self.config.class,
            norms: self.norms,
            packing: match self.config.quantization {
                Quantization::None | Quantization::Mlx { .. } => None,
                Quantization::BitNet { multiply, online, input_norm_eps } => {
                    Some(HfPacking { multiply, online, input_norm_eps })
                }
            },
        }
    }

    fn describe(&self, options: &LoadOptions) -> Result<Description> {
        self.description(options)
    }

    fn name_in_file(&self, name: &str) -> String {
        let mut names = self.hf_names(name);
        let found = names.iter().position(|name| self.tensors.find(name).is_some());
        // transformers calls the norm before a projection `rms_norm`, the second spelling.
        let usual = usize::from(name.ends_with("_norm_in"));
        if names.is_empty() { name.into() } else { names.swap_remove(found.unwrap_or(usual)) }
    }

    fn missing(&self, name: &str) -> InferenceError {
        let tensor = self.name_in_file(name);
        match self.tensors.missing(&tensor) {
            bitnet_formats::Error::MissingTensor { .. } => {
                InferenceError::MissingTensor { file: self.file().into(), tensor }
            }
            of_index => of_index.into(),
        }
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors.names().map(str::to_owned).collect()
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        if name.ends_with("_norm_in") && self.is_kept_dense(name) {
            return Vec::new();
        }
        if TensorName::from_stem(name).is_some_and(|name| name.role.is_stacked()) {
            let experts = self.config.model.mixture.as_ref().map_or(0, |mixture| mixture.experts);
            let names = (0..experts).map(|expert| self.expert_name(name, expert));
            return names.collect();
        }
        let Some(tensor) = self.find(name) else { return Vec::new() };
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let beside = match tensor.dtype {
            Dtype::U32 => ["scales", "biases", "signs"].map(|part| format!("{stem}.{part}")).into(),
            _ if self.has_scale_beside(name, tensor.dtype) => {
                vec![format!("{}_scale", tensor.name)]
            }
            _ => Vec::new(),
        };
        let beside = beside.into_iter().filter(|name| self.tensors.find(name).is_some());
        std::iter::once(tensor.name.clone()).chain(beside).collect()
    }

    fn raw_tensors(&self) -> Result<Vec<RawTensor>> {
        Ok(self.every_tensor())
    }

    fn decode_raw(&self, name: &str, pool: &HybridMemoryPool) -> Result<TernaryMatrix> {
        let tensor = self.tensors.tensor(name)?;
        match tensor.shape[..] {
            [rows, words] => self.affine(&tensor, rows, words * 16, pool),
            _ => Err(self.shape_error(&tensor, &[0, 0])),
        }
    }

    fn layers_field(&self) -> String {
        "num_hidden_layers".into()
    }

    fn config(&self) -> &ModelConfig {
        &self.config.model
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let is_input_norm = name.ends_with("_norm_in");
        if is_input_norm && self.is_kept_dense(name) {
            return Ok(None);
        }
        match self.find(name) {
            Some(tensor) => {
                let mut numbers = self.numbers(&tensor, len)?;
                if let Some(name) = TensorName::from_stem(name) {
                    let table = self.config.model.architecture.table();
                    from_hf_form(table, name, self.norms, &mut numbers);
                }
                Ok(Some(numbers))
            }
            None if is_input_norm && self.announces_input_norms() => Err(self.missing(name)),
            None => Ok(None),
        }
    }

    fn stored(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        self.stored_linear(name, rows, cols, pool)
    }

    fn stored_expert(
        &self,
        name: &str,
        expert: usize,
        shape: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        self.linear_of_expert(name, expert, shape, pool).map(Some)
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Arc<dyn DenseRows>>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        if tensor.dtype == Dtype::U32 {
            let matrix = self.affine(&tensor, rows, cols, pool)?;
            return Ok(Some(Arc::new(TernaryRows::new(matrix, mlx::FORMAT))));
        }
        // A convolution of single channels has a dimension of 1 between.
        let shape = match *tensor.shape {
            [rows, 1, cols] | [rows, cols, 1] => vec![rows, cols],
            _ => tensor.shape.clone(),
        };
        if shape != [rows, cols] {
            return Err(self.shape_error(&tensor, &[rows, cols]));
        }
        Ok(Some(self.dense_matrix(&tensor, rows, cols)?))
    }

    fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>> {
        Ok(self.find(name).map(|TensorView { name, dtype, shape, data, .. }| StoredBytes {
            tensor: name,
            storage: StoredType::Safetensors(dtype),
            shape,
            region: data,
        }))
    }

    fn input_norm_eps(&self) -> f32 {
        match self.config.quantization {
            Quantization::BitNet { input_norm_eps: Some(eps), .. } => eps,
            _ => self.config.model.norm_eps,
        }
    }

    fn tied(&self) -> Option<bool> {
        self.tied
    }

    fn is_kept_dense(&self, name: &str) -> bool {
        if self.config.skipped.is_empty() {
            return false;
        }
        let parsed = TensorName::from_stem(name);
        let module = ModelClass::named(&self.config.class)
            .zip(parsed)
            .and_then(|(class, parsed)| module_of(parsed.with(Part::Weight), class));
        module.is_some_and(|module| self.config.skipped.contains(&module))
    }

    fn files(&self) -> Vec<Arc<MappedFile>> {
        self.tensors.files().cloned().collect()
    }

    fn cache_key(&self) -> String {
        format!("safetensors {:?} {:?}", self.precision, self.config)
    }

    fn check(&self) -> Result<()> {
        Ok(self.tensors.check()?)
    }
}
