//! GGUF checkpoints of every architecture in `bitnet_formats::architecture`.

mod experts;
mod weights;

pub use weights::{ggml_type_of, storage_of};

use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::MappedFile;
use bitnet_formats::gguf::{GgmlType, GgufFile, Metadata, TensorInfo};
use bitnet_formats::names::{TensorName, gguf_name};
use bitnet_quant::codec::i2_s::I2sLayout;

use super::build::head_fact;
use super::facts::{inputs_fact, rope_fact};
use super::gguf_config::read_config;
use super::gguf_rotation::rotations;
use super::mapped_rows::{MappedRows, finite_row};
use super::ternary_rows::TernaryRows;
use super::{
    Checkpoint, Container, Description, DraftSource, EmbeddingSettings, LoadOptions, ModelFacts,
    RawTensor, StoredBytes, StoredLinear, StoredType, StoredWeight, SuggestedSampling, embedding,
    tensor_use,
};
use crate::chat::{Builtin, ModelTemplates, TemplateChoice, TemplateError};
use crate::known_fields;
use crate::models::{Architecture, ModelConfig};
use crate::tokenizer::{GgufVocabulary, Tokenizer};
use crate::{InferenceError, Result};

/// An open GGUF model.
pub(crate) struct GgufCheckpoint {
    file: GgufFile,
    arch: String,
    config: ModelConfig,
    input_norm_eps: f32,
    layout: I2sLayout,
    precision: Option<ActivationPrecision>,
}

/// The key of the epsilon of norms before single projections, after the architecture's name; without it these norms
/// have the epsilon of all others.
pub const INPUT_NORM_EPSILON: &str = "attention.input_norm_rms_epsilon";

impl GgufCheckpoint {
    pub(crate) fn new(file: GgufFile, options: &LoadOptions) -> Result<Self> {
        let arch = file.metadata().get_str("general.architecture")?.to_owned();
        let mut config = read_config(&file, &arch)?;
        config.validate(file.name())?;
        let reads_drafts = options.draft == DraftSource::Own && config.draft_layers > 0;
        config.drafts_read = usize::from(reads_drafts);
        config.rotations = rotations(&file, &config)?.map(Arc::new);
        known_fields::gguf_refusals(file.metadata(), &arch)?;
        let key = format!("{arch}.{INPUT_NORM_EPSILON}");
        let input_norm_eps = file.metadata().opt_f32(&key)?.unwrap_or(config.norm_eps);
        if !(input_norm_eps > 0.0 && input_norm_eps < 1.0) {
            let problem = format!("{input_norm_eps} is not a small positive number");
            return Err(InferenceError::config(file.name(), &key, problem));
        }
        let (layout, precision) = (options.i2s_layout, options.activations);
        let checkpoint = Self { file, arch, config, input_norm_eps, layout, precision };
        tensor_use::check_layers(&checkpoint)?;
        tensor_use::check_shapes(&checkpoint)?;
        tensor_use::refuse_unknown(&checkpoint)?;
        tensor_use::check_input_norms(&checkpoint)?;
        Ok(checkpoint)
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.file.find(&self.name_of(name))
    }

    /// The file's name of a tensor.
    fn name_of(&self, stem: &str) -> String {
        let own =
            TensorName::from_stem(stem).and_then(|name| name.to_gguf_of(self.config.architecture));
        own.unwrap_or_else(|| gguf_name(stem))
    }

    /// The dimensions of a tensor of `rows` rows in the file.
    fn dims(&self, stem: &str, [rows, cols]: [usize; 2]) -> Vec<usize> {
        let name = TensorName::from_stem(stem);
        name.map_or(vec![rows, cols], |name| self.config.dims(name, [rows, cols]))
    }

    /// Checks the shape (rows first) of a tensor.
    fn expect(&self, tensor: &TensorInfo, expected: &[usize]) -> Result<()> {
        let got: Vec<usize> = tensor.dims.iter().rev().map(|&d| d as usize).collect();
        // Trailing dimensions of 1 say nothing.
        let significant =
            got.len() - got.iter().take_while(|&&d| d == 1).count().min(got.len() - 1);
        if got[got.len() - significant..] == *expected || got == expected {
            return Ok(());
        }
        Err(InferenceError::shape(self.file.name(), &tensor.name, &got, expected))
    }

