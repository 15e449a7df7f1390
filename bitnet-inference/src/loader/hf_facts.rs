//! A Hugging Face folder's facts beside its weights: tokenizer, template, end tokens, facts and assumptions.

use std::path::Path;

use bitnet_core::backend::ActivationPrecision;
use bitnet_formats::safetensors::Dtype;

use super::build::head_fact;
use super::facts::{inputs_fact, rope_fact};
use super::hf_config::HfConfig;
use super::huggingface::HfCheckpoint;
use super::json_object::{Object, side_file};
use super::quantization::Quantization;
use super::{
    Checkpoint, Description, EmbeddingSettings, LoadOptions, ModelFacts, SuggestedSampling,
    embedding, side_files, tensor_use,
};
use crate::Result;
use crate::chat::ModelTemplates;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// What a container says of the facts beside the settings of its folder.
pub(super) struct OwnFacts {
    /// The model, as messages name it.
    pub(super) file: String,
    /// The container's name.
    pub(super) container: String,
    /// How the weights of linear layers are stored.
    pub(super) weights: String,
    /// Whether the inputs of linear layers are quantised by default.
    pub(super) quantized_inputs: bool,
    /// How they are treated instead, if the user says it.
    pub(super) precision: Option<ActivationPrecision>,
    /// What was assumed so far.
    pub(super) assumptions: Vec<String>,
}

/// Describes a model with the settings of a Hugging Face folder: tokenizer, template, end tokens, facts and assumptions.
pub(super) fn describe(
    checkpoint: &dyn Checkpoint,
    folder: &Path,
    config: &HfConfig,
    own: OwnFacts,
    options: &LoadOptions,
) -> Result<Description> {
    let mut assumptions = own.assumptions;
    let path = folder.join("tokenizer.json");
    let mut tokenizer = if path.exists() { Some(Tokenizer::from_json_file(&path)?) } else { None };
    let tokenizer_config = side_file(folder, "tokenizer_config.json")?;
    let generation = side_file(folder, "generation_config.json")?;
    if let Some(tokenizer) = &mut tokenizer {
        tokenizer.set_embedding_rows(config.model.vocab_size);
        match &tokenizer_config {
            Some(config) => {
                let map = side_file(folder, "special_tokens_map.json")?;
                let known = |text: &str| tokenizer.id_of(text).is_some();
                let special = SpecialTokens::from_settings(config, map.as_ref(), known);
                tokenizer.set_special_tokens(special);
            }
            None => assumptions.push(
                "there is no tokenizer_config.json: the tokens that begin and end a text follow from tokenizer.json"
                    .into(),
            ),
        }
    }
    let templates = ModelTemplates::in_folder(folder, tokenizer_config.as_ref());
    let named_templates = templates.named_sources();
    let (template, template_fact) = templates.select(options.chat_template.as_ref());
    let mut end_tokens = config.eos.clone();
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
    // With generation_config.json, transformers takes end tokens
    // from it alone; the class default counts only without it.
    let in_range = |token: &u32| (*token as usize) < config.model.vocab_size;
    if let (None, Some(token)) = (&generation, config.default_eos.filter(in_range)) {
        assumptions.push(format!(
            "config.json has no eos_token_id: {token}, the default of {}",
            config.class
        ));
        end_tokens.push(token);
    }
    if let Some(tokenizer) = &tokenizer {
        end_tokens.extend_from_slice(tokenizer.end_of_generation_ids());
        assumptions.extend(tokenizer.assumptions().iter().cloned());
    }
    assumptions.extend(side_files::assumptions(folder, tokenizer.as_ref())?);
    let embedding = embedding::of_folder(folder, config.model.hidden);
    let inputs = match own.quantized_inputs {
        true => ActivationPrecision::Int8,
        false => ActivationPrecision::Float,
    };
    let facts = ModelFacts {
        file: own.file,
        container: own.container,
        name: folder.file_name().map(|n| n.to_string_lossy().into_owned()),
        architecture: config.class.clone(),
        activation: format!("{} (config.json)", config.model.activation),
        weights: own.weights,
        inputs: inputs_fact(own.precision, inputs),
        rope: rope_fact(config.model.rope_order),
        head: head_fact(checkpoint)?,
        pooling: EmbeddingSettings::fact(&embedding),
        tokenizer: if tokenizer.is_some() { "tokenizer.json" } else { "none in the folder" }.into(),
        template: template_fact,
        rows_beyond_tokenizer: tokenizer.as_ref().map_or(0, Tokenizer::rows_beyond),
        assumptions,
        unused_tensors: tensor_use::unused(checkpoint),
    };
    Ok(Description { facts, tokenizer, template, named_templates, end_tokens, defaults, embedding })
}

