//! Arguments of `bitnet convert`.

use std::path::PathBuf;

use bitnet_convert::{Storage, Target};
use clap::Args;

use super::values::{Choice, one_of};

/// `bitnet convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model: a GGUF, safetensors or ONNX file, or a Hugging Face folder
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The output: a name ending in .gguf, or a folder
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The output format [default: gguf for a name ending in .gguf, else hf]
    #[arg(long, value_name = "WHAT", value_parser = one_of(TARGETS))]
    pub(crate) to: Option<Target>,
    /// Type of the ternary layers: i2_s, tq1_0, tq2_0, q2_0, pq2_0, ptq1_0, q1_0, f16, ... [default: the first lossless one]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) linear: Option<Storage>,
    /// Type of the embedding table: f32, f16, bf16, q8_0, q6_k, q4_0 [default: unchanged]
    #[arg(long, value_name = "TYPE")]
    pub(crate) embedding_type: Option<Storage>,
    /// Type of an untied head [default: that of the embedding table]
    #[arg(long, value_name = "TYPE")]
    pub(crate) head_type: Option<Storage>,
    /// Type of tensors whose name matches PATTERN (`blk.*.ffn_down`; * and ?); may be repeated, the last match
    /// wins
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type)]
    pub(crate) tensor: Vec<(String, Storage)>,
    /// Quantise layers that were not trained to be ternary; the output will hardly be usable
    #[arg(long)]
    pub(crate) quantize: bool,
    /// GGUF architecture name, where several exist (bitnet-b1.58, bitnet)
    #[arg(long, value_name = "NAME")]
    pub(crate) arch: Option<String>,
    /// Select types for the embedding table, the head and dense layers so that all matrices take at most SIZE
    /// (500M, 4G) with the least error
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "min_sqnr")]
    pub(crate) max_size: Option<u64>,
    /// Select the smallest types with a mean signal-to-quantisation-noise ratio of at least DB decibels
    #[arg(long, value_name = "DB")]
    pub(crate) min_sqnr: Option<f64>,
    /// Merge a LoRA adapter (a PEFT folder) into the weights, scaled by FACTOR; may be repeated
    #[arg(long, value_name = "DIR[=FACTOR]", value_parser = adapter)]
    pub(crate) lora: Vec<(PathBuf, f32)>,
    /// Split the output into files with at most SIZE of weights each (500M, 4G)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) split_max_size: Option<u64>,
    /// Print the plan and exit
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not verify the output
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Start over instead of resuming an interrupted conversion
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
}

/// Output formats.
const TARGETS: &[Choice<Target>] = &[
    ("gguf", "A GGUF file", Target::Gguf),
    ("hf", "A Hugging Face folder with packed ternary layers", Target::HuggingFace),
    ("hf-dense", "A Hugging Face folder with dense layers", Target::Dense),
    ("mlx", "An MLX folder: 2-bit affine ternary layers", Target::Mlx),
];

fn adapter(text: &str) -> Result<(PathBuf, f32), String> {
    match text.rsplit_once('=') {
        None => Ok((text.into(), 1.0)),
        Some((folder, factor)) => {
            let factor = factor.parse::<f32>().ok().filter(|factor| factor.is_finite());
            Ok((folder.into(), factor.ok_or("write DIR or DIR=FACTOR, for example adapter=0.5")?))
        }
    }
}

/// Parses a size in bytes; K, M and G are powers of 1000.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "write a size such as 500M or 4G".into())
}

fn tensor_type(text: &str) -> Result<(String, Storage), String> {
    let (pattern, storage) =
        text.split_once('=').ok_or("write PATTERN=TYPE, for example output=q8_0")?;
    Ok((pattern.to_owned(), storage.parse().map_err(|error| format!("{error}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!((size("12"), size("3k"), size("4G")), (Ok(12), Ok(3_000), Ok(4_000_000_000)));
        for wrong in
            ["", "0", "G", "-1", "1.5G", "4GB", "99999999999999999999", "99999999999G", "é"]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
