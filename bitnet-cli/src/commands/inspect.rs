//! `bitnet inspect`: a model's facts and the validity of its weights, without loading it.

use std::collections::BTreeSet;

use anyhow::Result;
use bitnet_core::backend::RopeOrder;
use bitnet_core::kv::RecurrentShape;
use bitnet_formats::names::{Role, TensorName};
use bitnet_inference::models::{LayerKind, ModelConfig, RopeScaling, activation_name};
use bitnet_inference::{Inspection, KvType, ModelFacts};
use serde_json::{Value, json};

use super::Outcome;
use super::weights::{self, Weights};
use crate::args::{Cli, InspectArgs};
use crate::load;
use crate::output::{self, LABEL, Output, row, without_controls};

/// Maximum length of a tensor name that is printed in full.
const NAME: usize = 52;

/// Describes the model.
pub(crate) fn run(cli: &Cli, args: &InspectArgs, output: &mut Output) -> Result<Outcome> {
    if let [first, second] = args.diff.as_slice() {
        return super::difference::run(cli, [first, second], output);
    }
    let source = load::source(cli, args.path.as_deref())?;
    let options = load::options(cli)?;
    let mut inspection = Inspection::of(source, &options)?;
    let weights = match args.no_weights {
        true => None,
        false => Some(Weights::read(cli, source, &options, output)?),
    };
    if let Some(weights) = &weights {
        inspection.facts.assumptions.extend(weights.assumptions.iter().cloned());
    }
    let outcome = match &weights {
        Some(weights) if !weights.sound() => Outcome::CheckFailed,
        _ => Outcome::Done,
    };
    let notes = weights::notes(&inspection.facts, weights.as_ref());
    if output.json {
        let mut value = to_json(&inspection);
        value["weights"] = weights.as_ref().map_or(Value::Null, Weights::to_json);
        value["notes"] = json!(notes);
        output.json(&value)?;
        return Ok(outcome);
    }
    let facts = &inspection.facts;
    let title = without_controls(facts.name.as_deref().unwrap_or(&facts.file));
    output.line(&output.style.bold(&title))?;
    row(output, "file", &facts.file)?;
    row(output, "container", &facts.container)?;
    for (label, text) in config_rows(&inspection.config, cli.model.kv) {
        row(output, label, &text)?;
    }
    row(output, "memory", &memory_text(&inspection))?;
    output.line("")?;
    for (label, text) in fact_rows(facts) {
        row(output, label, text)?;
    }
    if let Some(weights) = &weights {
        weights.show(output)?;
    }
    assumptions(output, facts)?;
    output.section("Notes", &notes)?;
    sizes(output, &inspection)?;
    if args.tensors || output.verbose {
        tensors(output, &inspection)?;
    }
    Ok(outcome)
}

