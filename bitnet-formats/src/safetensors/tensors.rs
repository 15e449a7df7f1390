//! Loads pool tensors from safetensors files and writes them.
//!
//! The format has no elements below one byte. A tensor of packed elements is written as one-dimensional `U8`; the
//! `__metadata__` key `bitnet.packed` stores its type and shape:
//!
//! ```text
//! {"NAME": {"dtype": "I2", "shape": [3, 5]}, ...}
//! ```
//!
//! `dtype` is `I4`, `I2`, `I1` or `BITNET158`, in the layout of [`BitNetDType`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::device::Device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, ExternalBytes, TensorMetadata};
use serde::{Deserialize, Serialize};

use super::dtype::Dtype;
use super::numbers::as_f32;
use super::writer::{TensorSpec, write};
use super::{SafeTensors, TensorView};
use crate::error::{Error, Result, shown, shown_path};
use crate::mmap::Region;

/// The key of `__metadata__` with the types and shapes of packed tensors.
const PACKED: &str = "bitnet.packed";

/// The type and shape of a packed tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    dtype: String,
    shape: Vec<usize>,
}

/// Writes named, contiguous tensors to a safetensors file atomically. `metadata` becomes part of
/// `__metadata__`.
///
/// # Errors
/// Those of [`write`](fn@super::write); [`Error::Memory`] for a strided view;
/// [`Error::Key`] if `metadata` has the key `bitnet.packed`.
pub fn write_tensors(
    path: &Path,
    tensors: &[(&str, &BitNetTensor)],
    metadata: &[(String, String)],
) -> Result<()> {
    let file = shown_path(path);
    let mut specs = Vec::with_capacity(tensors.len());
    let mut packed = BTreeMap::new();
    for &(name, tensor) in tensors {
        let bytes = tensor.bytes()?.len();
        let (dtype, shape) = match SHARED.iter().find(|(dtype, _)| *dtype == tensor.dtype()) {
            Some(&(_, dtype)) => (dtype, tensor.shape().to_vec()),
            None => {
                let dtype = packed_name(tensor.dtype()).to_owned();
                packed.insert(name, Packed { dtype, shape: tensor.shape().to_vec() });
                (Dtype::U8, vec![bytes])
            }
        };
        specs.push(TensorSpec { name: name.to_owned(), dtype, shape });
    }
    let mut metadata = metadata.to_vec();
    if metadata.iter().any(|(key, _)| key == PACKED) {
        return Err(Error::key(&file, PACKED, 0, "it is reserved for what this program writes"));
    }
    if !packed.is_empty() {
        let text = serde_json::to_string(&packed)
            .map_err(|error| Error::key(&file, PACKED, 0, error.to_string()))?;
        metadata.push((PACKED.to_owned(), text));
    }
    let by_name: BTreeMap<&str, &BitNetTensor> = tensors.iter().copied().collect();
    write(path, &specs, &metadata, |spec, sink| {
        let Some(tensor) = by_name.get(spec.name.as_str()) else { return Ok(()) };
        let bytes = tensor.bytes().map_err(std::io::Error::other)?;
        if cfg!(target_endian = "little") || spec.dtype.size() == 1 {
            return sink.write_all(bytes);
        }
        bytes.chunks_exact(spec.dtype.size()).try_for_each(|element| {
            let turned: Vec<u8> = element.iter().rev().copied().collect();
            sink.write_all(&turned)
        })
    })
}

impl SafeTensors {
    /// Copies a tensor to the pool.
    ///
    /// F32, F16, BF16, I8 and packed elements written by [`write_tensors`] keep their type. All others (BOOL as 0 and
    /// 1) are converted to f32 if every number is exact.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::Tensor`] for a number that f32 cannot represent; [`Error::Key`] for an
    /// invalid description of packed elements; [`Error::Memory`] if the pool is full; and those of
    /// [`SafeTensors::check`].
    pub fn load(&self, name: &str, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let view = self.tensor(name)?;
        let tensor = match self.native(&view)? {
            Some(metadata) => {
                let mut tensor = BitNetTensor::new(metadata, pool)?;
                let bytes = tensor.bytes_mut()?;
                bytes.copy_from_slice(&view.data);
                if cfg!(target_endian = "big") && view.dtype.size() > 1 {
                    bytes.chunks_exact_mut(view.dtype.size()).for_each(<[u8]>::reverse);
                }
                tensor
            }
            None => self.converted(&view, pool)?,
        };
        view.data.check()?;
        Ok(tensor)
    }

