//! Fields of `config.json`, for each model class that is read.

use serde_json::Value;

use super::{
    EMPTY, FALSE, Fields, Findings, Inert, NEVER, ONE, Refusal, TRUE, ZERO, ZERO_OR_ONE, assumed,
    decision, generation, quantization, read, read_by, refused, unused,
};

const BIASES: &str = "biases are not supported";
const TRAINING: &str = "training only";
const CLASSIFIERS: &str = "for classifiers";
const OUTPUTS: &str = "what transformers returns besides the logits";
const METADATA: &str = "metadata";
const OTHER_CLASS: &str = "a field of other model classes, ignored as transformers does";

/// Fields of every class.
const EVERY_CLASS: &[Fields] = &[
    read(&["architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size"]),
    read(&["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"]),
    read(&["hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"]),
    read(&["rope_theta", "rope_scaling", "rope_parameters"]),
    read_by(
        &["original_max_position_embeddings"],
        "RoPE of type llama3; the other types have no use for it",
    ),
    read(&["quantization_config", "quantization", "attention_bias", "layer_types"]),
    read(&["sliding_window", "use_sliding_window", "eos_token_id"]),
    read_by(&["bos_token_id", "pad_token_id"], "`convert`"),
    refused(&["mlp_bias"], FALSE, BIASES),
    refused(&["partial_rotary_factor"], ONE, "rotating a part of a head is not supported"),
    refused(&["per_layer_config"], EMPTY, "layers of different settings are not supported"),
    refused(&["is_encoder_decoder", "add_cross_attention"], FALSE, "encoders are not supported"),
    refused(&["pruned_heads"], EMPTY, "layers of different sizes are not supported"),
    unused(&["dtype"], "numbers are used as they are stored, and computed with in float32"),
    unused(&["torch_dtype"], "numbers are used as they are stored, and computed with in float32"),
    unused(&["attention_dropout", "initializer_range"], TRAINING),
    unused(&["chunk_size_feed_forward"], "changes memory, not results"),
    unused(&["use_cache"], "keys and values are always cached"),
    unused(&["attn_implementation", "experts_implementation"], "the kernel that transformers uses"),
    unused(&["output_attentions", "output_hidden_states", "tie_last_hidden_states"], OUTPUTS),
    unused(&["return_dict", "torchscript"], OUTPUTS),
    unused(&["id2label", "label2id", "num_labels", "problem_type"], CLASSIFIERS),
    unused(&["is_decoder"], "every class here is a decoder"),
    unused(&["tie_encoder_decoder", "cross_attention_hidden_size"], "for encoders with decoders"),
    unused(&["use_bfloat16"], "for TensorFlow"),
    unused(&["tf_legacy_loss"], TRAINING),
    unused(&["task_specific_params", "prefix"], "settings of transformers' pipelines"),
    unused(&["auto_map", "custom_pipelines"], "remote code is never run"),
    unused(&["_name_or_path", "name_or_path", "_commit_hash", "transformers_version"], METADATA),
    unused(&["tokenizer_class"], "tokenizer.json defines how text is cut"),
    unused(&["unsloth_version", "unsloth_fixed", "transformers.js_config"], METADATA),
    unused(&["_attn_implementation_autoset"], "the kernel that transformers uses"),
];

/// Fields of `LlamaForCausalLM`, and of remote code derived from it.
const LLAMA: &[Fields] = &[assumed(
    &["pretraining_tp"],
    ZERO_OR_ONE,
    "products are not cut into slices, as in transformers 5; older versions sum in another order",
)];

/// Fields of `Qwen2ForCausalLM`, `Qwen3ForCausalLM` and `Qwen3Model`.
const QWEN3: &[Fields] = &[read(&["max_window_layers"])];

