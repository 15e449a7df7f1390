//! The writer of safetensors files: streamed data, atomic files.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

use super::dtype::Dtype;
use crate::atomic::{Exact, Layout, write_atomically};
use crate::error::{Error, Result, shown_path};

/// A tensor to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name, unique in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, the last dimension contiguous.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Returns its size in bytes; `None` on overflow.
    #[must_use]
    pub fn nbytes(&self) -> Option<u64> {
        let shape: Vec<u64> = self.shape.iter().map(|&dim| dim as u64).collect();
        self.dtype.nbytes(&shape)
    }
}

/// Writes a safetensors file atomically, through a temporary file in the same folder.
///
/// Tensors are sorted by descending element size, so that each is aligned to its type. `data` is called once per tensor
/// in that order and writes exactly its bytes, little-endian. `metadata`, if not empty, becomes `__metadata__`.
///
/// # Errors
/// [`Error::DuplicateTensor`], [`Error::Key`] for a duplicate key in `metadata`, [`Error::Io`] if writing or `data`
/// fails, [`Error::Tensor`] if `data` writes another number of bytes.
pub fn write(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &[(String, String)],
    mut data: impl FnMut(&TensorSpec, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let file = shown_path(path);
    let Layout { header, offsets, .. } = layout(&file, tensors, metadata)?;
    let mut order: Vec<(u64, &TensorSpec)> = offsets.into_iter().zip(tensors).collect();
    // Empty tensors have the offset of the next tensor.
    order.sort_by_key(|(offset, tensor)| (*offset, tensor.nbytes()));
    write_atomically(path, |sink| {
        sink.write_all(&header).map_err(|source| Error::io(&file, "write", source))?;
        for (offset, tensor) in order {
            let nbytes = size_of_tensor(&file, tensor)?;
            Exact::fill(&file, &tensor.name, (offset, nbytes), sink, |sink| data(tensor, sink))?;
        }
        Ok(())
    })
}

/// Returns the layout of a safetensors file, for writers that fill it out of order. Offsets are in the order of
/// `tensors`; the data is sorted by descending element size without gaps. Error messages call the file `file`.
///
/// # Errors
/// Same as [`write()`], except errors of writing.
pub fn layout(file: &str, tensors: &[TensorSpec], metadata: &[(String, String)]) -> Result<Layout> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(tensors[index].dtype.size()));
    let sorted: Vec<&TensorSpec> = order.iter().map(|&index| &tensors[index]).collect();
    let header = header(file, &sorted, metadata)?;
    let mut offsets = vec![0; tensors.len()];
    let mut offset = header.len() as u64;
    for &index in &order {
        offsets[index] = offset;
        // The header was built, so the sum fits.
        offset += size_of_tensor(file, &tensors[index])?;
    }
    Ok(Layout { header, offsets, len: offset })
}

/// Returns the length and the JSON text, padded with spaces to a multiple of 8.
fn header(file: &str, tensors: &[&TensorSpec], metadata: &[(String, String)]) -> Result<Vec<u8>> {
    let mut object = serde_json::Map::new();
    if !metadata.is_empty() {
        let mut notes = serde_json::Map::new();
        for (key, value) in metadata {
            if notes.insert(key.clone(), value.as_str().into()).is_some() {
                return Err(Error::key(file, key, 0, "it is a duplicate"));
            }
        }
        object.insert("__metadata__".to_owned(), notes.into());
    }
    let mut begin = 0_u64;
    let mut seen = HashSet::new();
    for tensor in tensors {
        if tensor.name == "__metadata__" {
            return Err(Error::tensor(file, &tensor.name, "name", 0, "the name is reserved"));
        }
        if !seen.insert(&tensor.name) {
            return Err(Error::duplicate_tensor(file, &tensor.name, 0));
        }
        let end = begin
            .checked_add(size_of_tensor(file, tensor)?)
            .ok_or_else(|| too_large(file, tensor))?;
        let description = serde_json::json!({
            "dtype": tensor.dtype.name(),
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        });
        object.insert(tensor.name.clone(), description);
        begin = end;
    }
    let mut text = serde_json::Value::Object(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

fn size_of_tensor(file: &str, tensor: &TensorSpec) -> Result<u64> {
    tensor.nbytes().ok_or_else(|| too_large(file, tensor))
}

fn too_large(file: &str, tensor: &TensorSpec) -> Error {
    Error::tensor(file, &tensor.name, "shape", 0, "the data exceeds 2^64 bytes")
}
