//! Hugging Face folders: `config.json`, safetensors, `tokenizer.json` and their companions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::MappedFile;
use bitnet_formats::names::{Family, TensorName};
use bitnet_formats::safetensors::{Dtype, SafeTensors, TensorView};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::hf_packed;
use bitnet_quant::codec::mlx::{self, MlxTensors};
use serde_json::Value;

use super::hf_config::{HfConfig, Object, Quantization, read_json};
use super::mapped_rows::MappedRows;
use super::ternary_rows::TernaryRows;
use super::{
    Checkpoint, Container, Described, HfPacking, LoadOptions, ModelFacts, StoredBytes,
    StoredLinear, StoredType, StoredWeight, SuggestedSampling, tensor_use,
};
use crate::chat::ChatTemplate;
use crate::models::{Architecture, ModelConfig};
use crate::tokenizer::Tokenizer;
use crate::{InferenceError, Result};

/// An open Hugging Face folder.
pub(crate) struct HfCheckpoint {
    folder: PathBuf,
    tensors: SafeTensors,
    json: Value,
    config: HfConfig,
    precision: Option<ActivationPrecision>,
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
        let checkpoint = Self { folder: folder.to_owned(), tensors, json, config, precision };
        tensor_use::check_layers(&checkpoint)?;
        Ok(checkpoint)
    }

    pub(crate) fn tensors(&self) -> &SafeTensors {
        &self.tensors
    }

    /// The folder as converters see it.
    pub(crate) fn container(&self) -> Container<'_> {
        Container::HuggingFace {
            folder: &self.folder,
            tensors: &self.tensors,
            config: &self.json,
            class: &self.config.class,
            packing: match self.config.quantization {
                Quantization::None | Quantization::Mlx { .. } => None,
                Quantization::BitNet { multiply, online, input_norm_eps } => {
                    Some(HfPacking { multiply, online, input_norm_eps })
                }
            },
        }
    }

    fn find(&self, name: &str) -> Option<TensorView> {
        self.hf_names(name).iter().find_map(|name| self.tensors.find(name))
    }

    /// The names that a tensor may have here: those of the model's class, then the other spellings in use.
    fn hf_names(&self, name: &str) -> Vec<String> {
        let Some(parsed) = TensorName::from_gguf(&format!("{name}.weight")) else {
            return Vec::new();
        };
        let class = Family::from_hf(&self.config.class);
        let families = class.into_iter().chain([Family::BitNet, Family::BitNetLegacy]);
        let mut names: Vec<String> = families.filter_map(|family| parsed.to_hf(family)).collect();
        for index in 0..names.len() {
            if let Some(stem) = names[index].strip_suffix(".norm.weight")
                && name.ends_with("_norm_in")
            {
                names.push(format!("{stem}.rms_norm.weight"));
            }
            if let Some(bare) = names[index].strip_prefix("model.") {
                names.push(bare.to_owned());
            }
        }
        names
    }

    fn shape_error(&self, tensor: &TensorView, expected: &[usize]) -> InferenceError {
        InferenceError::TensorShape {
            file: self.tensors.name().into(),
            tensor: tensor.name.clone(),
            got: tensor.shape.clone(),
            expected: expected.to_vec(),
        }
    }

    fn weights_error(&self, tensor: &TensorView, source: bitnet_quant::Error) -> InferenceError {
        InferenceError::Weights {
            file: self.tensors.name().into(),
            tensor: tensor.name.clone(),
            source: Box::new(source),
        }
    }

    fn dense_matrix(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
    ) -> Result<Arc<dyn DenseRows>> {
        let dense_type = match tensor.dtype {
            Dtype::F32 => DenseType::F32,
            Dtype::F16 => DenseType::F16,
            Dtype::Bf16 => DenseType::BF16,
            other => {
                return Err(InferenceError::UnsupportedOperation {
                    what: format!(
                        "{}: tensor {} of type {}",
                        self.tensors.name(),
                        tensor.name,
                        other.name()
                    ),
                    instead: "F32, F16 and BF16 are read here, and U8 for packed ternary layers"
                        .into(),
                });
            }
        };
        let matrix = MappedRows::new(dense_type, rows, cols, tensor.data.clone())
            .map_err(|e| self.weights_error(tensor, e))?;
        Ok(Arc::new(matrix))
    }

    fn numbers(&self, tensor: &TensorView, len: usize) -> Result<Vec<f32>> {
        let elements: usize = tensor.shape.iter().product();
        if elements != len {
            return Err(self.shape_error(tensor, &[len]));
        }
        let rows = self.dense_matrix(tensor, 1, len)?;
        let mut out = vec![0.0; len];
        rows.decode_row(0, &mut out)?;
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(index) => Err(InferenceError::Config {
                file: self.tensors.name().into(),
                field: tensor.name.clone(),
                problem: format!("element {index} is {}; the file is damaged", out[index]),
            }),
        }
    }

    /// A packed layer: U8 codes with a scale whose direction the linear class decides.
    fn packed(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
        multiply: bool,
        pool: &HybridMemoryPool,
    ) -> Result<TernaryMatrix> {
        if tensor.shape != [rows.div_ceil(4), cols] {
            return Err(self.shape_error(tensor, &[rows.div_ceil(4), cols]));
        }
        let scale_name = format!("{}_scale", tensor.name);
        let scale_tensor =
            self.tensors.find(&scale_name).ok_or_else(|| InferenceError::MissingTensor {
                file: self.tensors.name().into(),
                tensor: scale_name.clone(),
            })?;
        let stored = self.numbers(&scale_tensor, 1)?[0];
        let scale = if multiply { stored } else { 1.0 / stored };
        let matrix = hf_packed::decode_in(&tensor.data, rows, cols, scale, Some(pool))
            .map_err(|e| self.weights_error(tensor, e))?;
        tensor.data.release();
        Ok(matrix)
    }

    /// A layer of MLX: U32 codes, with scales and biases beside them.
    fn affine(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<TernaryMatrix> {
        let Quantization::Mlx { group } = self.config.quantization else {
            return Err(InferenceError::Config {
                file: self.folder.join("config.json").display().to_string(),
                field: "quantization".into(),
                problem: format!("missing, but {} has codes of 2 bits", tensor.name),
            });
        };
        let expected = [rows, cols.div_ceil(16)];
        if tensor.shape != expected {
            return Err(self.shape_error(tensor, &expected));
        }
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let beside = |name: &str| {
            let found = self.tensors.tensor(&format!("{stem}.{name}"))?;
            let expected = [rows, cols / group];
            let plain = match found.dtype {
                Dtype::F16 => PlainType::F16,
                Dtype::Bf16 => PlainType::BF16,
                Dtype::F32 => PlainType::F32,
                _ => return Err(self.shape_error(&found, &expected)),
            };
            if found.shape != expected {
                return Err(self.shape_error(&found, &expected));
            }
            Ok((plain, found.data))
        };
        let ((scale_type, scales), (bias_type, biases)) = (beside("scales")?, beside("biases")?);
        if scale_type != bias_type {
            return Err(InferenceError::UnsupportedOperation {
                what: format!("{}: scales and biases of {stem} of two types", self.tensors.name()),
                instead: "MLX writes both in one type; the file is damaged".into(),
            });
        }
        let stored = MlxTensors { weight: tensor.data.clone(), scales, biases };
        let matrix = mlx::decode_in(&stored, scale_type, rows, cols, group, Some(pool))
            .map_err(|e| self.weights_error(tensor, e))?;
        tensor.data.release();
        Ok(matrix)
    }

    fn side_file(&self, name: &str) -> Result<Option<Value>> {
        let path = self.folder.join(name);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    pub(crate) fn describe(&self, options: &LoadOptions) -> Result<Described> {
        let mut assumptions = self.config.assumptions.clone();
        let path = self.folder.join("tokenizer.json");
        let tokenizer = if path.exists() { Some(Tokenizer::from_json_file(&path)?) } else { None };
        let tokenizer_config = self.side_file("tokenizer_config.json")?;
        let generation = self.side_file("generation_config.json")?;
        let (template, template_fact) = self.template(options, tokenizer_config.as_ref())?;
        let mut end_tokens = self.config.eos.clone();
        let mut defaults = SuggestedSampling::default();
        if let Some(value) = &generation {
            let o = Object { file: "generation_config.json", value };
            end_tokens.extend(o.token_ids("eos_token_id")?);
            if o.opt_bool("do_sample")? == Some(true) {
                defaults = SuggestedSampling {
                    temperature: o.opt_f32("temperature")?,
                    top_k: o.opt_usize("top_k")?,
                    top_p: o.opt_f32("top_p")?,
                };
            }
        }
        if let Some(tokenizer) = &tokenizer {
            end_tokens.extend_from_slice(tokenizer.end_of_generation_ids());
            assumptions.extend(tokenizer.assumptions().iter().cloned());
        }
        let facts = ModelFacts {
            file: self.folder.display().to_string(),
            container: "safetensors (Hugging Face folder)".into(),
            name: self.folder.file_name().map(|n| n.to_string_lossy().into_owned()),
            architecture: self.config.class.clone(),
            activation: self.activation_fact(),
            weights: self.weights_fact(),
            inputs: self.inputs_fact(),
            rope: "components j and j + d/2 (rows of Q and K are not permuted)".into(),
            head: String::new(),
            tokenizer: if tokenizer.is_some() { "tokenizer.json" } else { "none in the folder" }
                .into(),
            template: template_fact,
            assumptions,
            unused_tensors: tensor_use::unused(self),
        };
        Ok(Described { facts, tokenizer, template, end_tokens, defaults })
    }

    fn template(
        &self,
        options: &LoadOptions,
        tokenizer_config: Option<&Value>,
    ) -> Result<(Option<ChatTemplate>, String)> {
        if let Some(source) = &options.chat_template {
            return Ok((
                Some(ChatTemplate::new(source, "--chat-template")?),
                "given by the user".into(),
            ));
        }
        let file = self.folder.join("chat_template.jinja");
        if file.exists() {
            let source = std::fs::read_to_string(&file)
                .map_err(|source| InferenceError::Io { path: file, source })?;
            return Ok((
                Some(ChatTemplate::new(&source, "chat_template.jinja")?),
                "chat_template.jinja".into(),
            ));
        }
        match tokenizer_config.and_then(|c| c.get("chat_template")).and_then(default_template) {
            Some(source) => Ok((
                Some(ChatTemplate::new(source, "tokenizer_config.json")?),
                "tokenizer_config.json".into(),
            )),
            None => Ok((None, "none in the folder".into())),
        }
    }

    fn activation_fact(&self) -> String {
        format!("{} (config.json)", self.config.model.activation)
    }

    fn weights_fact(&self) -> String {
        match self.config.quantization {
            Quantization::None => "plain numbers (no quantization_config)".into(),
            Quantization::Mlx { group } => {
                format!("MLX, 2 bits, a scale for each {group} weights, which multiplies")
            }
            Quantization::BitNet { online: true, .. } => {
                "full-precision masters, quantised at load (absmean)".into()
            }
            Quantization::BitNet { multiply: true, .. } => {
                "packed U8, weight_scale multiplies (autobitlinear)".into()
            }
            Quantization::BitNet { multiply: false, .. } => {
                "packed U8, weight_scale divides (bitlinear)".into()
            }
        }
    }

    fn inputs_fact(&self) -> String {
        match (self.precision, self.config.model.architecture, self.config.quantization) {
            (Some(ActivationPrecision::Int8), ..) => "int8 per token (asked for)".into(),
            (Some(ActivationPrecision::Int8Within(largest)), ..) => {
                format!("int8 within {largest} (asked for)")
            }
            (Some(ActivationPrecision::Float), ..) => "f32, weight-only (asked for)".into(),
            (None, Architecture::BitNet, _) | (None, _, Quantization::BitNet { .. }) => {
                "int8 per token".into()
            }
            (None, ..) => "f32 (weight-only quantisation)".into(),
        }
    }
}

/// The template of a `chat_template` value: a string, or the one named `default` in a list.
fn default_template(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| {
        let list = value.as_array()?;
        list.iter()
            .find(|t| t.get("name").is_some_and(|n| n == "default"))?
            .get("template")?
            .as_str()
    })
}