/// Fields of `Qwen3_5ForCausalLM` and `Qwen3_5ForConditionalGeneration`, whose text part has an object of its own.
const QWEN35: &[Fields] = &[
    read(&["linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"]),
    read(&["linear_value_head_dim", "linear_conv_kernel_dim", "full_attention_interval"]),
    read(&["partial_rotary_factor", "text_config"]),
    refused(&["attn_output_gate"], TRUE, "attention has a gate on its output"),
    refused(&["output_gate_type"], &[Inert::Text("swish")], "the gate of recurrent layers is SiLU"),
    unused(&["mamba_ssm_dtype"], "states are computed in float32"),
    read_by(&["mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"], DRAFTS),
    read_by(&["schema_version", "tensor_namespace", "base_model_type", "modules"], ROTATED),
    read_by(&["gdn_activation_layout"], ROTATED),
    unused(&["vision_config", "image_token_id", "video_token_id"], IMAGES),
    unused(&["vision_start_token_id", "vision_end_token_id", "language_model_only"], IMAGES),
];

/// Fields of `MiniCPMForCausalLM`.
const MINICPM: &[Fields] = &[
    read(&["scale_emb", "scale_depth", "dim_model_base"]),
    refused(&["num_experts", "num_experts_per_tok"], ZERO, "mixtures of experts are not supported"),
    refused(&["sparse_config"], EMPTY, "sparse attention is not supported"),
];

/// Fields of `Gemma3ForCausalLM` and `Gemma3TextModel`.
const GEMMA3: &[Fields] = &[
    read(&["hidden_activation", "query_pre_attn_scalar"]),
    read(&["sliding_window_pattern", "rope_local_base_freq"]),
    refused(&["use_bidirectional_attention"], FALSE, "a token sees only those before it"),
    unused(&["hidden_act"], "`hidden_activation` names the activation"),
    unused(&["use_sliding_window"], "`layer_types` says which layers attend to a window"),
    unused(&["_sliding_window_pattern"], "`layer_types` and `sliding_window_pattern` say it"),
    unused(&["cache_implementation"], "changes memory, not results"),
];

/// Fields of `rope_parameters` in these classes.
const GEMMA3_ROPE: &[Fields] = &[read(&["full_attention", "sliding_attention"])];

/// Fields of `MapleForCausalLM`.
const MAPLE: &[Fields] = &[
    read(&["num_experts", "num_experts_per_tok", "moe_intermediate_size"]),
    read(&["nope_on_global_attention", "partial_rotary_factor"]),
    unused(&["intermediate_size"], "every layer is a mixture, of `moe_intermediate_size`"),
    refused(&["num_shared_experts"], ZERO, "experts that every token uses are not supported"),
    refused(&["norm_topk_prob"], TRUE, "the shares of the chosen experts sum to 1"),
    refused(&["moe_router_enable_expert_bias"], FALSE, "a bias on experts is not supported"),
    refused(&["router_dtype"], &[Inert::Text("fp32")], "the router computes in float32"),
    refused(&["use_qk_norm", "use_rmsnorm"], TRUE, "the model's norms are RMS norms, of heads too"),
    refused(&["decoder_sparse_step"], ONE, "every layer is a mixture"),
    refused(&["mlp_only_layers"], EMPTY, "every layer is a mixture"),
    refused(&["first_k_dense_replace"], ZERO, "every layer is a mixture"),
    refused(&["use_bias", "use_qkv_bias"], FALSE, BIASES),
    unused(&["embedding_dropout", "output_dropout", "router_aux_loss_coef"], TRAINING),
    unused(&["output_router_logits"], OUTPUTS),
    unused(&["max_window_layers"], "`layer_types` says which layers attend to a window"),
    unused(&["quantize", "preaffine"], "the model's code does not read them"),
];

const ROTATED: &str = "`model_type` prism_hadamard_qwen35, whose weights are stored rotated";
const DRAFTS: &str = "`--draft mtp` and `convert`, where the file has such layers";
const IMAGES: &str = "the model reads text only";

