//! Conversion of sampling options to the engine's, and summaries of a generation.

use std::hash::{BuildHasher, RandomState};

use bitnet_inference::sampler::SamplerConfig;
use bitnet_inference::{
    DraftStats, FinishReason, GenerateOptions, Generated, Generation, InferenceError, Model,
};
use serde_json::{Value, json};

use crate::args::SamplingArgs;
use crate::output;

/// Returns the generation options: the user's values, else the model's defaults.
pub(crate) fn options(args: &SamplingArgs, model: &Model, seed: u64) -> GenerateOptions {
    let default = model.default_sampling();
    let sampler = SamplerConfig {
        temperature: args.temp.unwrap_or(default.temperature),
        top_k: args.top_k.unwrap_or(default.top_k),
        top_p: args.top_p.unwrap_or(default.top_p),
        min_p: args.min_p.unwrap_or(default.min_p),
        typical_p: args.typical.unwrap_or(default.typical_p),
        repetition_penalty: args.repeat_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(default.frequency_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(default.presence_penalty),
        logit_bias: args.logit_bias.clone(),
        seed,
        ..default
    };
    GenerateOptions {
        sampler,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        stop_tokens: Vec::new(),
        ignore_end: args.ignore_eos,
        ..GenerateOptions::default()
    }
}

/// Returns a random seed, short enough to type.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}

/// Generates to the end, passing each piece of text to `show` until it returns false.
pub(crate) fn write(
    mut generation: Generation<'_>,
    mut show: impl FnMut(&str) -> bool,
) -> Result<Generated, InferenceError> {
    for token in generation.by_ref() {
        if !show(&token?.text) {
            break;
        }
    }
    Ok(generation.finish())
}

/// Returns why the generation ended, as text.
fn ending(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::EndOfText => "the text is complete",
        FinishReason::Stop => "stop text",
        FinishReason::Length => "length limit (-n)",
        FinishReason::ContextFull => "the context is full (--ctx)",
        FinishReason::Cancelled => "stopped",
        other => other.name(),
    }
}

/// Returns a one-line summary of the generation.
pub(crate) fn summary(generated: &Generated, options: &GenerateOptions) -> String {
    let speed = |tokens, time| match output::rate(tokens, time) {
        Some(rate) => format!(", {rate:.1} tokens/s"),
        None => String::new(),
    };
    let read = generated.prompt_tokens_read;
    let cached = generated.prompt_tokens - read;
    let chance = if options.sampler.temperature == 0.0 {
        "greedy".to_owned()
    } else {
        format!("seed {}", options.sampler.seed)
    };
    let drafts = match generated.drafts {
        DraftStats { drafted: 0, .. } => String::new(),
        DraftStats { drafted, accepted } => format!(", {accepted} of {drafted} drafted"),
    };
    format!(
        "[prompt {}{}{}; wrote {}{}{drafts}; {}; {chance}]",
        output::count(generated.prompt_tokens, "token"),
        if cached > 0 { format!(" ({cached} cached)") } else { String::new() },
        speed(read, generated.prompt_time),
        output::count(generated.tokens.len(), "token"),
        speed(generated.tokens.len(), generated.write_time),
        ending(generated.finish),
    )
}

/// Returns why the generation ended, for JSON: only Ctrl-C cancels it.
fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Cancelled => "interrupted",
        other => other.name(),
    }
}

/// Returns the generation as JSON.
pub(crate) fn to_json(generated: &Generated, options: &GenerateOptions) -> Value {
    json!({
        "text": generated.text,
        "tokens": generated.tokens,
        "finish_reason": finish_reason(generated.finish),
        "seed": options.sampler.seed,
        "temperature": output::number(options.sampler.temperature),
        "prompt_tokens": generated.prompt_tokens,
        "prompt_tokens_read": generated.prompt_tokens_read,
        "prompt_seconds": generated.prompt_time.as_secs_f64(),
        "prompt_tokens_per_second": output::rate(generated.prompt_tokens_read, generated.prompt_time),
        "draft": options.draft.name(),
        "draft_tokens": generated.drafts.drafted,
        "draft_tokens_accepted": generated.drafts.accepted,
        "write_seconds": generated.write_time.as_secs_f64(),
        "write_tokens_per_second": output::rate(generated.tokens.len(), generated.write_time),
    })
}