    /// Returns a tensor over the bytes of the file, without copying. [`BitNetTensor::check`] checks that the file has
    /// not changed.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::UnsupportedType`] for a type without a tensor type;
    /// [`Error::Key`] as for [`SafeTensors::load`].
    pub fn mapped(&self, name: &str) -> Result<BitNetTensor> {
        let view = self.tensor(name)?;
        let usable = cfg!(target_endian = "little") || view.dtype.size() == 1;
        let Some(metadata) = self.native(&view)?.filter(|_| usable) else {
            return Err(Error::UnsupportedType {
                file: self.name.clone(),
                tensor: shown(name),
                type_name: format!("a tensor over bytes of type {}", view.dtype),
                offset: view.data.offset(),
                advice: "load it into a pool instead",
            });
        };
        Ok(BitNetTensor::from_external(metadata, Arc::new(view.data))?)
    }

    /// Returns the tensor type that needs no conversion, if any.
    fn native(&self, view: &TensorView) -> Result<Option<TensorMetadata>> {
        let shared = SHARED.iter().find(|(_, dtype)| *dtype == view.dtype);
        let described = match shared {
            Some(&(dtype, _)) => Some((dtype, view.shape.clone())),
            None if view.dtype == Dtype::U8 => self.packed(view)?,
            None => None,
        };
        Ok(described.map(|(dtype, shape)| TensorMetadata::row_major(&shape, dtype, Device::Cpu)))
    }

    /// Returns type and shape of packed elements; `None` for plain bytes.
    fn packed(&self, view: &TensorView) -> Result<Option<(BitNetDType, Vec<usize>)>> {
        let Some((_, text)) = self.metadata().iter().find(|(key, _)| key == PACKED) else {
            return Ok(None);
        };
        let wrong = |problem: String| Error::key(&self.name, PACKED, 8, problem);
        let mut all: BTreeMap<String, Packed> =
            serde_json::from_str(text).map_err(|error| wrong(shown(&error.to_string())))?;
        let Some(Packed { dtype, shape }) = all.remove(&view.name) else { return Ok(None) };
        let dtype = PACKED_TYPES
            .into_iter()
            .find(|&one| packed_name(one) == dtype)
            .ok_or_else(|| wrong(format!("the type \"{}\" is unknown", shown(&dtype))))?;
        let needed = TensorMetadata::row_major(&shape, dtype, Device::Cpu)
            .elements()
            .and_then(|elements| dtype.bytes_for(elements))
            .map_err(|_| wrong("a shape is too large".to_owned()))?;
        if needed != view.data.len() || shape.len() > super::describe::DIMS_LIMIT {
            let (name, len) = (shown(&view.name), view.data.len());
            return Err(wrong(format!(
                "tensor \"{name}\" would take {needed} bytes and has {len}"
            )));
        }
        Ok(Some((dtype, shape)))
    }

    /// Converts a tensor to f32.
    fn converted(&self, view: &TensorView, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let mut tensor = BitNetTensor::zeros(&view.shape, pool)?;
        let elements = view.data.chunks_exact(view.dtype.size());
        for ((at, out), element) in tensor.f32_mut()?.iter_mut().enumerate().zip(elements) {
            *out = as_f32(view.dtype, element).ok_or_else(|| {
                let offset = view.data.offset() + (at * view.dtype.size()) as u64;
                let problem = format!("element {at} of type {} is no number of f32", view.dtype);
                Error::tensor(&self.name, &view.name, "data", offset, problem)
            })?;
        }
        Ok(tensor)
    }
}

impl ExternalBytes for Region {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn check(&self) -> bitnet_core::Result<()> {
        self.file().check_map()
    }

    fn check_readable(&self) -> bitnet_core::Result<()> {
        self.file().check_length()
    }
}

const PACKED_TYPES: [BitNetDType; 4] =
    [BitNetDType::I4, BitNetDType::I2, BitNetDType::I1, BitNetDType::BitNet158];

fn packed_name(dtype: BitNetDType) -> &'static str {
    match dtype {
        BitNetDType::I4 => "I4",
        BitNetDType::I2 => "I2",
        BitNetDType::I1 => "I1",
        _ => "BITNET158",
    }
}

/// The types that tensors and files share.
const SHARED: [(BitNetDType, Dtype); 4] = [
    (BitNetDType::F32, Dtype::F32),
    (BitNetDType::F16, Dtype::F16),
    (BitNetDType::BF16, Dtype::Bf16),
    (BitNetDType::I8, Dtype::I8),
];