/// Fields of `rope_parameters` in these classes.
const QWEN35_ROPE: &[Fields] = &[unused(
    &["mrope_section", "mrope_interleaved"],
    "the positions of text are the same on every axis",
)];

/// Fields of `BitnetForCausalLM`, remote code of the first ternary checkpoints.
const LEGACY_BITNET: &[Fields] = &[
    refused(&["weight_bits"], ONE, "weights are made ternary, which that class calls 1 bit"),
    refused(&["input_bits"], &[Inert::Number(8.0)], "inputs of ternary layers have 8 bits"),
];

/// Fields that change numbers in classes which are not read, found where files are relabelled by hand.
const OTHER_CLASSES: &[Fields] = &[
    refused(&["attn_logit_softcapping"], ZERO, "capping of attention scores is not supported"),
    refused(&["final_logit_softcapping"], ZERO, "capping of logits is not supported"),
    refused(&["logits_soft_cap"], ZERO, "capping of logits is not supported"),
    refused(&["query_pre_attn_scalar"], ZERO, "scores are scaled by the root of the head size"),
    refused(&["attention_multiplier"], ZERO, "scores are scaled by the root of the head size"),
    refused(&["logit_scale", "logits_scaling"], ZERO_OR_ONE, "scaled logits are not supported"),
    refused(&["embedding_multiplier"], ZERO_OR_ONE, "scaled embeddings are not supported"),
    refused(&["scale_emb"], ZERO_OR_ONE, "scaled embeddings are not supported"),
    refused(&["residual_multiplier"], ZERO_OR_ONE, "scaled residuals are not supported"),
    refused(&["scale_depth"], ZERO, "scaled residuals are not supported"),
    refused(&["clip_qkv"], ZERO, "clipping of queries, keys and values is not supported"),
    refused(&["num_experts", "num_local_experts"], ZERO, "mixtures of experts are not supported"),
    refused(&["n_routed_experts"], ZERO, "mixtures of experts are not supported"),
    refused(&["no_rope_layers"], ONE, "layers without RoPE are not supported"),
    refused(&["alibi"], FALSE, "ALiBi is not supported"),
    refused(&["parallel_attn"], FALSE, "parallel residuals are not supported"),
    refused(&["use_parallel_residual"], FALSE, "parallel residuals are not supported"),
    refused(&["qkv_bias", "use_bias"], FALSE, BIASES),
    assumed(&["attention_chunk_size"], ZERO, "every layer sees the whole context"),
    assumed(&["max_window_layers"], NEVER, OTHER_CLASS),
    assumed(&["pretraining_tp"], ZERO_OR_ONE, OTHER_CLASS),
    assumed(&["qk_norm", "use_qk_norm"], FALSE, OTHER_CLASS),
    assumed(&["layer_norm_eps"], NEVER, OTHER_CLASS),
    assumed(&["vision_config", "audio_config"], EMPTY, "the model reads text only"),
    assumed(&["weight_bits"], ONE, OTHER_CLASS),
    assumed(&["input_bits"], &[Inert::Number(8.0)], OTHER_CLASS),
];

/// Fields of `rope_parameters`, or of `rope_scaling` in older files.
const ROPE: &[Fields] = &[
    read(&["rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor"]),
    read(&["original_max_position_embeddings", "partial_rotary_factor"]),
    refused(&["mrope_section"], EMPTY, "RoPE over several axes is not supported"),
    refused(
        &["full_attention"],
        EMPTY,
        "RoPE that differs between kinds of layers is not supported",
    ),
    refused(
        &["sliding_attention"],
        EMPTY,
        "RoPE that differs between kinds of layers is not supported",
    ),
    read_by(&["attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"], "yarn"),
    read_by(&["truncate"], "yarn"),
    read_by(&["short_factor"], "longrope"),
    read_by(&["long_factor"], "longrope; beyond the original context sequences are refused"),
    unused(&["finetuned"], "metadata of yarn"),
];

