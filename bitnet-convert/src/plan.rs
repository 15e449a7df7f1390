//! The plan: every stored tensor with its type and position, and how it is computed from the source.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::PlainType;
use bitnet_formats::gguf::GgmlType;
use bitnet_formats::names::Role;
use bitnet_formats::safetensors::Dtype;
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{
    Container, NormForm, StoredBytes, StoredType, ggml_type_of, gguf_input_precision, has_own_form,
};
use bitnet_inference::models::WeightRotations;
use bitnet_quant::codec::TernaryStorage;
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::mlx;

use crate::adapter::Adapter;
use crate::choose::Chooser;
use crate::options::{ConvertOptions, Target};
use crate::order::{Order, Orders};
use crate::tensors::{self, Kind, ModelTensor, dtype_of, same_storage};
use crate::{Error, Result, Storage};

/// Bytes of the source per step, for tensors with independent rows.
const CHUNK: usize = 16 << 20;

/// The container's type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartType {
    Ggml(GgmlType),
    Safetensors(Dtype),
}

impl PartType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ggml(ggml_type) => ggml_type.name(),
            Self::Safetensors(dtype) => dtype.name(),
        }
    }
}

/// A tensor of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// The slowest dimension first.
    pub(crate) shape: Vec<usize>,
    pub(crate) part_type: PartType,
    pub(crate) nbytes: u64,
    /// Its file and offset.
    pub(crate) file: usize,
    pub(crate) offset: u64,
}

/// A method of computing stored tensors; numbers are indices of [`Plan::parts`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Recipe {
    /// A vector of plain numbers.
    Vector { part: usize, dense: DenseType },
    /// An exact copy of the source's bytes.
    Copy { part: usize, bytes: Range<usize> },
    /// Dense rows at their offsets in the part.
    Dense { part: usize, dense: DenseType, rows: Range<usize> },
    /// Trits; with `scale`, their scale is stored there and the embedded scale is 1.
    Ternary { part: usize, storage: TernaryStorage, scale: Option<usize> },
    /// Trits in MLX's format: codes, a scale and a bias of `scale_type` per group, and the signs of rotated inputs.
    Affine {
        part: usize,
        scales: usize,
        biases: usize,
        signs: Option<usize>,
        scale_type: DenseType,
        group: usize,
    },
    /// Trits in Hugging Face's packed format, with their scale or its inverse as `scale_type`.
    Packed { part: usize, scale: usize, scale_type: DenseType, multiply: bool },
}

impl Recipe {
    /// Returns the stored tensor of the weights.
    pub(crate) fn part(&self) -> usize {
        match *self {
            Self::Vector { part, .. }
            | Self::Copy { part, .. }
            | Self::Dense { part, .. }
            | Self::Ternary { part, .. }
            | Self::Affine { part, .. }
            | Self::Packed { part, .. } => part,
        }
    }

    /// Returns every stored tensor that it writes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = usize> {
        let others = match *self {
            Self::Ternary { scale, .. } => [scale, None, None],
            Self::Packed { scale, .. } => [Some(scale), None, None],
            Self::Affine { scales, biases, signs, .. } => [Some(scales), Some(biases), signs],
            _ => [None, None, None],
        };
        std::iter::once(self.part()).chain(others.into_iter().flatten())
    }
}

/// One step of the conversion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Work {
    pub(crate) tensor: ModelTensor,
    pub(crate) recipe: Recipe,
    /// Bytes of the source.
    pub(crate) source_bytes: u64,
}

/// A file of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedFile {
    /// Its name in the output's folder.
    pub(crate) name: String,
    /// The header.
    pub(crate) header: Vec<u8>,
    pub(crate) len: u64,
}

/// The whole plan.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// The order of components.
    pub(crate) orders: Orders,
    /// The activation precision of ternary layers; `None` if there are none.
    pub(crate) precision: Option<ActivationPrecision>,
    pub(crate) parts: Vec<Part>,
    pub(crate) works: Vec<Work>,
    /// The adapters to merge.
    pub(crate) adapters: Vec<Arc<Adapter>>,
    /// Warnings about changes of the model.
    pub(crate) remarks: Vec<String>,
}

impl Plan {
    /// Assigns parts to files in order, with at most `limit` bytes per file; without a limit, to one file. Returns the
    /// number of files. A part larger than the limit gets its own file.
    pub(crate) fn share_out(&mut self, limit: Option<u64>) -> usize {
        let (mut file, mut held) = (0, 0);
        for part in &mut self.parts {
            if limit.is_some_and(|limit| held > 0 && held + part.nbytes > limit) {
                (file, held) = (file + 1, 0);
            }
            part.file = file;
            held += part.nbytes;
        }
        file + 1
    }

