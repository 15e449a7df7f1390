//! Keys of a GGUF file's metadata.

use bitnet_formats::architecture::Architecture;
use bitnet_formats::gguf::{self, Metadata};
use serde_json::Value;

use super::{
    Decision, EMPTY, FALSE, Fields, Findings, Inert, MAX_ELEMENTS, NEVER, Refusal, TRUE, ZERO,
    ZERO_OR_ONE, assumed, decision, read, read_by, refused, shown, unused,
};

const METADATA: &str = "metadata";
const EXPERTS: &str = "acts with `expert_count` only";
const MIXTURE: &str = "mixtures of experts are not supported";
const SHARED: &str = "experts that every token uses are not supported";
const GROUPED: &str = "experts in groups are not supported";
const WINDOW: &str = "acts with layers that see a window";
const YARN: &str = "of a type of RoPE (yarn, longrope) that is refused";
const OTHER_LAYERS: &str = "layers of this kind are not supported";
const LOW_RANK: &str = "projections of low rank are not supported";
const SCALED: &str = "this factor is not supported";
const CAPPED: &str = "capping is not supported";
const OTHER_NORMS: &str = "the norms are RMS norms";
const EMBEDDINGS: &str = "for embeddings of texts";
const SAMPLER: &str = "it is not applied";
const INFILL: &str = "for filling in the middle of a text";
const T5: &str = "of a vocabulary (T5) that is refused";
const BERT: &str = "of a vocabulary (BERT) that is refused";
const ADAPTER: &str =
    "adapters in GGUF files are not read; give `convert --lora` the folder of the adapter";

/// Keys without the architecture before them.
const WHOLE_FILE: &[Fields] = &[
    read(&["general.architecture", "general.name", "general.alignment"]),
    refused(&["general.type"], &[Inert::Text("model")], "a model is"),
    unused(&["general.quantization_version"], "a tensor's type defines how it is stored"),
    unused(&["general.file_type"], "a tensor's type defines how it is stored"),
    read(&["general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p"]),
    assumed(&["general.sampling.min_p"], ZERO, "it is not applied; `--min-p` does"),
    assumed(
        &["general.sampling.penalty_repeat"],
        ZERO_OR_ONE,
        "it is not applied; `--repeat-penalty` does",
    ),
    assumed(&["general.sampling.penalty_last_n"], ZERO, SAMPLER),
    assumed(&["general.sampling.sequence"], EMPTY, SAMPLER),
    assumed(&["general.sampling.xtc_probability", "general.sampling.mirostat"], ZERO, SAMPLER),
    unused(&["general.sampling.xtc_threshold"], "acts with `xtc_probability` only"),
    unused(&["general.sampling.mirostat_tau"], "acts with `mirostat` only"),
    unused(&["general.sampling.mirostat_eta"], "acts with `mirostat` only"),
    unused(&["general.author", "general.version", "general.organization"], METADATA),
    unused(&["general.finetune", "general.basename", "general.description"], METADATA),
    unused(&["general.quantized_by", "general.size_label", "general.license"], METADATA),
    unused(&["general.license.*", "general.url", "general.doi", "general.uuid"], METADATA),
    unused(&["general.repo_url", "general.source.*", "general.base_model.*"], METADATA),
    unused(&["general.dataset.*", "general.datasets", "general.tags"], METADATA),
    unused(&["general.languages"], METADATA),
    read(&["split.no", "split.count", "split.tensors.count"]),
    read_by(&["prism.hadamard.*"], "version 1; any other key that begins with `prism.` is refused"),
    refused(&["adapter.*"], NEVER, ADAPTER),
    unused(&["imatrix.*", "quantize.*"], "how the weights were quantised"),
];