impl Checkpoint for HfCheckpoint {
    fn file(&self) -> &str {
        self.tensors.name()
    }

    fn name_in_file(&self, name: &str) -> String {
        let mut names = self.hf_names(name);
        let found = names.iter().position(|name| self.tensors.find(name).is_some());
        if names.is_empty() { name.into() } else { names.swap_remove(found.unwrap_or(0)) }
    }

    fn tensor_names(&self) -> Vec<String> {
        self.tensors.names().map(str::to_owned).collect()
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        let Some(tensor) = self.find(name) else { return Vec::new() };
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let beside = match tensor.dtype {
            Dtype::U8 => vec![format!("{}_scale", tensor.name)],
            Dtype::U32 => vec![format!("{stem}.scales"), format!("{stem}.biases")],
            _ => Vec::new(),
        };
        let beside = beside.into_iter().filter(|name| self.tensors.find(name).is_some());
        std::iter::once(tensor.name.clone()).chain(beside).collect()
    }

    fn layers_field(&self) -> String {
        "num_hidden_layers".into()
    }

    fn config(&self) -> &ModelConfig {
        &self.config.model
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.find(name).map(|tensor| self.numbers(&tensor, len)).transpose()
    }

    fn stored(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        if let Some(stem) = tensor.name.strip_suffix("weight")
            && self.tensors.find(&format!("{stem}bias")).is_some()
        {
            return Err(InferenceError::UnsupportedOperation {
                what: format!("the bias {stem}bias"),
                instead: "no known ternary model has biases".into(),
            });
        }
        let stored = |weight, default| StoredLinear {
            tensor: tensor.name.clone(),
            weight,
            precision: self.precision.unwrap_or(default),
        };
        if tensor.dtype == Dtype::U8 {
            let Quantization::BitNet { multiply, .. } = self.config.quantization else {
                return Err(InferenceError::Config {
                    file: self.folder.join("config.json").display().to_string(),
                    field: "quantization_config".into(),
                    problem: format!(
                        "missing, but {} is packed: without it the scale's direction is unknown; \
                         restore it from the original checkpoint",
                        tensor.name
                    ),
                });
            };
            let matrix = self.packed(&tensor, rows, cols, multiply, pool)?;
            return Ok(Some(stored(StoredWeight::Ternary(matrix), ActivationPrecision::Int8)));
        }
        if tensor.dtype == Dtype::U32 {
            let matrix = self.affine(&tensor, rows, cols, pool)?;
            return Ok(Some(stored(StoredWeight::Ternary(matrix), ActivationPrecision::Float)));
        }
        if tensor.shape != [rows, cols] {
            return Err(self.shape_error(&tensor, &[rows, cols]));
        }
        let bitnet = self.config.model.architecture == Architecture::BitNet;
        let latent = bitnet || matches!(self.config.quantization, Quantization::BitNet { .. });
        let default = if latent { ActivationPrecision::Int8 } else { ActivationPrecision::Float };
        let rows = self.dense_matrix(&tensor, rows, cols)?;
        Ok(Some(stored(StoredWeight::Dense { rows, latent, scale: None }, default)))
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
        if tensor.shape != [rows, cols] {
            return Err(self.shape_error(&tensor, &[rows, cols]));
        }
        Ok(Some(self.dense_matrix(&tensor, rows, cols)?))
    }

    fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>> {
        Ok(self.find(name).map(|TensorView { name, dtype, data, .. }| StoredBytes {
            tensor: name,
            storage: StoredType::Safetensors(dtype),
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
        self.config.tied
    }

    fn files(&self) -> Vec<Arc<MappedFile>> {
        self.tensors.files().cloned().collect()
    }

    fn decoding(&self) -> String {
        format!("safetensors {:?} {:?}", self.precision, self.config)
    }

    fn check(&self) -> Result<()> {
        Ok(self.tensors.check()?)
    }
}
