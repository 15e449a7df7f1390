//! The frequencies of RoPE in a GGUF file.

use std::sync::Arc;

use bitnet_formats::gguf::{GgmlType, GgufFile, Metadata};

use crate::models::{LongRopeScaling, RopeScaling, YarnScaling};
use crate::{InferenceError, Result};

/// The factors that each frequency is divided by, if they are not all 1.
fn rope_factors(file: &GgufFile, head_dim: usize) -> Result<Option<Arc<[f32]>>> {
    let factors = factors_in(file, "rope_freqs.weight", head_dim)?;
    Ok(factors.filter(|factors| factors.iter().any(|&factor| factor != 1.0)))
}

/// The tensors of LongRoPE: the factors up to the original context, and those of longer sequences.
const LONG_ROPE_TENSORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The factors of LongRoPE up to the original context. `key` is the key that declares it.
fn short_factors(file: &GgufFile, key: &str, head_dim: usize) -> Result<Arc<[f32]>> {
    let name = LONG_ROPE_TENSORS[0];
    factors_in(file, name, head_dim)?.ok_or_else(|| {
        let problem = format!("longrope needs the tensor {name}, which the file does not have");
        InferenceError::config(file.name(), key, problem)
    })
}

/// A tensor with a positive number for each frequency.
fn factors_in(file: &GgufFile, name: &str, head_dim: usize) -> Result<Option<Arc<[f32]>>> {
    let Some(tensor) = file.find(name) else { return Ok(None) };
    if tensor.ggml_type != GgmlType::F32 || tensor.dims != [head_dim as u64 / 2] {
        let problem = format!(
            "{} {:?} where heads of {head_dim} take {} numbers of F32",
            tensor.ggml_type.name(),
            tensor.dims,
            head_dim / 2
        );
        return Err(InferenceError::config(file.name(), name, problem));
    }
    let region = file.data(tensor)?;
    let (numbers, _) = region.as_chunks::<4>();
    let factors: Arc<[f32]> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match factors.iter().position(|factor| !(factor.is_finite() && *factor > 0.0)) {
        Some(index) => {
            let problem = format!("factor {index} is {}, not a positive number", factors[index]);
            Err(InferenceError::config(file.name(), name, problem))
        }
        None => Ok(Some(factors)),
    }
}

/// How the frequencies of heads of `head_dim` are stretched.
pub(crate) fn rope_scaling(
    file: &GgufFile,
    metadata: &Metadata,
    arch: &str,
    head_dim: usize,
) -> Result<RopeScaling> {
    let key = format!("{arch}.rope.scaling.type");
    let factor = match metadata.opt_f32(&format!("{arch}.rope.scaling.factor"))? {
        None => metadata.opt_f32(&format!("{arch}.rope.scale_linear"))?,
        factor => factor,
    };
    // As in llama.cpp, 0 stands for no factor and a factor without a type is linear.
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    let scaling = match metadata.opt_str(&key)?.unwrap_or("linear") {
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear(factor),
        "yarn" => RopeScaling::Yarn(yarn(metadata, arch, factor)?),
        "longrope" => RopeScaling::LongRope(LongRopeScaling {
            short_factors: short_factors(file, &key, head_dim)?,
            long_factors: factors_in(file, LONG_ROPE_TENSORS[1], head_dim)?,
            attention_factor: metadata
                .opt_f32(&format!("{arch}.rope.scaling.attn_factor"))?
                .unwrap_or(1.0),
        }),
        other => {
            let problem =
                format!("{other:?} is not supported; none, linear, yarn and longrope are");
            return Err(InferenceError::config(file.name(), &key, problem));
        }
    };
    // llama.cpp applies them whatever the type is.
    let unread = LONG_ROPE_TENSORS.iter().find(|name| file.find(name).is_some());
    if let Some(name) = unread.filter(|_| !matches!(scaling, RopeScaling::LongRope(_))) {
        let problem = format!("the tensor {name} needs the type longrope");
        return Err(InferenceError::config(file.name(), &key, problem));
    }
    check_factors(file, arch, &scaling)?;
    if let Some(factors) = rope_factors(file, head_dim)? {
        if scaling != RopeScaling::None {
            let kind = metadata.opt_str(&key)?.unwrap_or("linear");
            let what = format!("{}: rope_freqs.weight together with {key} {kind}", file.name());
            return Err(InferenceError::unsupported(
                what,
                "use the Hugging Face folder of the model",
            ));
        }
        return Ok(RopeScaling::Factors(factors));
    }
    Ok(scaling)
}

/// Checks the factors that belong to YaRN: how far its ramp acts, and for other types what cosines and sines are multiplied
/// by. As in llama.cpp, a negative number stands for the usual one.
fn check_factors(file: &GgufFile, arch: &str, scaling: &RopeScaling) -> Result<()> {
    let is_yarn = matches!(scaling, RopeScaling::Yarn(_));
    let has_magnitude = is_yarn || matches!(scaling, RopeScaling::LongRope(_));
    let usual = [("yarn_ext_factor", if is_yarn { 1.0 } else { 0.0 }), ("attn_factor", 1.0)];
    for (name, usual) in
        usual.into_iter().filter(|(name, _)| !has_magnitude || *name != "attn_factor")
    {
        let key = format!("{arch}.rope.scaling.{name}");
        let given = file.metadata().opt_f32(&key)?;
        if let Some(value) = given.filter(|&value| value >= 0.0 && value != usual) {
            let problem = format!("{value} is not supported; {usual} is");
            return Err(InferenceError::config(file.name(), &key, problem));
        }
    }
    Ok(())
}

/// The settings of YaRN, with the defaults and the meaning of llama.cpp.
fn yarn(metadata: &Metadata, arch: &str, factor: f32) -> Result<YarnScaling> {
    let number = |name: &str| metadata.opt_f32(&format!("{arch}.rope.scaling.{name}"));
    let given = |name: &str| Ok::<_, InferenceError>(number(name)?.filter(|&value| value > 0.0));
    let original = metadata.opt_u64(&format!("{arch}.rope.scaling.original_context_length"))?;
    let original = match original.filter(|&original| original > 0) {
        Some(original) => original,
        None => metadata.get_u64(&format!("{arch}.context_length"))?,
    };
    let below = number("yarn_log_multiplier")?.filter(|&multiplier| multiplier != 0.0);
    let below = below.map_or(1.0, |multiplier| YarnScaling::magnitude(factor, multiplier));
    let more = number("attn_factor")?.filter(|&value| value >= 0.0).unwrap_or(1.0);
    Ok(YarnScaling {
        factor,
        original_context: original as f32,
        beta_fast: given("yarn_beta_fast")?.unwrap_or(YarnScaling::BETA_FAST),
        beta_slow: given("yarn_beta_slow")?.unwrap_or(YarnScaling::BETA_SLOW),
        truncate: true,
        attention_factor: YarnScaling::magnitude(factor, 1.0) / below * more,
    })
}