    fn decode_ternary(
        &self,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<TernaryMatrix> {
        let mut matrix = self.decode_trits(tensor, rows, cols, pool)?;
        let scale_name =
            format!("{}.scale", tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name));
        if let Some(scale) = self.vector_of(&scale_name, 1)? {
            matrix = matrix.scaled_in(scale[0], pool)?;
        }
        Ok(matrix)
    }

    fn dense_matrix(
        &self,
        tensor: &TensorInfo,
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<Arc<dyn DenseRows>> {
        let Some(dense_type) = weights::dense_type(tensor.ggml_type) else {
            if let Some(rows) = self.block_rows(tensor, rows, cols)? {
                return Ok(Arc::new(rows));
            }
            let matrix = self.decode_ternary(tensor, rows, cols, pool)?;
            return Ok(Arc::new(TernaryRows::new(matrix, tensor.ggml_type.name())));
        };
        let region = self.file.data(tensor)?;
        let matrix = MappedRows::new(dense_type, rows, cols, region)
            .map_err(|e| InferenceError::weights(self.file.name(), &tensor.name, e))?;
        Ok(Arc::new(matrix))
    }

    fn vector_of(&self, full_name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.file.find(full_name) else { return Ok(None) };
        self.expect(tensor, &[len])?;
        let rows = self.dense_matrix(tensor, 1, len, None)?;
        finite_row(&*rows, self.file.name(), full_name).map(Some)
    }

    /// How the inputs of ternary layers are treated, and why.
    fn input_precision(&self, ggml_type: GgmlType) -> ActivationPrecision {
        self.precision.unwrap_or_else(|| input_precision(self.config.architecture, ggml_type))
    }

    /// Settings that have a default, and what of the file is not read.
    fn settings_assumptions(&self) -> Result<Vec<String>> {
        let metadata = self.file.metadata();
        let mut assumptions = Vec::new();
        let c = &self.config;
        for (name, default) in [
            ("attention.head_count_kv", c.kv_heads.to_string()),
            ("attention.key_length", c.head_dim.to_string()),
            ("rope.freq_base", c.rope_theta.to_string()),
        ] {
            let key = format!("{}.{name}", self.arch);
            // The rule for the length of keys is the usual way to say it.
            let usual = name == "attention.key_length" && c.head_dim * c.heads == c.hidden;
            if metadata.value(&key)?.is_none() && !usual {
                assumptions.push(format!("no {key}: {default}, the default of llama.cpp"));
            }
        }
        assumptions.extend(c.context_limit.map(|limit| limit.to_string()));
        if let Some(bytes) = self.file.trailing_bytes() {
            assumptions.push(bytes.to_string());
        }
        assumptions.extend(known_fields::gguf_assumptions(metadata, &self.arch)?);
        Ok(assumptions)
    }

    /// The chat templates in the file: `tokenizer.chat_template` and those that `tokenizer.chat_templates` names.
    fn templates(&self) -> ModelTemplates {
        let metadata = self.file.metadata();
        let mut templates = ModelTemplates::default();
        let mut add = |name: &str, key: &str| {
            let unreadable = |error: bitnet_formats::Error| TemplateError::Unreadable {
                name: key.into(),
                problem: error.to_string(),
            };
            if let Some(source) = metadata.opt_str(key).map_err(unreadable).transpose() {
                templates.add(name, key, source.map(str::to_owned));
            }
        };
        add("default", "tokenizer.chat_template");
        for name in
            metadata.opt_array_str("tokenizer.chat_templates").ok().flatten().into_iter().flatten()
        {
            add(name, &format!("tokenizer.chat_template.{name}"));
        }
        templates
    }

    /// The requested template, or the built-in one in place of a file's own that is known to be broken.
    fn template_choice(
        &self,
        templates: &ModelTemplates,
        options: &LoadOptions,
        assumptions: &mut Vec<String>,
    ) -> Option<TemplateChoice> {
        let official = matches!(self.arch.as_str(), "bitnet-b1.58" | "bitnet-25");
        let requested = options.chat_template.clone();
        let broken = templates.default_source().is_some_and(crate::chat::is_broken_bitnet_template);
        if requested.is_some() || !official || !broken {
            return requested;
        }
        assumptions.push(
            "the chat template in the file is the one that makes the model talk to itself: replaced by \
             the template of the original checkpoint"
                .into(),
        );
        Some(TemplateChoice::Builtin(Builtin::BitNet))
    }

    fn activation_fact(&self) -> Result<String> {
        let name = self.config.activation;
        let key = format!("{}.hidden_activation", self.arch);
        let fixed = Architecture::from_gguf(&self.arch).and_then(|(_, named)| named.activation);
        let source = match (self.file.metadata().opt_str(&key)?, fixed) {
            (Some(_), _) => "from the file",
            (None, Some(_)) => "by the architecture; the file has no key for it",
            (None, None) => "the architecture's default",
        };
        Ok(format!("{name} ({source})"))
    }

    fn ternary_types(&self) -> Vec<GgmlType> {
        let mut types: Vec<GgmlType> = Vec::new();
        for tensor in self.file.tensors().iter().filter(|t| t.ggml_type.is_ternary()) {
            if !types.contains(&tensor.ggml_type) {
                types.push(tensor.ggml_type);
            }
        }
        types
    }

    fn weights_fact(&self) -> String {
        let types = self.ternary_types();
        if types.is_empty() {
            return "plain numbers; made ternary at load where they are not yet".into();
        }
        let names: Vec<_> = types
            .iter()
            .map(|t| match t {
                GgmlType::I2S => format!("I2_S, layout {}, scale multiplies", self.layout.name()),
                other => format!("{}, scale multiplies", other.name()),
            })
            .collect();
        names.join("; ")
    }

    fn inputs_fact(&self) -> String {
        let first = self.ternary_types().first().copied().unwrap_or(GgmlType::F16);
        inputs_fact(self.precision, self.input_precision(first))
    }
}

/// How the inputs of a layer stored as `ggml_type` are treated in a GGUF file, which does not say.
pub fn input_precision(architecture: Architecture, ggml_type: GgmlType) -> ActivationPrecision {
    let table = architecture.table();
    let is_block_type = matches!(
        ggml_type,
        GgmlType::Tq1_0 | GgmlType::Tq2_0 | GgmlType::Iq1Bn | GgmlType::Iq2Bn | GgmlType::Iq2BnR4
    );
    let is_int8 = table.native_ternary
        || ggml_type == GgmlType::I2S
        || (is_block_type && table.int8_block_types);
    if is_int8 { ActivationPrecision::Int8 } else { ActivationPrecision::Float }
}

impl Checkpoint for GgufCheckpoint {
    fn file(&self) -> &str {
        self.file.name()
    }