/// Keys of the vocabulary.
const TOKENIZER: &[Fields] = &[
    read(&["tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"]),
    read(&["tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges"]),
    read(&["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"]),
    read(&["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"]),
    read(&["tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"]),
    read(&["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"]),
    read(&["tokenizer.ggml.add_space_prefix", "tokenizer.chat_template"]),
    assumed(&["tokenizer.ggml.add_sep_token"], FALSE, "no separator is put around a text"),
    refused(
        &["tokenizer.ggml.normalizer.lowercase"],
        FALSE,
        "text is not changed before it is cut",
    ),
    refused(
        &["tokenizer.ggml.normalizer.strip_accents"],
        FALSE,
        "text is not changed before it is cut",
    ),
    assumed(
        &["tokenizer.ggml.fim_pad_token_id"],
        NEVER,
        "it does not end a text; in llama.cpp it does",
    ),
    assumed(
        &["tokenizer.ggml.fim_rep_token_id"],
        NEVER,
        "it does not end a text; in llama.cpp it does",
    ),
    assumed(
        &["tokenizer.ggml.fim_sep_token_id"],
        NEVER,
        "it does not end a text; in llama.cpp it does",
    ),
    unused(&["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id"], INFILL),
    unused(&["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.prefix_token_id"], INFILL),
    unused(&["tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"], INFILL),
    read_by(&["tokenizer.ggml.seperator_token_id"], "`chat`; no separator is put around a text"),
    read_by(&["tokenizer.ggml.mask_token_id", "tokenizer.ggml.cls_token_id"], "`chat`"),
    unused(&["tokenizer.ggml.token_type_count"], BERT),
    unused(&["tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"], T5),
    unused(&["tokenizer.huggingface.json"], "the keys `tokenizer.ggml.*` hold the same"),
    unused(&["tokenizer.rwkv.world"], "of a vocabulary (RWKV) that is refused"),
    read_by(
        &["tokenizer.chat_template.*"],
        "`--chat-template NAME`; without it the one that has no name",
    ),
    read_by(
        &["tokenizer.chat_templates"],
        "`--chat-template NAME`; without it the one that has no name",
    ),
];

/// Keys of an architecture, without its name before them.
const ARCHITECTURE: &[Fields] = &[
    read(&["vocab_size", "context_length", "embedding_length", "block_count"]),
    read(&["feed_forward_length", "hidden_activation", "attention.head_count"]),
    read(&["attention.head_count_kv", "attention.key_length", "attention.value_length"]),
    read(&["attention.layer_norm_rms_epsilon", "attention.input_norm_rms_epsilon"]),
    read(&["rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"]),
    read(&["rope.scale_linear"]),
    read_by(&["rope.scaling.attn_factor"], "yarn; other types allow 1 only"),
    refused(&["rope.scaling.alpha"], ZERO_OR_ONE, SCALED),
    read_by(&["rope.scaling.yarn_ext_factor"], "it is 1 for yarn, else 0"),
    refused(&["rope.scaling.yarn_attn_factor"], &[Inert::Number(1.0), Inert::Number(-1.0)], YARN),
    read_by(&["rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"], "yarn"),
    read_by(&["rope.scaling.yarn_log_multiplier"], "yarn"),
    read_by(&["rope.scaling.original_context_length"], "yarn"),
    unused(&["rope.scaling.finetuned"], METADATA),
    refused(&["rope.dimension_sections"], ZERO, "RoPE over several axes is not supported"),
    unused(&["rope.dimension_count_swa", "rope.freq_base_swa"], WINDOW),
    refused(&["attention.scale"], ZERO, "scores are scaled by the root of the head size"),
    refused(&["attention.output_scale"], ZERO_OR_ONE, SCALED),
    refused(&["attention.temperature_scale", "attention.temperature_length"], ZERO, SCALED),
    refused(
        &["attention.clamp_kqv"],
        ZERO,
        "clipping of queries, keys and values is not supported",
    ),
    refused(&["attention.max_alibi_bias"], ZERO, "ALiBi is not supported"),
    refused(&["attention.causal"], TRUE, "a token sees only those before it"),
    refused(&["attention.shared_kv_layers", "attention.indexer.*"], ZERO, OTHER_LAYERS),
    refused(&["attention.relative_buckets_count"], ZERO, OTHER_LAYERS),
    refused(&["attention.q_lora_rank", "attention.kv_lora_rank"], ZERO, LOW_RANK),
    refused(&["attention.decay_lora_rank", "attention.iclr_lora_rank"], ZERO, LOW_RANK),
    refused(&["attention.gate_lora_rank"], ZERO, LOW_RANK),
    refused(&["attention.value_residual_mix_lora_rank"], ZERO, LOW_RANK),
    refused(&["attention.key_length_mla", "attention.value_length_mla"], ZERO, LOW_RANK),
    read(&["attention.sliding_window"]),
    read_by(
        &["attention.sliding_window_pattern"],
        "qwen2, qwen3, maple and gemma3, as a list; in other files no context is longer than the window",
    ),
    unused(&["attention.key_length_swa", "attention.value_length_swa"], WINDOW),
    unused(&["attention.layer_norm_epsilon", "attention.group_norm_epsilon"], OTHER_NORMS),
    unused(&["attention.group_norm_groups"], OTHER_NORMS),
    refused(&["attn_logit_softcapping", "final_logit_softcapping"], ZERO, CAPPED),
    refused(&["router_logit_softcapping"], ZERO, CAPPED),
    refused(&["logit_scale", "residual_scale", "embedding_scale"], ZERO_OR_ONE, SCALED),
    refused(&["activation_sparsity_scale"], ZERO, SCALED),
    refused(&["swiglu_clamp_exp", "swiglu_clamp_shexp"], ZERO, CAPPED),
    refused(&["expert_count"], ZERO, MIXTURE),
    unused(&["expert_used_count", "expert_shared_count", "expert_group_count"], EXPERTS),
    unused(&["expert_group_used_count", "expert_feed_forward_length"], EXPERTS),
    unused(&["expert_shared_feed_forward_length", "expert_chunk_feed_forward_length"], EXPERTS),
    unused(&["expert_weights_scale", "expert_weights_norm", "expert_gating_func"], EXPERTS),
    unused(&["expert_group_scale", "experts_per_group", "leading_dense_block_count"], EXPERTS),
    unused(&["interleave_moe_layer_step", "moe_every_n_layers", "moe_latent_size"], EXPERTS),
    refused(&["use_parallel_residual"], FALSE, "parallel residuals are not supported"),
    refused(&["nextn_predict_layers", "n_deepstack_layers"], ZERO, OTHER_LAYERS),
    refused(&["decoder_block_count"], ZERO, "encoders are not supported"),
    refused(&["swin_norm"], FALSE, OTHER_LAYERS),
    refused(&["rescale_every_n_layers", "time_mix_extra_dim"], ZERO, OTHER_LAYERS),
    refused(&["time_decay_extra_dim", "token_shift_count"], ZERO, OTHER_LAYERS),
    refused(&["full_attention_interval"], ZERO_OR_ONE, OTHER_LAYERS),
    refused(&["altup.*", "embedding_length_per_layer_input", "ssm.*", "kda.*"], ZERO, OTHER_LAYERS),
    refused(&["wkv.*", "shortconv.*", "posnet.*", "convnext.*"], ZERO, OTHER_LAYERS),
    refused(&["features_length"], ZERO, OTHER_LAYERS),
    unused(&["decoder_start_token_id"], "for encoders with decoders"),
    read_by(&["pooling_type"], "`embed`"),
    unused(&["embedding_length_out", "{dense}_feat_in"], EMBEDDINGS),
    unused(&["{dense}_feat_out"], EMBEDDINGS),
    unused(&["classifier.output_labels"], "for classifiers"),
    unused(&["tensor_data_layout"], "the order of rows is the architecture's"),
];