    /// Returns the parts of one file, in order.
    pub(crate) fn in_file(&self, file: usize) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.file == file)
    }

    /// Sets the offsets of the parts of one file.
    pub(crate) fn place(&mut self, file: usize, offsets: &[u64]) {
        let parts = self.parts.iter_mut().filter(|part| part.file == file);
        parts.zip(offsets).for_each(|(part, offset)| part.offset = *offset);
    }
}

/// How a folder of safetensors holds norms; `None` for other files.
fn norms_of(files: &ModelFiles) -> Option<NormForm> {
    match files.container() {
        Container::HuggingFace { norms, .. } => Some(norms),
        Container::Gguf(_) | Container::Onnx { .. } => None,
    }
}

/// Returns the type of a storage in GGUF files.
fn ggml_type(tensor: &str, storage: Storage) -> Result<GgmlType> {
    let unknown = || Error::refused(format!("tensor {tensor}"), "GGUF has no type for its storage");
    ggml_type_of(storage).ok_or_else(unknown)
}

/// Collects parts and steps.
pub(crate) struct Planner<'a> {
    pub(crate) files: &'a ModelFiles,
    pub(crate) options: &'a ConvertOptions,
    chooser: Chooser<'a>,
    pub(crate) plan: Plan,
}

impl<'a> Planner<'a> {
    /// Plans every tensor of the model.
    pub(crate) fn plan(
        files: &'a ModelFiles,
        options: &'a ConvertOptions,
        target: Target,
        names: &dyn Fn(&ModelTensor) -> Result<String>,
        scale_beside: bool,
    ) -> Result<Plan> {
        let mut all = tensors::of(files)?;
        let chooser = Chooser::new(files, options, target, &all)?;
        let (parts, works) = (Vec::new(), Vec::new());
        let precision = chooser.precision();
        let remarks = chooser.remarks();
        let adapters = options
            .adapters
            .iter()
            .map(|(folder, weight)| Adapter::open(folder, *weight, &all).map(Arc::new))
            .collect::<Result<Vec<_>>>()?;
        let orders = Orders::of_target(target, files.config());
        let plan = Plan { target, orders, precision, parts, works, adapters, remarks };
        let mut planner = Self { files, options, chooser, plan };
        if target == Target::Gguf {
            all.extend(tensors::rope_factors(files.config()));
        }
        for tensor in &all {
            planner.add(tensor, names(tensor)?, scale_beside)?;
        }
        Ok(planner.plan)
    }

    fn stored(&self, tensor: &ModelTensor) -> Result<StoredBytes> {
        let stem = tensor.stem();
        self.files.stored_bytes(&stem)?.ok_or_else(|| self.files.missing(&stem).into())
    }

    fn add(&mut self, tensor: &ModelTensor, name: String, scale_beside: bool) -> Result<()> {
        if tensors::is_rope_factors(tensor.name.role) {
            let dense = DenseType::F32;
            let part = self.part(name, vec![tensor.cols], Storage::Dense(dense), 1, tensor.cols)?;
            self.work(tensor, Recipe::Vector { part, dense }, 0);
            return Ok(());
        }
        let stored = self.stored(tensor)?;
        let source_bytes = stored.region.len() as u64;
        let is_folder = self.plan.target != Target::Gguf;
        let table = self.files.config().architecture.table();
        let has_form = |norms| has_own_form(table, tensor.name, norms);
        let is_own = is_folder && has_form(self.plan.target.norms());
        let was_own = norms_of(self.files).map(has_form);
        if tensor.kind == Kind::Vector && is_own && was_own == Some(true) {
            // Its numbers go through another form when they are read, and stay as they are.
            let StoredType::Safetensors(dtype) = stored.storage else {
                return Err(Error::refused(&name, "it is not of a type of safetensors"));
            };
            let (part_type, nbytes) = (PartType::Safetensors(dtype), source_bytes);
            let shape = vec![tensor.cols];
            let part = self.push(Part { name, shape, part_type, nbytes, file: 0, offset: 0 });
            let recipe = Recipe::Copy { part, bytes: 0..stored.region.len() };
            self.work(tensor, recipe, source_bytes);
            return Ok(());
        }
        if tensor.kind == Kind::Vector {
            // Numbers that change their form need not be exact in a short type.
            let dense = match was_own {
                Some(was_own) if is_folder && was_own != is_own => DenseType::F32,
                _ => self.vector_type(&stored),
            };
            let part = self.part(name, vec![tensor.cols], Storage::Dense(dense), 1, tensor.cols)?;
            self.work(tensor, Recipe::Vector { part, dense }, source_bytes);
            return Ok(());
        }
        let storage = self.chooser.storage(tensor, &stored)?;
        self.plan.remarks.extend(self.chooser.fallback(tensor, &stored));
        let (rows, cols) = (tensor.rows, tensor.cols);
        let dims = match tensor.name.role {
            // A convolution of single channels has a dimension of 1 between.
            Role::DeltaConv if self.plan.target == Target::Mlx => vec![rows, cols, 1],
            Role::DeltaConv if is_folder => vec![rows, 1, cols],
            _ => self.files.config().dims(tensor.name, [rows, cols]),
        };
        match storage {
            Storage::Ternary(ternary) if self.plan.target == Target::Gguf => {
                self.precision_stays(tensor, &name, storage)?;
                if tensor.name.role.is_stacked() && !ternary.is_by_rows() {
                    let problem = "its blocks are not those of single rows, and each expert is read by itself: choose \
                                   another --type";
                    return Err(Error::refused(format!("tensor {name} as {storage}"), problem));
                }
                let part = self.part(name.clone(), dims, storage, rows, cols)?;
                let scale = if scale_beside && storage.has_f16_scales() {
                    let stem = name.strip_suffix(".weight").unwrap_or(&name);
                    let storage = Storage::Dense(DenseType::F32);
                    Some(self.part(format!("{stem}.scale"), vec![1], storage, 1, 1)?)
                } else {
                    None
                };
                let recipe = Recipe::Ternary { part, storage: ternary, scale };
                self.work(tensor, recipe, source_bytes);
            }
            Storage::Ternary(TernaryStorage::Q2_0 { block }) if self.plan.target == Target::Mlx => {
                self.affine(tensor, &name, block, &stored)?;
            }
            Storage::Ternary(_) => {
                self.packed(tensor, name, &stored)?;
            }
            Storage::Dense(dense) => {
                if self.plan.target == Target::Gguf && tensor.kind == Kind::Linear {
                    self.precision_stays(tensor, &name, storage)?;
                }
                let part = self.part(name, dims, storage, rows, cols)?;
                self.rows(tensor, part, dense, &stored)?;
            }
        }
        Ok(())
    }

