//! Linear layers of a Hugging Face folder: packed, with MLX's codes, or as ordinary numbers.

use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_formats::names::TensorName;
use bitnet_formats::safetensors::{Dtype, TensorView};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::hf_packed;
use bitnet_quant::codec::mlx;
use bitnet_quant::codec::mlx::MlxTensors;
use bitnet_quant::weights::{absmean, detect_ternary};

use super::huggingface::HfCheckpoint;
use super::mapped_rows::{MappedRows, finite_row};
use super::quantization::Quantization;
use super::{Checkpoint, RawNumbers, RawTensor, StoredLinear, StoredWeight};
use crate::{InferenceError, Result};

/// The type of ordinary numbers, if it is one.
fn dense_type(dtype: Dtype) -> Option<DenseType> {
    match dtype {
        Dtype::F32 => Some(DenseType::F32),
        Dtype::F16 => Some(DenseType::F16),
        Dtype::Bf16 => Some(DenseType::BF16),
        _ => None,
    }
}

impl HfCheckpoint {
    /// Every tensor, in file order.
    pub(super) fn every_tensor(&self) -> Vec<RawTensor> {
        let is_mlx = matches!(self.config.quantization, Quantization::Mlx { .. });
        let raw = |TensorView { name, dtype, shape, data }| {
            let cols = shape.last().copied().unwrap_or(1);
            let rows = shape.iter().product::<usize>() / cols.max(1);
            let numbers = match dense_type(dtype) {
                Some(dtype) if rows * cols > 0 => {
                    RawNumbers::Dense { dtype, rows, cols, region: data }
                }
                // MLX's codes, with scales and biases beside them.
                None if is_mlx && dtype == Dtype::U32 => RawNumbers::Ternary,
                _ => RawNumbers::Other,
            };
            RawTensor { name, numbers }
        };
        self.tensors.tensors().map(raw).collect()
    }

    /// A linear layer's weight as it is stored.
    pub(super) fn stored_linear(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        self.linear_of(name, tensor, [rows, cols], pool).map(Some)
    }

    /// The name of one expert's projection.
    pub(super) fn expert_name(&self, name: &str, expert: usize) -> String {
        self.name_in_file(name).replace(".experts.", &format!(".experts.{expert}."))
    }