/// Returns the facts whose errors would be silent, with their sources.
pub(crate) fn fact_rows(facts: &ModelFacts) -> Vec<(&'static str, &str)> {
    let rows = [
        ("architecture", facts.architecture.as_str()),
        ("activation", &facts.activation),
        ("weights", &facts.weights),
        ("inputs", &facts.inputs),
        ("RoPE", &facts.rope),
        ("head", &facts.head),
        ("pooling", facts.pooling.as_deref().unwrap_or_default()),
        ("tokenizer", &facts.tokenizer),
        ("template", &facts.template),
    ];
    // The source of the head is known only after loading.
    rows.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

/// Prints the assumptions, and fields that are not applied.
pub(crate) fn assumptions(output: &mut Output, facts: &ModelFacts) -> Result<()> {
    output.section("Assumed, or not applied", &facts.assumptions)
}

/// Returns the memory that the model needs with the default context and with all of it.
fn memory_text(inspection: &Inspection) -> String {
    let (config, memory) = (&inspection.config, &inspection.memory);
    let with =
        |tokens| format!("{} with {tokens} tokens", output::bytes(memory.with_context(tokens)));
    let (default, full) = (config.default_context(), config.full_context());
    let more =
        if full > default { format!(", {} (its full context)", with(full)) } else { String::new() };
    format!("at most about {} of context{more}", with(default))
}

fn memory_json(inspection: &Inspection) -> Value {
    let (config, memory) = (&inspection.config, &inspection.memory);
    let with = |tokens: usize| json!({ "context": tokens, "bytes": memory.with_context(tokens) });
    json!({
        "weights": memory.weights,
        "in_place": memory.in_place,
        "per_token": memory.position,
        "states": memory.states,
        "program": memory.program,
        "default": with(config.default_context()),
        "full": with(config.full_context()),
    })
}

fn config_rows(config: &ModelConfig, kv: KvType) -> Vec<(&'static str, String)> {
    let c = config;
    let rope = match &c.rope_scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear(factor) => format!(", stretched linearly by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!(", stretched as Llama 3.1 does by {factor}"),
        RopeScaling::Yarn(yarn) => {
            format!(", stretched by YaRN {} times from {}", yarn.factor, yarn.original_context)
        }
        RopeScaling::LongRope(_) => ", stretched by LongRoPE".to_owned(),
        RopeScaling::Factors(factors) => {
            let largest = factors.iter().copied().fold(0.0, f32::max);
            format!(", frequencies divided by up to {largest}")
        }
    };
    let cache =
        (c.layers_of(LayerKind::Attention) * c.kv_heads * kv.bytes_per_position(c.head_dim)) as u64;
    let mut rows = vec![
        ("layers", format!("{} of width {}, feed-forward {}", c.layers, c.hidden, c.intermediate)),
        (
            "attention",
            format!("{} heads of {}, {} key-value heads", c.heads, c.head_dim, c.kv_heads),
        ),
        ("vocabulary", format!("{} tokens", c.vocab_size)),
        ("context", format!("{} tokens; RoPE base {}{rope}", c.context, c.rope_theta)),
        ("cache", format!("{} per token as {kv}", output::bytes(cache))),
    ];
    if let Some(local) = &c.local {
        let layers = local.layers.iter().filter(|is_local| **is_local).count();
        let rope = match local.rope_theta {
            Some(theta) => format!(", with RoPE base {theta}"),
            None if c.architecture.table().local_rope => ", the only ones with RoPE".to_owned(),
            None => String::new(),
        };
        let text = format!("{} tokens in {layers} of {} layers{rope}", local.positions, c.layers);
        rows.push(("window", text));
    }
    if let Some(mixture) = &c.mixture {
        let text =
            format!("{} in each layer, of which a token uses {}", mixture.experts, mixture.used);
        rows.push(("experts", text));
    }
    if let Some(recurrent) = &c.recurrent {
        let RecurrentShape { layers, key_heads, value_heads, value_dim, .. } = recurrent.shape;
        let bytes = recurrent.shape.chunk_bytes().unwrap_or(0) as u64;
        let heads = format!("{value_heads} value heads of {value_dim}, {key_heads} key heads");
        let state = format!("{} for every state kept", output::bytes(bytes));
        rows.push(("recurrent", format!("{layers} layers: {heads}; {state}")));
    }
    if let Some(scalar) = c.query_scalar {
        rows.push(("scores", format!("divided by the root of {scalar}")));
    }
    if let Some(scales) = c.scales {
        let (residual, logits) = (scales.residual, scales.logits);
        let text =
            format!("embeddings {}, residuals {residual}, logits {logits}", scales.embedding);
        rows.push(("scales", text));
    }
    if let Some(rotations) = &c.rotations {
        let blocks: BTreeSet<usize> =
            rotations.by_weight.values().map(|rotation| rotation.block()).collect();
        let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
        let has_table = rotations.of(TensorName::outside(Role::TokenEmbedding)).is_some();
        let table = if has_table { ", and the embedding table" } else { "" };
        let weights = rotations.by_weight.len() - usize::from(has_table);
        let blocks = blocks.join(" and ");
        rows.push(("rotation", format!("{weights} weights in blocks of {blocks}{table}; undone")));
    }
    rows
}

fn sizes(output: &mut Output, inspection: &Inspection) -> Result<()> {
    output.heading("Size by type")?;
    let elements = |storage: &str| -> u64 {
        let of_type = inspection.tensors.iter().filter(|t| t.storage == storage);
        of_type.map(|t| t.shape.iter().product::<u64>()).sum()
    };
    let (mut count, mut total) = (0, 0);
    for (storage, tensors, size) in inspection.bytes_by_type() {
        let bits = 8.0 * size as f64 / elements(&storage).max(1) as f64;
        // Hugging Face checkpoints pack four trits into an unsigned byte.
        let note = if storage == "U8" {
            "2.00 bits per trit".to_owned()
        } else {
            format!("{bits:.2} bits per element")
        };
        size_row(output, &storage, tensors, size, &note)?;
        count += tensors;
        total += size;
    }
    size_row(output, "all", count, total, "")
}

fn size_row(
    output: &mut Output,
    storage: &str,
    tensors: usize,
    size: u64,
    note: &str,
) -> Result<()> {
    let storage = without_controls(storage);
    let tensors = output::count(tensors, "tensor");
    let line = format!("  {storage:<LABEL$}  {tensors:>14}  {:>12}  {note}", output::bytes(size));
    output.line(line.trim_end())
}

fn tensors(output: &mut Output, inspection: &Inspection) -> Result<()> {
    output.heading("Tensors")?;
    let shown: Vec<String> =
        inspection.tensors.iter().map(|t| shorten(&without_controls(&t.name))).collect();
    let width = shown.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    for (name, tensor) in shown.iter().zip(&inspection.tensors) {
        let shape: Vec<String> = tensor.shape.iter().map(ToString::to_string).collect();
        let size = output::bytes(tensor.bytes);
        output.line(&format!(
            "  {name:<width$}  {:<6}  {:>15}  {size:>10}",
            tensor.storage,
            shape.join(" x ")
        ))?;
    }
    Ok(())
}

/// Returns a name that fits its column, shortened in the middle if necessary.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME {
        return name.to_owned();
    }
    let head: String = name.chars().take(NAME / 2 - 1).collect();
    let tail: String = name.chars().skip(length - NAME / 2).collect();
    format!("{head}…{tail}")
}

