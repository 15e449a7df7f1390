//! Export to GGUF: architecture `bitnet-b1.58`, ternary matrices as I2_S,
//! norms as F32, embedding as F16, with the vocabulary.
//!
//! Trits and scales come from the quantiser of the forward pass, so the file computes what the trainer computed, except
//! for the rounding of the embedding to half precision.
use std::{collections::HashMap, path::Path};

use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_formats::gguf::{GgmlType, GgufWriter, Value};
use bitnet_quant::codec::i2_s::{self, I2sLayout};
use half::f16;

use crate::{
    config::ModelConfig,
    error::{Error, Result},
    layers::ternary_matrix,
    model::Model,
    trainer::Trainer,
    vocabulary::Vocabulary,
};

const ARCHITECTURE: &str = "bitnet-b1.58";
/// `general.file_type` of I2_S files.
const FILE_TYPE_I2_S: u32 = 40;
/// `tokenizer.ggml.token_type`: ordinary and special tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Export(error.to_string())
}

impl Trainer {
    /// Writes the current model to `path`.
    ///
    /// # Errors
    /// [`Error::Export`] with the file, if it can't be written.
    pub fn export(&self, path: &Path) -> Result<()> {
        write_gguf(path, &self.config().name, self.model(), self.parameters(), self.vocabulary())
    }
}

/// Returns the bytes of one tensor.
struct Tensor {
    name: String,
    dims: Vec<u64>,
    ggml_type: GgmlType,
    bytes: Vec<u8>,
}

/// Writes a model of latent `parameters` with the layout of [`Model::layout`].
///
/// # Errors
/// [`Error::Export`] with the file, if it can't be written.
pub fn write_gguf(
    path: &Path,
    name: &str,
    model: &Model,
    parameters: &[f32],
    vocabulary: &Vocabulary,
) -> Result<()> {
    let mut writer = GgufWriter::new();
    put_model_keys(&mut writer, name, &model.config).map_err(failed)?;
    put_vocabulary_keys(&mut writer, vocabulary).map_err(failed)?;
    let tensors = tensors(model, parameters)?;
    for tensor in &tensors {
        writer.add_tensor(&tensor.name, &tensor.dims, tensor.ggml_type).map_err(failed)?;
    }
    let bytes: HashMap<&str, &[u8]> =
        tensors.iter().map(|t| (t.name.as_str(), t.bytes.as_slice())).collect();
    writer
        .write(path, |tensor, sink| {
            sink.write_all(bytes.get(tensor.name.as_str()).copied().unwrap_or_default())
        })
        .map_err(failed)
}

fn put_model_keys(
    writer: &mut GgufWriter,
    name: &str,
    config: &ModelConfig,
) -> bitnet_formats::Result<()> {
    writer.put("general.architecture", Value::String(ARCHITECTURE))?;
    writer.put("general.name", Value::String(name))?;
    writer.put("general.license", Value::String("MIT"))?;
    writer.put("general.file_type", Value::U32(FILE_TYPE_I2_S))?;
    writer.put("general.quantization_version", Value::U32(2))?;
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.context_length),
        ("embedding_length", config.hidden_size),
        ("block_count", config.layers),
        ("feed_forward_length", config.feed_forward),
        ("rope.dimension_count", config.head_dim()),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
    ];
    for (key, size) in sizes {
        writer.put(&format!("{ARCHITECTURE}.{key}"), Value::U32(size as u32))?;
    }
    writer.put(
        &format!("{ARCHITECTURE}.attention.layer_norm_rms_epsilon"),
        Value::F32(config.rms_eps),
    )?;
    writer.put(&format!("{ARCHITECTURE}.rope.freq_base"), Value::F32(config.rope_base))
}

fn put_vocabulary_keys(
    writer: &mut GgufWriter,
    vocabulary: &Vocabulary,
) -> bitnet_formats::Result<()> {
    let tokens = vocabulary.printable_tokens();
    let kind = |id: usize| if id < vocabulary.begin() as usize { NORMAL } else { CONTROL };
    let kinds: Vec<i32> = (0..tokens.len()).map(kind).collect();
    writer.put("tokenizer.ggml.model", Value::String("gpt2"))?;
    writer.put("tokenizer.ggml.pre", Value::String("llama-bpe"))?;
    writer.put_strings("tokenizer.ggml.tokens", &tokens)?;
    writer.put_i32s("tokenizer.ggml.token_type", &kinds)?;
    writer.put_strings("tokenizer.ggml.merges", &vocabulary.printable_merges())?;
    writer.put("tokenizer.ggml.bos_token_id", Value::U32(vocabulary.begin()))?;
    writer.put("tokenizer.ggml.eos_token_id", Value::U32(vocabulary.end()))?;
    writer.put("tokenizer.ggml.eot_token_id", Value::U32(vocabulary.end_of_turn()))?;
    writer.put("tokenizer.ggml.add_bos_token", Value::Bool(true))
}

fn tensors(model: &Model, parameters: &[f32]) -> Result<Vec<Tensor>> {
    let (config, layout) = (&model.config, &model.layout);
    let embedding = Tensor {
        name: "token_embd.weight".to_owned(),
        dims: vec![config.hidden_size as u64, config.vocab_size as u64],
        ggml_type: GgmlType::F16,
        bytes: parameters[layout.embedding.clone()]
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
    };
    let gain = |name: String, values: &[f32]| Tensor {
        name,
        dims: vec![values.len() as u64],
        ggml_type: GgmlType::F32,
        bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let mut tensors = vec![embedding];
    for (index, layer) in layout.layers.iter().enumerate() {
        for (name, range) in layer.norms() {
            tensors.push(gain(format!("blk.{index}.{name}.weight"), &parameters[range]));
        }
        for (name, range) in layer.ternary() {
            let columns = if name == "ffn_down" { config.feed_forward } else { config.hidden_size };
            let (trits, scale) = ternary_matrix(&parameters[range]);
            let rows = trits.len() / columns;
            let matrix = TernaryMatrix::from_trits(
                rows,
                columns,
                &trits,
                ScaleGranularity::Tensor,
                vec![scale],
            );
            let bytes = i2_s::encode(&matrix.map_err(failed)?, I2sLayout::X86).map_err(failed)?;
            let name = format!("blk.{index}.{name}.weight");
            tensors.push(Tensor {
                name,
                dims: vec![columns as u64, rows as u64],
                ggml_type: GgmlType::I2S,
                bytes,
            });
        }
    }
    tensors.push(gain("output_norm.weight".to_owned(), &parameters[layout.output_norm.clone()]));
    Ok(tensors)
}