    /// The weight of one expert, which has a tensor of its own.
    ///
    /// # Errors
    /// Those of [`Self::stored_linear`], and [`InferenceError::MissingTensor`].
    pub(super) fn linear_of_expert(
        &self,
        name: &str,
        expert: usize,
        shape: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<StoredLinear> {
        let own = self.expert_name(name, expert);
        let found = self.tensors.find(&own);
        let found = found.or_else(|| self.tensors.find(own.strip_prefix("model.")?));
        let (file, tensor) = (self.file().into(), own);
        let tensor = found.ok_or(InferenceError::MissingTensor { file, tensor })?;
        self.linear_of(name, tensor, shape, pool)
    }

    /// A linear layer's weight as it is stored in `tensor`.
    fn linear_of(
        &self,
        name: &str,
        tensor: TensorView,
        [rows, cols]: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<StoredLinear> {
        self.refuse_bias(name, &tensor)?;
        let is_kept_dense = self.is_kept_dense(name);
        let stored = |weight, default| StoredLinear {
            tensor: tensor.name.clone(),
            weight,
            // What is not quantised takes its inputs as they are.
            precision: if is_kept_dense { None } else { self.precision }.unwrap_or(default),
        };
        if is_kept_dense && matches!(tensor.dtype, Dtype::U8 | Dtype::U32) {
            let problem = format!("it names {}, which is packed in the file", tensor.name);
            return Err(self.bad("quantization_config.modules_to_not_convert", problem));
        }
        if tensor.dtype == Dtype::U8 {
            let Quantization::BitNet { multiply, .. } = self.config.quantization else {
                let problem = format!(
                    "missing, but {} is packed: without it the scale's direction is unknown; \
                     restore it from the original checkpoint",
                    tensor.name
                );
                return Err(self.bad("quantization_config", problem));
            };
            let matrix = self.packed(&tensor, rows, cols, multiply, pool)?;
            return Ok(stored(StoredWeight::Ternary(matrix), ActivationPrecision::Int8));
        }
        if tensor.dtype == Dtype::U32 {
            let weight = StoredWeight::Ternary(self.affine(&tensor, rows, cols, pool)?);
            return Ok(stored(weight, ActivationPrecision::Float));
        }
        if tensor.shape != [rows, cols] {
            return Err(self.shape_error(&tensor, &[rows, cols]));
        }
        let matrix = self.dense_matrix(&tensor, rows, cols)?;
        if is_kept_dense {
            let weight = StoredWeight::Dense { rows: matrix, latent: false, scale: None };
            return Ok(stored(weight, ActivationPrecision::Float));
        }
        if let Quantization::BitNet { online: false, multiply, .. } = self.config.quantization {
            let scale = self.scale_of_trits(name, &tensor, &*matrix, multiply, pool)?;
            let weight = StoredWeight::Dense { rows: matrix, latent: false, scale };
            return Ok(stored(weight, ActivationPrecision::Int8));
        }
        let is_online =
            matches!(self.config.quantization, Quantization::BitNet { online: true, .. });
        if is_online && self.holds_trits(&tensor, &*matrix, pool)? {
            // Online layers are quantised whatever they hold: the scale is the mean magnitude, zeros included.
            let trits = absmean(&*matrix, ScaleGranularity::Tensor, Some(pool));
            let trits =
                trits.map_err(|e| InferenceError::weights(self.tensors.name(), &tensor.name, e))?;
            return Ok(stored(StoredWeight::Ternary(trits), ActivationPrecision::Int8));
        }
        let native = self.config.model.architecture.table().native_ternary;
        let latent = native || matches!(self.config.quantization, Quantization::BitNet { .. });
        let default = if latent { ActivationPrecision::Int8 } else { ActivationPrecision::Float };
        Ok(stored(StoredWeight::Dense { rows: matrix, latent, scale: None }, default))
    }

    pub(super) fn dense_matrix(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
    ) -> Result<Arc<dyn DenseRows>> {
        let dense_type = dense_type(tensor.dtype).ok_or_else(|| {
            let (file, name) = (self.tensors.name(), &tensor.name);
            let what = format!("{file}: tensor {name} of type {}", tensor.dtype.name());
            let instead = "F32, F16 and BF16 are read here, and U8 for packed ternary layers";
            InferenceError::unsupported(what, instead)
        })?;
        let matrix = MappedRows::new(dense_type, rows, cols, tensor.data.clone())
            .map_err(|e| InferenceError::weights(self.tensors.name(), &tensor.name, e))?;
        Ok(Arc::new(matrix))
    }

    pub(super) fn numbers(&self, tensor: &TensorView, len: usize) -> Result<Vec<f32>> {
        let elements: usize = tensor.shape.iter().product();
        if elements != len {
            return Err(self.shape_error(tensor, &[len]));
        }
        let rows = self.dense_matrix(tensor, 1, len)?;
        finite_row(&*rows, self.tensors.name(), &tensor.name)
    }

    /// A packed layer: U8 codes with a scale whose direction the linear class decides.
    pub(super) fn packed(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
        multiply: bool,
        pool: &HybridMemoryPool,
    ) -> Result<TernaryMatrix> {
        if tensor.shape != [rows.div_ceil(4), cols] {
            return Err(self.shape_error(tensor, &[rows.div_ceil(4), cols]));
        }
        let scale = self.tensors.tensor(&format!("{}_scale", tensor.name))?;
        let scale = self.factor(&scale, multiply)?;
        let matrix = hf_packed::decode(&tensor.data, rows, cols, scale, Some(pool))
            .map_err(|e| InferenceError::weights(self.tensors.name(), &tensor.name, e))?;
        tensor.data.release();
        Ok(matrix)
    }

    pub(super) fn announces_input_norms(&self) -> bool {
        matches!(self.config.quantization, Quantization::BitNet { input_norm_eps: Some(_), .. })
    }

    /// Whether a scale beside the weight is read: with packed codes,
    /// and with trits that are stored as ordinary numbers.
    pub(super) fn has_scale_beside(&self, name: &str, dtype: Dtype) -> bool {
        let offline =
            matches!(self.config.quantization, Quantization::BitNet { online: false, .. });
        dtype == Dtype::U8 || offline && name.starts_with("blk.") && !self.is_kept_dense(name)
    }

    fn holds_trits(
        &self,
        tensor: &TensorView,
        rows: &dyn DenseRows,
        pool: &HybridMemoryPool,
    ) -> Result<bool> {
        let found = detect_ternary(rows, Some(pool));
        Ok(found
            .map_err(|e| InferenceError::weights(self.tensors.name(), &tensor.name, e))?
            .is_some())
    }

    /// The scale of a layer that was quantised before it was saved, but not packed.
    ///
    /// # Errors
    /// [`InferenceError::Config`] if its numbers are not ternary.
    pub(super) fn scale_of_trits(
        &self,
        name: &str,
        tensor: &TensorView,
        rows: &dyn DenseRows,
        multiply: bool,
        pool: &HybridMemoryPool,
    ) -> Result<Option<f32>> {
        if !self.holds_trits(tensor, rows, pool)? {
            let problem = format!(
                "offline, but {} is neither packed nor ternary; say \"online\" if it holds full-precision \
                 masters, or name the layer in modules_to_not_convert if it is to stay as it is",
                tensor.name
            );
            return Err(self.bad("quantization_config.quantization_mode", problem));
        }
        let scale_name = format!("{}_scale", tensor.name);
        let Some(scale) = self.tensors.find(&scale_name) else { return Ok(None) };
        debug_assert!(self.has_scale_beside(name, tensor.dtype));
        self.factor(&scale, multiply).map(Some)
    }

    /// What a stored scale multiplies weights by.
    fn factor(&self, scale: &TensorView, multiply: bool) -> Result<f32> {
        let stored = self.numbers(scale, 1)?[0];
        Ok(if multiply { stored } else { 1.0 / stored })
    }

    fn bad(&self, field: &str, problem: String) -> InferenceError {
        let file = self.folder.join("config.json").display().to_string();
        InferenceError::config(&file, field, problem)
    }

    /// Refuses a bias beside a layer that has none in this family: its author's program adds it.
    fn refuse_bias(&self, name: &str, tensor: &TensorView) -> Result<()> {
        let family = self.config.model.architecture;
        let role = TensorName::from_stem(name).map(|name| name.role);
        let has_bias = role.is_some_and(|role| family.table().biased.contains(&role));
        let Some(stem) = tensor.name.strip_suffix("weight").filter(|_| !has_bias) else {
            return Ok(());
        };
        match self.tensors.find(&format!("{stem}bias")) {
            None => Ok(()),
            Some(bias) => Err(InferenceError::unsupported(
                format!("the bias {}", bias.name),
                format!("layers of {family} models have no bias there"),
            )),
        }
    }

    /// A layer of MLX: U32 codes, with scales and biases beside them.
    pub(super) fn affine(
        &self,
        tensor: &TensorView,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<TernaryMatrix> {
        let Quantization::Mlx { group } = self.config.quantization else {
            let problem = format!("missing, but {} has codes of 2 bits", tensor.name);
            return Err(self.bad("quantization", problem));
        };
        let expected = [rows, cols.div_ceil(16)];
        if tensor.shape != expected {
            return Err(self.shape_error(tensor, &expected));
        }
        let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let beside = |name: &str| {
            let found = self.tensors.tensor(&format!("{stem}.{name}"))?;
            let expected = [rows, cols / group];
            let plain = match found.dtype {
                Dtype::F16 => PlainType::F16,
                Dtype::Bf16 => PlainType::BF16,
                Dtype::F32 => PlainType::F32,
                _ => return Err(self.shape_error(&found, &expected)),
            };
            if found.shape != expected {
                return Err(self.shape_error(&found, &expected));
            }
            Ok((plain, found.data))
        };
        let ((scale_type, scales), (bias_type, biases)) = (beside("scales")?, beside("biases")?);
        if scale_type != bias_type {
            let what = format!("{}: scales and biases of {stem} of two types", self.tensors.name());
            let instead = "MLX writes both in one type; the file is damaged";
            return Err(InferenceError::unsupported(what, instead));
        }
        let stored = MlxTensors { weight: tensor.data.clone(), scales, biases };
        let matrix = mlx::decode(&stored, scale_type, rows, cols, group, Some(pool))
            .map_err(|e| InferenceError::weights(self.tensors.name(), &tensor.name, e))?;
        tensor.data.release();
        Ok(matrix)
    }
}
