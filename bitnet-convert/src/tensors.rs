//! The tensors of a model, in file order.

use std::sync::Arc;

use bitnet_formats::names::{Part, Role, TensorName};
use bitnet_formats::safetensors::Dtype;
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{StoredType, storage_of};
use bitnet_inference::models::{self, ModelConfig, RopeScaling, TensorSpec};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::i2_s::I2sLayout;

use crate::{Result, Storage};

/// The kind of a tensor, for its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A norm's gain; never quantised.
    Vector,
    /// A convolution, a small projection of a recurrent layer, a router, or a matrix of a layer that drafts tokens; stays
    /// as it is.
    Plain,
    /// A ternary layer's weight.
    Linear,
    /// The embedding table.
    Embedding,
    /// The head.
    Head,
}

impl Kind {
    fn of(name: TensorName, layers: usize) -> Self {
        let drafts = name.layer.is_some_and(|layer| layer as usize >= layers);
        match name.role {
            Role::TokenEmbedding => Self::Embedding,
            Role::Output => Self::Head,
            role if drafts && role.is_projection() && name.part == Part::Weight => Self::Plain,
            Role::DeltaConv | Role::DeltaStep | Role::DeltaWrite | Role::Router
                if name.part == Part::Weight =>
            {
                Self::Plain
            }
            role if role.is_projection() && name.part == Part::Weight => Self::Linear,
            _ => Self::Vector,
        }
    }
}

/// A tensor of the model, `[rows, cols]`; a vector has one row, and a stack of matrices the rows of all, one matrix after
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelTensor {
    pub(crate) name: TensorName,
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl ModelTensor {
    /// Returns its name in checkpoints.
    pub(crate) fn stem(&self) -> String {
        self.name.stem()
    }
}

/// Returns all required tensors, and the optional ones that `files` has.
pub(crate) fn of(files: &ModelFiles) -> Result<Vec<ModelTensor>> {
    let mut out = Vec::new();
    let config = files.config();
    for TensorSpec { name, shape: [rows, cols], optional } in models::tensors(config) {
        let is_there = match name {
            _ if !optional => true,
            TensorName { role: Role::Output, .. } => {
                files.tied() != Some(true) && files.stored_bytes("output")?.is_some()
            }
            TensorName { part: Part::InputNorm, .. }
            | TensorName { role: Role::DraftOutputNorm, .. } => {
                files.vector(&name.stem(), cols)?.is_some()
            }
            _ => false,
        };
        if is_there {
            out.push(ModelTensor { name, kind: Kind::of(name, config.layers), rows, cols });
        }
    }
    Ok(out)
}

/// Whether a tensor holds factors of RoPE, which GGUF files store as tensors and folders as settings.
pub(crate) fn is_rope_factors(role: Role) -> bool {
    matches!(role, Role::RopeFrequencies | Role::RopeShortFactors | Role::RopeLongFactors)
}

/// Returns the factors of RoPE that a GGUF file of a model holds.
pub(crate) fn rope_factors(config: &ModelConfig) -> Vec<ModelTensor> {
    let len = |factors: &Arc<[f32]>| factors.len();
    let (short, long) = match &config.rope_scaling {
        RopeScaling::LongRope(scaling) => {
            (Some(scaling.short_factors.len()), scaling.long_factors.as_ref().map(len))
        }
        _ => (None, None),
    };
    let frequencies = config.frequency_factors().as_ref().map(len);
    let all = [
        (Role::RopeFrequencies, frequencies),
        (Role::RopeShortFactors, short),
        (Role::RopeLongFactors, long),
    ];
    let tensor = |(role, cols): (Role, Option<usize>)| {
        let name = TensorName::outside(role);
        Some(ModelTensor { name, kind: Kind::Vector, rows: 1, cols: cols? })
    };
    all.into_iter().filter_map(tensor).collect()
}

/// Returns the storage type for a source's type name, if it can be written.
pub(crate) fn same_storage(stored: StoredType) -> Option<Storage> {
    match stored {
        StoredType::Ggml(ggml_type) => storage_of(ggml_type, I2sLayout::X86),
        StoredType::Safetensors(dtype) => {
            let dense = [DenseType::F32, DenseType::F16, DenseType::BF16].map(Storage::Dense);
            dense.into_iter().find(|storage| dtype_of(*storage) == Some(dtype))
        }
        StoredType::Onnx(_, Some(_)) => None,
        StoredType::Onnx(data_type, None) => {
            data_type.plain().map(DenseType::from).map(Storage::Dense)
        }
    }
}

/// Returns the type of a storage in safetensors files, if it has one.
pub(crate) fn dtype_of(storage: Storage) -> Option<Dtype> {
    match storage {
        Storage::Dense(DenseType::F32) => Some(Dtype::F32),
        Storage::Dense(DenseType::F16) => Some(Dtype::F16),
        Storage::Dense(DenseType::BF16) => Some(Dtype::Bf16),
        _ => None,
    }
}