    fn container(&self) -> Container<'_> {
        Container::Gguf(&self.file)
    }

    fn describe(&self, options: &LoadOptions) -> Result<Description> {
        let metadata = self.file.metadata();
        let mut assumptions = self.settings_assumptions()?;
        let mut tokenizer = if metadata.value("tokenizer.ggml.model")?.is_some() {
            Some(Tokenizer::from_vocabulary(GgufVocabulary::from_metadata(metadata)?)?)
        } else {
            None
        };
        if let Some(tokenizer) = &mut tokenizer {
            tokenizer.set_embedding_rows(self.config.vocab_size);
            assumptions.extend(tokenizer.assumptions().iter().cloned());
            if tokenizer.vocab_size() > self.config.vocab_size {
                let problem = format!(
                    "{} tokens, but the embedding has {} rows",
                    tokenizer.vocab_size(),
                    self.config.vocab_size
                );
                let field = "tokenizer.ggml.tokens";
                return Err(InferenceError::config(self.file.name(), field, problem));
            }
        }
        let templates = self.templates();
        let named_templates = templates.named_sources();
        let choice = self.template_choice(&templates, options, &mut assumptions);
        let (template, template_fact) = templates.select(choice.as_ref());
        let mut end_tokens = Vec::new();
        for key in [
            "tokenizer.ggml.eos_token_id",
            "tokenizer.ggml.eot_token_id",
            "tokenizer.ggml.eom_token_id",
        ] {
            // -1 stands for none.
            end_tokens.extend(metadata.opt_u32(key)?.filter(|&id| id != u32::MAX));
        }
        if let Some(tokenizer) = &tokenizer {
            end_tokens.extend_from_slice(tokenizer.end_of_generation_ids());
        }
        let tokenizer_fact = match metadata.opt_str("tokenizer.ggml.model")? {
            Some(model) => {
                let pre = metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or("not declared");
                format!("in the file: {model}, pre-tokenizer {pre}")
            }
            None => "none in the file".into(),
        };
        let embedding = embedding::of_gguf(metadata, &self.arch);
        let facts = ModelFacts {
            file: self.file.name().into(),
            container: format!("GGUF v{}", self.file.version()),
            name: metadata.opt_str("general.name")?.map(str::to_owned),
            architecture: self.arch.clone(),
            activation: self.activation_fact()?,
            weights: self.weights_fact(),
            inputs: self.inputs_fact(),
            rope: rope_fact(self.config.rope_order),
            head: head_fact(self)?,
            pooling: EmbeddingSettings::fact(&embedding),
            tokenizer: tokenizer_fact,
            template: template_fact,
            rows_beyond_tokenizer: tokenizer.as_ref().map_or(0, Tokenizer::rows_beyond),
            assumptions,
            unused_tensors: tensor_use::unused(self),
        };
        Ok(Description {
            facts,
            tokenizer,
            template,
            named_templates,
            end_tokens,
            defaults: suggested_sampling(metadata)?,
            embedding,
        })
    }