/// Keys of architectures with recurrent layers (`qwen35`), without its name before them.
const RECURRENT: &[Fields] = &[
    read(&["ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank"]),
    read(&["ssm.group_count", "attention.recurrent_layers", "full_attention_interval"]),
    unused(&["rope.dimension_sections"], "the positions of text are the same on every axis"),
    read_by(
        &["nextn_predict_layers"],
        "layers that draft tokens; `--draft` says whether they are used",
    ),
];

/// Keys of architectures with a scaled stream (`minicpm`), without its name before them.
const SCALED_STREAM: &[Fields] = &[read(&["embedding_scale", "residual_scale", "logit_scale"])];

/// Keys of architectures with mixtures of experts and windows of attention (`maple`), without its name before them.
const MIXTURE_KEYS: &[Fields] = &[
    read(&["expert_count", "expert_used_count", "expert_feed_forward_length", "swiglu_clamp_exp"]),
    read(&["expert_gating_func", "rope.dimension_count_swa", "rope.freq_base_swa"]),
    unused(&["feed_forward_length"], "experts have a width of their own"),
    refused(&["expert_weights_norm"], TRUE, "the shares of the chosen experts sum to 1"),
    refused(&["expert_weights_scale"], ZERO_OR_ONE, SCALED),
    refused(&["expert_shared_count", "expert_shared_feed_forward_length"], ZERO, SHARED),
    refused(&["expert_group_count", "expert_group_used_count"], ZERO_OR_ONE, GROUPED),
    refused(&["leading_dense_block_count"], ZERO, "every layer is a mixture"),
    refused(&["interleave_moe_layer_step", "moe_every_n_layers"], ZERO_OR_ONE, OTHER_LAYERS),
    refused(&["moe_latent_size", "expert_chunk_feed_forward_length"], ZERO, OTHER_LAYERS),
];

