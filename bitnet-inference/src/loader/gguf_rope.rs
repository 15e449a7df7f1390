//! The frequencies of RoPE in a GGUF file.

use std::sync::Arc;

use bitnet_formats::gguf::{GgmlType, GgufFile, Metadata};

use crate::models::RopeScaling;
use crate::{InferenceError, Result};

/// The factors that each frequency is divided by, if they are not all 1.
fn rope_factors(file: &GgufFile, head_dim: usize) -> Result<Option<Arc<[f32]>>> {
    let Some(tensor) = file.find("rope_freqs.weight") else { return Ok(None) };
    if tensor.ggml_type != GgmlType::F32 || tensor.dims != [head_dim as u64 / 2] {
        let problem = format!(
            "{} {:?} where heads of {head_dim} take {} numbers of F32",
            tensor.ggml_type.name(),
            tensor.dims,
            head_dim / 2
        );
        return Err(InferenceError::config(file.name(), "rope_freqs.weight", problem));
    }
    let region = file.data(tensor)?;
    let (numbers, _) = region.as_chunks::<4>();
    let factors: Arc<[f32]> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok(factors.iter().any(|&factor| factor != 1.0).then_some(factors))
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
    let linear = match metadata.opt_str(&key)?.unwrap_or("linear") {
        "none" => false,
        "linear" => factor != 1.0,
        other => {
            let problem = format!("{other:?} is not supported; none and linear are");
            return Err(InferenceError::config(file.name(), &key, problem));
        }
    };
    if let Some(factors) = rope_factors(file, head_dim)? {
        if linear {
            let what = format!("{}: rope_freqs.weight together with {key}", file.name());
            return Err(InferenceError::unsupported(
                what,
                "use the Hugging Face folder of the model",
            ));
        }
        return Ok(RopeScaling::Factors(factors));
    }
    Ok(if linear { RopeScaling::Linear(factor) } else { RopeScaling::None })
}