impl HfCheckpoint {
    pub(super) fn description(&self, options: &LoadOptions) -> Result<Description> {
        let mut assumptions = self.config.assumptions.clone();
        assumptions.extend(self.head_assumption.clone());
        assumptions.extend(self.norms_assumption());
        assumptions.extend(self.absent_assumption());
        let own = OwnFacts {
            file: self.folder.display().to_string(),
            container: "safetensors (Hugging Face folder)".into(),
            weights: self.weights_fact(),
            quantized_inputs: self.has_quantized_inputs(),
            precision: self.precision,
            assumptions,
        };
        describe(self, &self.folder, &self.config, own, options)
    }

    /// The assumption that norms before projections are applied though the settings do not announce them.
    fn norms_assumption(&self) -> Option<String> {
        let Quantization::BitNet { input_norm_eps: None, .. } = self.config.quantization else {
            return None;
        };
        let tensor = self.find("blk.0.attn_q_norm_in")?;
        Some(format!(
            "quantization_config does not say use_rms_norm, but {} is in the file: such norms are applied",
            tensor.name
        ))
    }

    /// Tensors that the index names and the files lack; those that the model needs are errors elsewhere.
    fn absent_assumption(&self) -> Option<String> {
        let mut names: Vec<&str> = self.tensors.absent().map(|(tensor, _)| tensor).collect();
        names.sort_unstable();
        let (first, count) = (names.first()?, names.len());
        Some(format!(
            "the index names {count} tensor(s) that no file holds and nothing reads, such as {first}"
        ))
    }

    fn weights_fact(&self) -> String {
        let mut facts = self.quantized_facts();
        match self.config.skipped.len() {
            0 => {}
            1 => facts.push("1 layer stays dense (modules_to_not_convert)".into()),
            count => facts.push(format!("{count} layers stay dense (modules_to_not_convert)")),
        }
        facts.join("; ")
    }

    /// How the layers outside `modules_to_not_convert` are stored.
    fn quantized_facts(&self) -> Vec<String> {
        let (multiply, online) = match self.config.quantization {
            Quantization::None => return vec!["plain numbers (no quantization_config)".into()],
            Quantization::Mlx { group } => {
                let fact =
                    format!("MLX, 2 bits, a scale for each {group} weights, which multiplies");
                return vec![fact];
            }
            Quantization::BitNet { multiply, online, .. } => (multiply, online),
        };
        let (packed, plain): (Vec<_>, Vec<_>) = tensor_use::linears(&self.config.model)
            .map(|tensor| tensor.name.stem())
            .filter(|name| !self.is_kept_dense(name))
            .filter_map(|name| self.find(&name))
            .partition(|tensor| tensor.dtype == Dtype::U8);
        let (online, offline) = if online { (plain, vec![]) } else { (vec![], plain) };
        let scale = match (self.tensors.names().any(|n| n.ends_with(".weight_scale")), multiply) {
            (false, _) => "no weight_scale",
            (true, true) => "weight_scale multiplies (autobitlinear)",
            (true, false) => "weight_scale divides (bitlinear)",
        };
        let kinds = [
            (packed, format!("packed U8, {scale}")),
            (offline, format!("unpacked trits, {scale}")),
            (online, "full-precision masters, quantised at load (absmean)".into()),
        ];
        let stored = kinds.into_iter().filter(|(layers, _)| !layers.is_empty());
        stored.map(|(_, fact)| fact).collect()
    }

    fn has_quantized_inputs(&self) -> bool {
        matches!(self.config.quantization, Quantization::BitNet { .. })
            || self.config.model.architecture.table().native_ternary
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_core::backend::RopeOrder;

    use super::*;

    #[test]
    fn rope_fact_follows_the_order_of_the_model() {
        let folder =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/models/bitnet-2b-packed");
        let options = LoadOptions::default();
        let mut checkpoint = HfCheckpoint::open(Path::new(folder), &options).unwrap();
        for (order, pair) in [(RopeOrder::Halves, "j + d/2"), (RopeOrder::Interleaved, "2j + 1")] {
            checkpoint.config.model.rope_order = order;
            let rope = checkpoint.description(&options).unwrap().facts.rope;
            assert!(rope.contains(pair), "{rope}");
        }
    }
}