    fn name_in_file(&self, name: &str) -> String {
        self.name_of(name)
    }

    fn tensor_names(&self) -> Vec<String> {
        self.file.tensors().iter().map(|tensor| tensor.name.clone()).collect()
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        // A scale beside a stack of matrices has no reader: its file is refused.
        let is_stack = TensorName::from_stem(name).is_some_and(|name| name.role.is_stacked());
        let scale = (!is_stack).then(|| format!("{name}.scale"));
        let names = std::iter::once(self.name_of(name)).chain(scale);
        names.into_iter().filter(|name| self.file.find(name).is_some()).collect()
    }

    fn raw_tensors(&self) -> Result<Vec<RawTensor>> {
        weights::raw_tensors(&self.file)
    }

    fn decode_raw(&self, name: &str, pool: &HybridMemoryPool) -> Result<TernaryMatrix> {
        let tensor = self.file.tensor(name)?;
        let (rows, cols) = weights::rows_and_cols(tensor);
        self.decode_trits(tensor, rows, cols, Some(pool))
    }

    fn layers_field(&self) -> String {
        format!("{}.block_count", self.arch)
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.vector_of(&self.name_of(name), len)
    }

    fn stored(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        self.expect(tensor, &self.dims(name, [rows, cols]))?;
        let weight = if tensor.ggml_type.is_ternary() {
            StoredWeight::Ternary(self.decode_ternary(tensor, rows, cols, Some(pool))?)
        } else {
            let scale = self.vector_of(&format!("{name}.scale"), 1)?.map(|scale| scale[0]);
            let latent = self.config.architecture.table().native_ternary;
            let rows = self.dense_matrix(tensor, rows, cols, Some(pool))?;
            StoredWeight::Dense { rows, latent, scale }
        };
        let precision = self.input_precision(tensor.ggml_type);
        Ok(Some(StoredLinear { tensor: tensor.name.clone(), weight, precision }))
    }

    fn stored_expert(
        &self,
        name: &str,
        expert: usize,
        shape: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        self.one_of_stack(name, expert, shape, pool)
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Arc<dyn DenseRows>>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        self.expect(tensor, &self.dims(name, [rows, cols]))?;
        Ok(Some(self.dense_matrix(tensor, rows, cols, Some(pool))?))
    }

    fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        Ok(Some(StoredBytes {
            tensor: tensor.name.clone(),
            storage: StoredType::Ggml(tensor.ggml_type),
            shape: tensor.dims.iter().rev().map(|&dim| dim as usize).collect(),
            region: self.file.data(tensor)?,
        }))
    }

    fn input_norm_eps(&self) -> f32 {
        self.input_norm_eps
    }

    fn tied(&self) -> Option<bool> {
        None
    }

    fn files(&self) -> Vec<Arc<MappedFile>> {
        self.file.files().to_vec()
    }

    fn cache_key(&self) -> String {
        format!("GGUF {} {:?} {:?}", self.layout.name(), self.precision, self.config)
    }

    fn check(&self) -> Result<()> {
        Ok(self.file.check()?)
    }
}

/// Sampling values among the keys, as llama.cpp takes them over.
fn suggested_sampling(metadata: &Metadata) -> Result<SuggestedSampling> {
    Ok(SuggestedSampling {
        temperature: metadata.opt_f32("general.sampling.temp")?,
        top_k: metadata.opt_u64("general.sampling.top_k")?.map(|k| k as usize),
        top_p: metadata.opt_f32("general.sampling.top_p")?,
    })
}
