//! Selection of each tensor's storage type: the requested one, else a lossless one.

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::ternary::ScaleGranularity;
use bitnet_formats::names::Role;
use bitnet_formats::safetensors::Dtype;
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{
    Container, StoredBytes, StoredType, StoredWeight, ggml_type_of, gguf_input_precision,
};
use bitnet_quant::codec::TernaryStorage;
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::weights::detect_ternary;

use crate::options::{ConvertOptions, Target};
use crate::pattern;
use crate::tensors::{Kind, ModelTensor, dtype_of, same_storage};
use crate::{Error, Result, Storage};

/// The kind of the source's ternary layers, from the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layers {
    /// Trits with scales of this granularity.
    Ternary(ScaleGranularity),
    /// Full-precision masters, quantised by absmean.
    Masters,
    /// Dense numbers.
    Ordinary,
}

/// The storage type of a matrix whose shape the common type does not support.
const FALLBACK: Storage = Storage::Dense(DenseType::F16);

/// Whether a tensor holds codes of MLX or ONNX Runtime, which are trits.
fn is_affine(stored: &StoredBytes) -> bool {
    matches!(stored.storage, StoredType::Safetensors(Dtype::U32) | StoredType::Onnx(_, Some(_)))
}

/// Whether a tensor holds trits.
fn is_trits(stored: &StoredBytes) -> bool {
    is_affine(stored) || matches!(same_storage(stored.storage), Some(Storage::Ternary(_)))
}

/// Selects storage types.
pub(crate) struct Chooser<'a> {
    files: &'a ModelFiles,
    options: &'a ConvertOptions,
    target: Target,
    layers: Layers,
    precision: ActivationPrecision,
}

impl<'a> Chooser<'a> {
    /// Inspects the first ternary layer of the model.
    pub(crate) fn new(
        files: &'a ModelFiles,
        options: &'a ConvertOptions,
        target: Target,
        tensors: &[ModelTensor],
    ) -> Result<Self> {
        let linear = |tensor: &&ModelTensor| tensor.kind == Kind::Linear;
        let quantized =
            |tensor: &&ModelTensor| linear(tensor) && !files.is_kept_dense(&tensor.stem());
        let first = tensors.iter().find(quantized).or(tensors.iter().find(linear));
        let first = first.ok_or_else(|| Error::refused(files.name(), "the model has no layers"))?;
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
        let stem = first.stem();
        let stored = files
            .linear(&stem, first.rows, first.cols, &pool)?
            .ok_or_else(|| files.missing(&stem))?;
        let layers = match stored.weight {
            StoredWeight::Ternary(matrix) => Layers::Ternary(matrix.granularity()),
            StoredWeight::Dense { rows, latent, .. } => {
                let found = detect_ternary(&*rows, None)
                    .map_err(|source| Error::tensor(&stored.tensor, rows.type_name(), source))?;
                rows.release();
                match found {
                    Some(matrix) => Layers::Ternary(matrix.granularity()),
                    None if latent => Layers::Masters,
                    None => Layers::Ordinary,
                }
            }
        };
        Ok(Self { files, options, target, layers, precision: stored.precision })
    }

    /// Returns the activation precision of ternary layers; `None` if there are none.
    pub(crate) fn precision(&self) -> Option<ActivationPrecision> {
        (self.layers != Layers::Ordinary).then_some(self.precision)
    }