    /// Plans a dense matrix in pieces: copied if unchanged, else decoded and encoded.
    fn rows(
        &mut self,
        tensor: &ModelTensor,
        part: usize,
        dense: DenseType,
        stored: &StoredBytes,
    ) -> Result<()> {
        let (bytes, same) = (stored.region.len(), same_storage(stored.storage));
        let config = self.files.config();
        let moved = Order::of(tensor, config, Orders::of_model(config), self.plan.orders);
        let adapted = self.plan.adapters.iter().any(|adapter| adapter.adapts(tensor));
        // A separate scale is multiplied into the numbers.
        let scaled = self.files.stored_names(&tensor.stem()).len() > 1;
        if same == Some(Storage::Dense(dense)) && moved.is_none() && !adapted && !scaled {
            for start in (0..bytes).step_by(CHUNK) {
                let bytes = start..bytes.min(start + CHUNK);
                let source_bytes = bytes.len() as u64;
                self.work(tensor, Recipe::Copy { part, bytes }, source_bytes);
            }
            return Ok(());
        }
        // Tensors that are decoded to trits first are decoded in one step.
        let step = if same.is_some_and(|same| matches!(same, Storage::Dense(_))) {
            (CHUNK / (bytes / tensor.rows).max(1)).max(1)
        } else {
            tensor.rows
        };
        for start in (0..tensor.rows).step_by(step) {
            let rows = start..tensor.rows.min(start + step);
            let source_bytes = (bytes / tensor.rows * rows.len()) as u64;
            self.work(tensor, Recipe::Dense { part, dense, rows }, source_bytes);
        }
        Ok(())
    }

    /// Plans a packed layer of a Hugging Face folder, with its scale.
    fn packed(&mut self, tensor: &ModelTensor, name: String, stored: &StoredBytes) -> Result<()> {
        let (rows, cols) = (tensor.rows, tensor.cols);
        let nbytes = bitnet_quant::codec::hf_packed::size(rows, cols)
            .map_err(|source| Error::tensor(&name, "packed U8", source))?;
        let part = self.push(Part {
            name: name.clone(),
            shape: vec![rows.div_ceil(4), cols],
            part_type: PartType::Safetensors(Dtype::U8),
            nbytes: nbytes as u64,
            file: 0,
            offset: 0,
        });
        let (multiply, scale_type) = self.chooser.scale_form(tensor)?;
        let storage = Storage::Dense(scale_type);
        let scale = self.part(format!("{name}_scale"), vec![1], storage, 1, 1)?;
        let recipe = Recipe::Packed { part, scale, scale_type, multiply };
        self.work(tensor, recipe, stored.region.len() as u64);
        Ok(())
    }