/// Why settings for writing text, which older versions of transformers put into `config.json`, change nothing.
#[cfg(test)]
pub(super) const GENERATION: &str = "transformers 5 reads it in generation_config.json only";

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] = &[
    ("config.json", "every class", EVERY_CLASS),
    ("config.json", "LlamaForCausalLM, BitnetForCausalLM", LLAMA),
    ("config.json", "Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3Model", QWEN3),
    ("config.json", "Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration", QWEN35),
    ("config.json", "MiniCPMForCausalLM", MINICPM),
    ("config.json", "MapleForCausalLM", MAPLE),
    ("config.json", "rope_parameters of Qwen3_5 classes", QWEN35_ROPE),
    ("config.json", "Gemma3ForCausalLM, Gemma3TextModel", GEMMA3),
    ("config.json", "rope_parameters of Gemma3 classes", GEMMA3_ROPE),
    ("config.json", "BitnetForCausalLM", LEGACY_BITNET),
    ("config.json", "fields of other classes", OTHER_CLASSES),
    ("config.json", "rope_parameters, rope_scaling", ROPE),
];

/// The tables of a class, the class's own first.
pub(super) fn tables_of(class: &str) -> Vec<&'static [Fields]> {
    let own: &[&'static [Fields]] = match class {
        "LlamaForCausalLM" => &[LLAMA],
        "BitnetForCausalLM" => &[LEGACY_BITNET, LLAMA],
        "Qwen2ForCausalLM" | "Qwen3ForCausalLM" | "Qwen3Model" => &[QWEN3],
        "Gemma3ForCausalLM" | "Gemma3TextModel" => &[GEMMA3],
        "MiniCPMForCausalLM" => &[MINICPM, LLAMA],
        "MapleForCausalLM" => &[MAPLE],
        "Qwen3_5ForCausalLM" | "Qwen3_5ForConditionalGeneration" => &[QWEN35],
        _ => &[],
    };
    [own, &[EVERY_CLASS, OTHER_CLASSES]].concat()
}

/// Assumptions about the fields of a `config.json` for a model class.
///
/// # Errors
/// The first field whose value is not obeyed and would change numbers.
pub(crate) fn config(class: &str, value: &Value, file: &str) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(file);
    let Some(fields) = value.as_object() else { return Ok(Vec::new()) };
    let tables = tables_of(class);
    for (name, value) in fields {
        // A setting for writing text here is not obeyed by transformers either.
        if decision(&tables, name).is_none() && decision(&[generation::FIELDS], name).is_some() {
            continue;
        }
        found.field(&tables, name, &super::shown(name), value)?;
    }
    for name in ["rope_parameters", "rope_scaling"] {
        if let Some(rope) = fields.get(name).and_then(Value::as_object) {
            let own: &[&[Fields]] = match (class, name) {
                ("Gemma3ForCausalLM" | "Gemma3TextModel", "rope_parameters") => {
                    &[GEMMA3_ROPE, ROPE]
                }
                _ if class.starts_with("Qwen3_5") => &[QWEN35_ROPE, ROPE],
                _ => &[ROPE],
            };
            found.object(own, &format!("{name}."), rope)?;
            // Settings of a kind of layers.
            for (kind, of_kind) in rope {
                if let Some(of_kind) = of_kind.as_object() {
                    found.object(&[ROPE], &format!("{name}.{kind}."), of_kind)?;
                }
            }
        }
    }
    quantization::fields(fields, &mut found)?;
    Ok(found.finish())
}

/// The decision about a field of a class's `config.json`.
#[cfg(test)]
pub(super) fn decision_of(class: &str, name: &str) -> Option<super::Decision> {
    decision(&tables_of(class), name).or_else(|| {
        decision(&[generation::FIELDS], name).map(|_| super::Decision::NoEffect(GENERATION))
    })
}
