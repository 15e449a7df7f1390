//! Fields of `adapter_config.json`, as PEFT writes it for LoRA.

use serde_json::Value;

use super::{
    EMPTY, FALSE, Fields, Findings, Inert, Refusal, ZERO, is_inert, read, refused, shown, unused,
};

const TRAINING: &str = "training only";
const START: &str = "how the matrices were before training";
const METADATA: &str = "metadata";
const CHOICE: &str = "the tensors of the file say which layers are adapted";
const OTHER: &str = "another way of adapting layers, which can't be merged";
const WHOLE: &str = "whole layers of an adapter can't be merged";

const FIELDS: &[Fields] = &[
    read(&["peft_type", "r", "lora_alpha", "use_rslora"]),
    refused(&["use_dora", "use_qalora"], FALSE, OTHER),
    refused(&["use_bdlora", "arrow_config", "kasa_config", "monteclora_config"], EMPTY, OTHER),
    refused(&["fan_in_fan_out"], FALSE, "transposed layers can't be merged"),
    refused(&["lora_bias"], FALSE, "biases are not supported"),
    refused(&["bias"], &[Inert::Text("none")], "biases are not supported"),
    refused(&["rank_pattern"], EMPTY, "ranks that differ between layers can't be merged"),
    refused(&["alpha_pattern"], EMPTY, "scales that differ between layers can't be merged"),
    refused(&["modules_to_save", "trainable_token_indices"], EMPTY, WHOLE),
    refused(&["target_parameters"], EMPTY, OTHER),
    refused(&["layer_replication"], EMPTY, "repeated layers are not supported"),
    refused(&["ensure_weight_tying"], FALSE, "adapted embeddings can't be merged"),
    refused(&["alora_invocation_tokens"], EMPTY, "adapters that begin at a token can't be merged"),
    refused(
        &["init_lora_weights"],
        &[
            Inert::Is(true),
            Inert::Is(false),
            Inert::Text("gaussian"),
            Inert::Text("orthogonal"),
            Inert::Text("eva"),
        ],
        "it changed the model's own weights before training; convert the adapter with PEFT to one for the original weights",
    ),
    unused(&["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"], CHOICE),
    unused(&["lora_dropout", "velora_config"], TRAINING),
    unused(&["loftq_config", "eva_config", "corda_config", "lora_ga_config"], START),
    unused(&["qalora_group_size"], "acts with `use_qalora` only"),
    unused(&["runtime_config"], "where PEFT keeps the adapter"),
    unused(&["megatron_config", "megatron_core"], "for Megatron's layers"),
    unused(&["inference_mode", "task_type", "auto_mapping", "base_model_name_or_path"], METADATA),
    unused(&["revision", "peft_version"], METADATA),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] = &[("adapter_config.json", "", FIELDS)];

/// Checks the fields of an `adapter_config.json`. A field that this program does not know is an error unless it is
/// empty, false or zero: what PEFT adds changes what an adapter computes.
///
/// # Errors
/// The first field whose value is not obeyed and would change the merged weights.
pub fn adapter_config(value: &Value, file: &str) -> Result<(), Refusal> {
    let mut found = Findings::new(file);
    let Some(fields) = value.as_object() else { return Ok(()) };
    for (name, value) in fields {
        let off = is_inert(value, FALSE) || is_inert(value, ZERO) || is_inert(value, EMPTY);
        if super::decision(&[FIELDS], name).is_none() && !off {
            let problem = format!("{} is not known to this program", shown(&value.to_string()));
            return Err(found.refusal(&shown(name), problem));
        }
        found.field(&[FIELDS], name, &shown(name), value)?;
    }
    Ok(())
}