    /// Plans a layer of an MLX folder: codes, scales and biases.
    fn affine(
        &mut self,
        tensor: &ModelTensor,
        name: &str,
        group: usize,
        stored: &StoredBytes,
    ) -> Result<()> {
        let (rows, cols) = (tensor.rows, tensor.cols);
        // Half-precision scales keep their type; others are stored as f32.
        let half = same_storage(stored.storage).is_some_and(Storage::has_f16_scales);
        let scale_type = if half { DenseType::F16 } else { DenseType::F32 };
        let plain = scale_type.plain().unwrap_or(PlainType::F32);
        let (nbytes, _) = mlx::sizes(rows, cols, group, plain)
            .map_err(|source| Error::tensor(name, mlx::FORMAT, source))?;
        let part = self.push(Part {
            name: name.to_owned(),
            shape: vec![rows, cols / 16],
            part_type: PartType::Safetensors(Dtype::U32),
            nbytes: nbytes as u64,
            file: 0,
            offset: 0,
        });
        let stem = name.strip_suffix(".weight").unwrap_or(name).to_owned();
        let (shape, storage) = (vec![rows, cols / group], Storage::Dense(scale_type));
        let scales =
            self.part(format!("{stem}.scales"), shape.clone(), storage, rows, cols / group)?;
        let biases = self.part(format!("{stem}.biases"), shape, storage, rows, cols / group)?;
        let is_rotated = |found: &&WeightRotations| found.of(tensor.name).is_some();
        let rotated = self.files.config().rotations.as_deref().filter(is_rotated).is_some();
        let signs = match rotated {
            true => {
                let storage = Storage::Dense(DenseType::F32);
                Some(self.part(format!("{stem}.signs"), vec![cols], storage, 1, cols)?)
            }
            false => None,
        };
        let recipe = Recipe::Affine { part, scales, biases, signs, scale_type, group };
        self.work(tensor, recipe, stored.region.len() as u64);
        Ok(())
    }

    /// Plans a vector of plain numbers: f32 in GGUF files, the source's type in folders.
    fn vector_type(&self, stored: &StoredBytes) -> DenseType {
        match (self.plan.target, same_storage(stored.storage)) {
            (Target::HuggingFace | Target::Dense | Target::Mlx, Some(Storage::Dense(dense)))
                if dense.plain().is_some() =>
            {
                dense
            }
            _ => DenseType::F32,
        }
    }

    /// Rejects a storage type for which readers would use another activation precision than the source.
    fn precision_stays(&self, tensor: &ModelTensor, name: &str, storage: Storage) -> Result<()> {
        if tensor.kind != Kind::Linear {
            return Ok(());
        }
        let Some(meant) = self.plan.precision else { return Ok(()) };
        if self.files.is_kept_dense(&tensor.stem()) {
            return Ok(());
        }
        let forced = self.options.load.activations;
        let architecture = self.files.config().architecture;
        let read = gguf_input_precision(architecture, ggml_type(name, storage)?);
        if forced.is_some() || read == meant {
            return Ok(());
        }
        let shown = |precision| match precision {
            ActivationPrecision::Int8 => "8 bits per token",
            ActivationPrecision::Int8Within(_) => "8 bits with a static range",
            ActivationPrecision::Float => "no quantisation",
        };
        Err(Error::refused(
            format!("tensor {name} as {storage}"),
            format!(
                "the source's layers take {} as inputs, a {architecture} file of this type is read as taking {}; \
                 choose another --type, write a folder (--to hf), or say --activations to overrule it when the file is run",
                shown(meant),
                shown(read)
            ),
        ))
    }

    fn part(
        &mut self,
        name: String,
        shape: Vec<usize>,
        storage: Storage,
        rows: usize,
        cols: usize,
    ) -> Result<usize> {
        let nbytes = storage
            .size(rows, cols)
            .map_err(|source| Error::tensor(&name, storage.name(), source))?;
        let part_type = match self.plan.target {
            Target::Gguf => PartType::Ggml(ggml_type(&name, storage)?),
            Target::HuggingFace | Target::Dense | Target::Mlx => {
                PartType::Safetensors(dtype_of(storage).ok_or_else(|| {
                    Error::refused(
                        format!("tensor {name} as {storage}"),
                        "safetensors holds F32, F16 and BF16; choose one of them, or a .gguf file",
                    )
                })?)
            }
        };
        Ok(self.push(Part { name, shape, part_type, nbytes: nbytes as u64, file: 0, offset: 0 }))
    }

    fn push(&mut self, part: Part) -> usize {
        self.plan.parts.push(part);
        self.plan.parts.len() - 1
    }

    fn work(&mut self, tensor: &ModelTensor, recipe: Recipe, source_bytes: u64) {
        self.plan.works.push(Work { tensor: *tensor, recipe, source_bytes });
    }
}