    /// Returns warnings about changes of the model.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut out = Vec::new();
        match self.layers {
            Layers::Masters => out.push(
                "ternary layers are stored as full-precision masters: absmean makes trits of them, as the model does \
                 when it runs"
                    .into(),
            ),
            Layers::Ordinary if self.options.quantize => out.push(
                "the layers are ordinary numbers that nobody trained to be ternary: the result will write worse, most \
                 likely nonsense"
                    .into(),
            ),
            Layers::Ordinary | Layers::Ternary(_) => {}
        }
        out
    }

    /// Returns the storage type of a matrix.
    pub(crate) fn storage(&self, tensor: &ModelTensor, stored: &StoredBytes) -> Result<Storage> {
        let stem = tensor.stem();
        let kept_dense = tensor.kind == Kind::Linear && self.files.is_kept_dense(&stem);
        let overridden = self.options.overrides.iter().rev();
        let named = overridden
            .filter(|(pattern, _)| pattern::matches(pattern, &stem))
            .map(|(_, storage)| *storage)
            .next();
        if kept_dense {
            // The type of ternary layers does not apply to layers that are dense on purpose.
            let all = self.options.linear.filter(|storage| matches!(storage, Storage::Dense(_)));
            return self.kept_dense(stored, named.or(all));
        }
        if let Some(storage) = named {
            return self.allowed(tensor, stored, storage);
        }
        let requested = match tensor.kind {
            Kind::Embedding => self.options.embedding,
            Kind::Head => self.options.head.or(self.options.embedding),
            Kind::Linear => self.options.linear,
            Kind::Vector | Kind::Plain => None,
        };
        let storage = match requested {
            Some(storage) => self.allowed(tensor, stored, storage)?,
            None if tensor.kind == Kind::Linear => self.natural(tensor, stored)?,
            None if self.stays_packed(tensor, stored) => match self.options.linear {
                Some(storage @ Storage::Ternary(_)) => self.allowed(tensor, stored, storage)?,
                _ => self.natural(tensor, stored)?,
            },
            // The only type that llama.cpp convolves with; a file of another type keeps it.
            None if tensor.name.role == Role::DeltaConv && self.target == Target::Gguf => {
                match stored.storage {
                    StoredType::Ggml(_) => self.as_stored(stored),
                    StoredType::Safetensors(_) | StoredType::Onnx(..) => {
                        Storage::Dense(DenseType::F32)
                    }
                }
            }
            None => self.as_stored(stored),
        };
        Ok(if self.rule_against(tensor, storage).is_some() { FALLBACK } else { storage })
    }

    /// Whether a table is stored as trits that the common rule for tables, its own type, does not keep as such.
    fn stays_packed(&self, tensor: &ModelTensor, stored: &StoredBytes) -> bool {
        let is_table = matches!(tensor.kind, Kind::Embedding | Kind::Head);
        let is_rotated = self.files.config().rotations.is_some();
        is_table
            && match self.target {
                Target::Gguf => is_affine(stored),
                Target::Mlx => is_rotated && is_trits(stored),
                Target::HuggingFace | Target::Dense => false,
            }
    }

    /// The reason why a matrix does not get the common type, if its shape does not support it.
    pub(crate) fn fallback(&self, tensor: &ModelTensor, stored: &StoredBytes) -> Option<String> {
        let stem = tensor.stem();
        let named = self.options.overrides.iter().any(|(name, _)| pattern::matches(name, &stem));
        if named || self.files.is_kept_dense(&stem) {
            return None;
        }
        let storage = match (tensor.kind, self.options.linear) {
            (Kind::Linear, Some(storage)) => storage,
            (Kind::Linear, None) => self.natural(tensor, stored).ok()?,
            (Kind::Embedding, _) => self.options.embedding?,
            (Kind::Head, _) => self.options.head.or(self.options.embedding)?,
            (Kind::Vector | Kind::Plain, _) => return None,
        };
        let rule = self.rule_against(tensor, storage)?;
        let (rows, cols) = (tensor.rows, tensor.cols);
        Some(format!(
            "tensor {} [{rows}, {cols}] is stored as {FALLBACK}, for {storage} does not hold its shape ({rule}); --tensor \
             gives it another type",
            stored.tensor
        ))
    }

    /// Returns the rule of a storage type that a matrix violates. Packed folders have no such rule.
    fn rule_against(&self, tensor: &ModelTensor, storage: Storage) -> Option<String> {
        let ternary = matches!(storage, Storage::Ternary(_));
        match self.target {
            Target::Gguf => {}
            Target::Mlx if ternary => {}
            Target::HuggingFace | Target::Dense | Target::Mlx => return None,
        }
        storage.size(tensor.rows, tensor.cols).err().map(|rule| rule.to_string())
    }

    /// Returns the storage type of a layer that the source excludes from quantisation.
    fn kept_dense(&self, stored: &StoredBytes, requested: Option<Storage>) -> Result<Storage> {
        let what = || format!("tensor {}", stored.tensor);
        if let Some(Storage::Ternary(_)) = requested {
            let problem = "modules_to_not_convert excludes it from quantisation; omit its type";
            return Err(Error::refused(what(), problem));
        }
        let is_bitnet = self.files.config().architecture.table().native_ternary;
        let online = match self.files.container() {
            Container::HuggingFace { packing: Some(packing), .. } => packing.online,
            _ => false,
        };
        let can_say = match self.target {
            Target::HuggingFace => true,
            // Only a folder of masters keeps quantization_config.
            Target::Dense => online,
            Target::Gguf | Target::Mlx => !is_bitnet,
        };
        if !can_say {
            let problem = "modules_to_not_convert keeps it as it is, and a reader of the result would make trits of it; \
                           use --to hf";
            return Err(Error::refused(what(), problem));
        }
        Ok(requested.unwrap_or_else(|| self.as_stored(stored)))
    }

    /// Returns the source's type, or f32 if the target does not support it.
    fn as_stored(&self, stored: &StoredBytes) -> Storage {
        let same = same_storage(stored.storage);
        let fits = |storage: &Storage| self.target == Target::Gguf || dtype_of(*storage).is_some();
        same.filter(fits).unwrap_or(Storage::Dense(DenseType::F32))
    }

    /// Rejects ternary quantisation of tensors that were not trained for it.
    fn allowed(
        &self,
        tensor: &ModelTensor,
        stored: &StoredBytes,
        storage: Storage,
    ) -> Result<Storage> {
        let Storage::Ternary(_) = storage else { return Ok(storage) };
        let what = || format!("tensor {} as {storage}", stored.tensor);
        if self.target == Target::Dense {
            let problem = "a dense folder holds no trits; use --to hf or a .gguf file";
            return Err(Error::refused(what(), problem));
        }
        // Trits of layers that draft tokens are found when they are encoded; other numbers are refused there.
        let drafts = tensor.kind == Kind::Plain
            && tensor.name.layer.is_some_and(|n| n as usize >= self.files.config().layers);
        if drafts && self.target == Target::Gguf {
            return Ok(storage);
        }
        if tensor.kind == Kind::Linear || self.target == Target::Mlx {
            if self.target == Target::Mlx
                && !matches!(storage, Storage::Ternary(TernaryStorage::Q2_0 { .. }))
            {
                let problem = "an MLX folder has one ternary type; omit the type";
                return Err(Error::refused(what(), problem));
            }
            if self.layers == Layers::Ordinary && !self.options.quantize {
                let problem = "its numbers were not trained to be ternary, and rounding them would ruin the model; \
                               --quantize does it all the same";
                return Err(Error::refused(what(), problem));
            }
            return Ok(storage);
        }
        if is_trits(stored) {
            return Ok(storage);
        }
        let problem =
            "a dense embedding table or head can't be made ternary; q8_0, q6_k and q4_0 are small";
        Err(Error::refused(what(), problem))
    }

    /// Returns the lossless storage type of a layer.
    fn natural(&self, tensor: &ModelTensor, stored: &StoredBytes) -> Result<Storage> {
        let granularity = match self.layers {
            Layers::Ordinary => return Ok(self.as_stored(stored)),
            Layers::Masters => ScaleGranularity::Tensor,
            Layers::Ternary(granularity) => granularity,
        };
        match self.target {
            Target::Dense => Ok(match self.as_stored(stored) {
                // Packed codes have no dense type.
                _ if same_storage(stored.storage).is_none() => Storage::Dense(DenseType::F32),
                storage => storage,
            }),
            Target::HuggingFace => self.packed(tensor, stored, granularity),
            Target::Mlx => self.affine(stored, granularity),
            Target::Gguf => self.in_gguf(tensor, stored, granularity),
        }
    }

    fn packed(
        &self,
        tensor: &ModelTensor,
        stored: &StoredBytes,
        granularity: ScaleGranularity,
    ) -> Result<Storage> {
        let what = || format!("tensor {}", stored.tensor);
        if granularity != ScaleGranularity::Tensor {
            let problem = "it has more than one scale, and a packed folder holds one for each tensor; use --to \
                           hf-dense, or a .gguf file of type q2_0";
            return Err(Error::refused(what(), problem));
        }
        if self.precision == ActivationPrecision::Float {
            let problem = "its layers take their inputs as they are, and a packed folder means inputs of 8 bits; use \
                           --to hf-dense, or a .gguf file of type q2_0";
            return Err(Error::refused(what(), problem));
        }
        debug_assert_eq!(tensor.kind, Kind::Linear);
        Ok(Storage::Ternary(TernaryStorage::I2S(I2sLayout::X86)))
    }

    /// MLX's storage type, with groups as fine as the source's scales.
    fn affine(&self, stored: &StoredBytes, granularity: ScaleGranularity) -> Result<Storage> {
        let what = || format!("tensor {}", stored.tensor);
        if self.files.config().architecture.table().native_ternary {
            let problem = "MLX's programs read this architecture from a packed folder; use --to hf";
            return Err(Error::refused(what(), problem));
        }
        if self.precision == ActivationPrecision::Int8 && self.options.load.activations.is_none() {
            let problem = "its layers take inputs of 8 bits, and MLX's programs leave inputs as they are; \
                           --activations float accepts that";
            return Err(Error::refused(what(), problem));
        }
        let block = match granularity {
            _ if self.files.config().rotations.is_some() => 128,
            ScaleGranularity::Tensor => 128,
            ScaleGranularity::Group(n) if n.is_multiple_of(128) => 128,
            ScaleGranularity::Row | ScaleGranularity::Group(_) => 64,
        };
        Ok(Storage::Ternary(TernaryStorage::Q2_0 { block }))
    }

    /// Returns the source's type, else the first type that supports shape and scales and that readers interpret like
    /// the source. Other layers may have finer scales than the first one,
    /// so for several scales the finest type comes first.
    fn in_gguf(
        &self,
        tensor: &ModelTensor,
        stored: &StoredBytes,
        granularity: ScaleGranularity,
    ) -> Result<Storage> {
        const I2_S: Storage = Storage::Ternary(TernaryStorage::I2S(I2sLayout::X86));
        const TQ2_0: Storage = Storage::Ternary(TernaryStorage::TQ2_0);
        const Q2_0: Storage = Storage::Ternary(TernaryStorage::Q2_0 { block: 64 });
        let own = same_storage(stored.storage);
        let own = own.filter(|storage| matches!(storage, Storage::Ternary(_)));
        let candidates: &[Storage] = match granularity {
            ScaleGranularity::Tensor => &[I2_S, TQ2_0, Q2_0],
            ScaleGranularity::Row | ScaleGranularity::Group(_) => &[Q2_0, TQ2_0],
        };
        let architecture = self.files.config().architecture;
        let fits = |storage: &Storage| {
            self.options.load.activations.is_some()
                || ggml_type_of(*storage).is_some_and(|ggml_type| {
                    gguf_input_precision(architecture, ggml_type) == self.precision
                })
        };
        let all = || own.into_iter().chain(candidates.iter().copied());
        let holds = |storage: &Storage| storage.size(tensor.rows, tensor.cols).is_ok();
        // A type that does not support the shape is replaced by a dense type.
        let found =
            all().find(|storage| fits(storage) && holds(storage)).or_else(|| all().find(fits));
        found.ok_or_else(|| {
            Error::refused(
                format!("tensor {}", stored.tensor),
                format!(
                    "no ternary type of GGUF has scales {granularity:?} and is read as this model's layers are; --type f16 \
                     stores ordinary numbers"
                ),
            )
        })
    }

    /// Returns whether a packed layer's scale multiplies, and its type:
    /// as in the source; the default is multiplying f32.
    pub(crate) fn scale_form(&self, tensor: &ModelTensor) -> Result<(bool, DenseType)> {
        let Container::HuggingFace { tensors, packing: Some(packing), .. } = self.files.container()
        else {
            return Ok((true, DenseType::F32));
        };
        let name = self.files.stored_bytes(&tensor.stem())?.map(|stored| stored.tensor);
        let scale = name.and_then(|name| tensors.find(&format!("{name}_scale")));
        let stored = scale.map(|scale| StoredType::Safetensors(scale.dtype));
        let dense = match stored.and_then(same_storage) {
            Some(Storage::Dense(dense)) => dense,
            _ => DenseType::F32,
        };
        Ok((packing.multiply, dense))
    }
}