/// Keys of architectures in which windows of attention are the rule (`gemma3`), without its name before them.
const WINDOWED: &[Fields] = &[
    read(&["attention.sliding_window_pattern", "rope.freq_base_swa", "attention.scale"]),
    unused(&["rope.dimension_count_swa"], "whole heads are rotated"),
];

/// The tables of an architecture, its own first.
fn tables_of(arch: &str) -> &'static [&'static [Fields]] {
    match Architecture::from_gguf(arch) {
        Some((architecture, _)) if architecture.table().recurrent => &[RECURRENT, ARCHITECTURE],
        Some((architecture, _)) if architecture.table().experts => &[MIXTURE_KEYS, ARCHITECTURE],
        Some((architecture, _)) if architecture.table().windowed.is_some() => {
            &[WINDOWED, ARCHITECTURE]
        }
        Some((architecture, _)) if architecture.table().scaled_stream => {
            &[SCALED_STREAM, ARCHITECTURE]
        }
        _ => &[ARCHITECTURE],
    }
}

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] = &[
    ("GGUF", "the file", WHOLE_FILE),
    ("GGUF", "the vocabulary", TOKENIZER),
    ("GGUF", "the architecture (after its name)", ARCHITECTURE),
    ("GGUF", "qwen35 (after its name)", RECURRENT),
    ("GGUF", "minicpm (after its name)", SCALED_STREAM),
    ("GGUF", "maple (after its name)", MIXTURE_KEYS),
    ("GGUF", "gemma3 (after its name)", WINDOWED),
];

/// Checks the keys of a file of architecture `arch`.
///
/// # Errors
/// The first key whose value is not obeyed and would change numbers or the prompt.
pub(crate) fn gguf_refusals(metadata: &Metadata, arch: &str) -> Result<(), Refusal> {
    look(metadata, arch, |decision| matches!(decision, Some(Decision::RefusedUnless(..)))).map(drop)
}

/// Assumptions about the keys of a file of architecture `arch`.
///
/// # Errors
/// Those of [`gguf_refusals`].
pub(crate) fn gguf_assumptions(metadata: &Metadata, arch: &str) -> Result<Vec<String>, Refusal> {
    look(metadata, arch, |_| true)
}

fn look(
    metadata: &Metadata,
    arch: &str,
    wanted: impl Fn(Option<Decision>) -> bool,
) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(metadata.file_name());
    for (key, value) in metadata.iter() {
        let own = key.strip_prefix(arch).and_then(|rest| rest.strip_prefix('.'));
        let (tables, name): (&[&[Fields]], &str) = match own {
            Some(name) => (tables_of(arch), name),
            None => (&[WHOLE_FILE, TOKENIZER], key),
        };
        let decision = decision(tables, name);
        // Values of other keys may be long and are not read.
        let valued =
            matches!(decision, None | Some(Decision::RefusedUnless(..) | Decision::Assumption(..)));
        if valued && wanted(decision) {
            found.field(tables, name, &shown(key), &plain(value))?;
        }
    }
    Ok(found.finish())
}

/// A value as JSON; what has no such form becomes its name, and so does a long array.
fn plain(value: gguf::Value<'_>) -> Value {
    if let Some(array) = value.as_array() {
        if array.len() > MAX_ELEMENTS {
            return Value::String(format!("an array of {}", array.len()));
        }
        let element = |element: gguf::Value<'_>| match element.as_array() {
            Some(inner) => Value::String(format!("an array of {}", inner.len())),
            None => plain(element),
        };
        return array.iter().map(element).collect();
    }
    if let Some(text) = value.as_str() {
        return Value::String(text.to_owned());
    }
    if let Some(flag) = value.as_bool() {
        return Value::Bool(flag);
    }
    match (value.as_u64(), value.as_i64(), value.as_f32()) {
        (Some(number), ..) => number.into(),
        (_, Some(number), _) => number.into(),
        // By way of decimal digits, so that messages show the number that the file's author wrote.
        (.., Some(number)) => number
            .to_string()
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        _ => Value::Null,
    }
}
