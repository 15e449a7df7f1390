//! Fields of `generation_config.json`.

use serde_json::Value;

use super::{
    EMPTY, FALSE, Fields, Findings, Inert, NEVER, ONE, Refusal, ZERO, assumed, read, read_by,
    unused,
};

const LENGTH: &str = "the length is limited by `-n` and `--ctx`";
const SAMPLER: &str = "it is not applied";
const BEAMS: &str = "one text is written, without search";
const SEARCH: &str = "of search with several beams, which is listed by `num_beams`";
const DRAFTS: &str = "changes speed, not the text";
const CACHE: &str = "where transformers keeps keys and values";
const OUTPUTS: &str = "what transformers returns besides the text";
const LOGITS: &str = "logits are sampled as the model gives them";

pub(super) const FIELDS: &[Fields] = &[
    read(&["eos_token_id", "do_sample", "temperature", "top_k", "top_p"]),
    read_by(&["bos_token_id", "pad_token_id"], "`convert`"),
    assumed(&["max_length"], &[Inert::Number(20.0)], LENGTH),
    assumed(&["max_new_tokens", "max_time"], NEVER, LENGTH),
    assumed(&["min_length", "min_new_tokens"], ZERO, "a text may end at any length"),
    assumed(&["stop_strings"], EMPTY, "it ends no text; `--stop` does"),
    assumed(&["forced_eos_token_id", "forced_bos_token_id"], NEVER, "no token is forced"),
    assumed(&["force_words_ids", "constraints"], EMPTY, "no token is forced"),
    assumed(&["suppress_tokens"], EMPTY, "no token is forbidden; `--logit-bias` can"),
    assumed(&["begin_suppress_tokens"], EMPTY, "no token is forbidden; `--logit-bias` can"),
    assumed(&["bad_words_ids"], EMPTY, "no token is forbidden; `--logit-bias` can"),
    assumed(&["sequence_bias"], EMPTY, "it is not applied; `--logit-bias` biases single tokens"),
    assumed(&["repetition_penalty"], ONE, "it is not applied; `--repeat-penalty` does"),
    assumed(&["no_repeat_ngram_size"], ZERO, "sequences may repeat"),
    assumed(&["encoder_repetition_penalty"], ONE, SAMPLER),
    assumed(&["encoder_no_repeat_ngram_size"], ZERO, SAMPLER),
    assumed(&["exponential_decay_length_penalty"], EMPTY, SAMPLER),
    assumed(&["min_p"], ZERO, "it is not applied; `--min-p` does"),
    assumed(&["typical_p"], ONE, "it is not applied; `--typical` does"),
    assumed(&["top_h", "epsilon_cutoff", "eta_cutoff"], ZERO, SAMPLER),
    assumed(&["guidance_scale"], ONE, SAMPLER),
    assumed(&["watermarking_config"], EMPTY, SAMPLER),
    assumed(&["penalty_alpha"], ZERO, SAMPLER),
    assumed(&["dola_layers"], EMPTY, SAMPLER),
    assumed(&["low_memory"], FALSE, SAMPLER),
    assumed(&["token_healing"], FALSE, "the end of a prompt is cut as it is"),
    assumed(&["remove_invalid_values", "renormalize_logits"], FALSE, LOGITS),
    assumed(&["num_beams", "num_beam_groups", "num_return_sequences"], ONE, BEAMS),
    unused(&["early_stopping", "length_penalty", "diversity_penalty"], SEARCH),
    unused(&["decoder_start_token_id"], "for encoders with decoders"),
    unused(&["use_mtp", "is_assistant", "num_assistant_tokens"], DRAFTS),
    unused(&["num_assistant_tokens_schedule", "assistant_confidence_threshold"], DRAFTS),
    unused(&["assistant_early_exit", "assistant_lookbehind", "assistant_ensemble_weight"], DRAFTS),
    unused(&["target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size"], DRAFTS),
    unused(&["speculation_type", "prefill_chunk_size", "compile_config"], DRAFTS),
    unused(&["disable_compile", "continuous_batching_config"], DRAFTS),
    unused(&["use_cache", "cache_implementation", "cache_config", "max_cache_len"], CACHE),
    unused(&["output_attentions", "output_hidden_states", "output_scores"], OUTPUTS),
    unused(&["output_logits", "return_dict_in_generate"], OUTPUTS),
    unused(&["_from_model_config", "_commit_hash", "transformers_version"], "metadata"),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] = &[("generation_config.json", "", FIELDS)];

/// Assumptions about the fields of a `generation_config.json`.
///
/// # Errors
/// The first field whose value is not obeyed and would change the text.
pub(crate) fn generation_config(value: &Value, file: &str) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(file);
    if let Some(fields) = value.as_object() {
        found.object(&[FIELDS], "", fields)?;
    }
    Ok(found.finish())
}