fn to_json(inspection: &Inspection) -> Value {
    let tensors: Vec<Value> = inspection
        .tensors
        .iter()
        .map(|t| json!({ "name": t.name, "type": t.storage, "shape": t.shape, "bytes": t.bytes }))
        .collect();
    let types: Vec<Value> = inspection
        .bytes_by_type()
        .into_iter()
        .map(|(storage, tensors, bytes)| json!({ "type": storage, "tensors": tensors, "bytes": bytes }))
        .collect();
    json!({
        "facts": facts_json(&inspection.facts),
        "config": config_json(&inspection.config),
        "memory": memory_json(inspection),
        "types": types,
        "tensors": tensors,
    })
}

/// Returns the facts as JSON.
pub(crate) fn facts_json(facts: &ModelFacts) -> Value {
    let mut value = json!({ "file": facts.file, "container": facts.container, "name": facts.name });
    for (label, text) in fact_rows(facts) {
        value[label.to_lowercase()] = json!(text);
    }
    value["assumptions"] = json!(facts.assumptions);
    value
}

fn config_json(c: &ModelConfig) -> Value {
    let activation = activation_name(c.activation);
    let order = match c.rope_order {
        RopeOrder::Halves => "halves",
        RopeOrder::Interleaved => "interleaved",
    };
    let scaling = match &c.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear(factor) => {
            json!({ "kind": "linear", "factor": output::number(*factor) })
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            json!({
                "kind": "llama3",
                "factor": output::number(*factor),
                "low_freq_factor": output::number(*low_freq_factor),
                "high_freq_factor": output::number(*high_freq_factor),
                "original_context": output::number(*original_context),
            })
        }
        RopeScaling::Yarn(yarn) => json!({
            "kind": "yarn",
            "factor": output::number(yarn.factor),
            "original_context": output::number(yarn.original_context),
            "beta_fast": output::number(yarn.beta_fast),
            "beta_slow": output::number(yarn.beta_slow),
            "truncate": yarn.truncate,
            "attention_factor": output::number(yarn.attention_factor),
        }),
        RopeScaling::LongRope(long) => json!({
            "kind": "longrope",
            "short_factors": *long.short_factors,
            "attention_factor": output::number(long.attention_factor),
        }),
        RopeScaling::Factors(factors) => json!({ "kind": "factors", "factors": **factors }),
    };
    json!({
        "architecture": c.architecture.to_string(),
        "vocab_size": c.vocab_size,
        "hidden": c.hidden,
        "layers": c.layers,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate": c.intermediate,
        "context": c.context,
        "norm_eps": output::number(c.norm_eps),
        "activation": activation,
        "rope_theta": output::number(c.rope_theta),
        "rope_order": order,
        "rope_dim": c.rope_dim,
        "rope_scaling": scaling,
        "window": c.local.as_ref().map(|local| json!({
            "positions": local.positions,
            "layers": *local.layers,
            "rope_theta": local.rope_theta.map(output::number),
        })),
        "attention_divisor": c.query_scalar.map(output::number),
        "has_head": c.has_head,
        "experts": c.mixture.as_ref().map(|mixture| json!({
            "count": mixture.experts,
            "used": mixture.used,
            "limits": mixture.limits.iter().map(|&limit| output::number(limit)).collect::<Vec<_>>(),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shorten("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        let long = format!("model.layers.0.{}.weight", "x".repeat(100));
        let short = shorten(&long);
        assert_eq!(short.chars().count(), NAME);
        assert!(short.starts_with("model.layers.0.") && short.ends_with(".weight"));
    }
}
