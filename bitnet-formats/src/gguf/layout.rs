//! Where the tensors of a GGUF file lie: sizes from types and dimensions, extents in the file, no gaps, no overlaps.

use std::ops::Range;

use super::types::{GgmlType, Id};
use crate::error::{Error, Result, shown};

/// One tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the model.
    pub name: String,
    /// Its dimensions in ggml order: `dims[0]` is contiguous, so a weight `[N, K]` of Hugging Face has `[K, N]` here.
    pub dims: Vec<u64>,
    /// How its values are stored.
    pub ggml_type: GgmlType,
    /// Where its data begins, in bytes from the beginning of its file.
    pub offset: u64,
    /// The length of its data in bytes.
    pub nbytes: u64,
    /// Which file of a split model holds it; 0 in a model of one file.
    pub shard: usize,
}

impl TensorInfo {
    /// The number of values.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // Cannot overflow: checked when the file was read.
        self.dims.iter().product()
    }
}

/// A tensor as the file describes it; the `*_offset` fields say where in the file.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    pub(super) dims_offset: u64,
    pub(super) id: StoredType,
    /// From the data's start.
    pub(super) offset: u64,
    pub(super) offset_offset: u64,
}

/// A type field, before sizes are known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredType {
    Settled(GgmlType),
    /// Id 42: 64- or 128-weight blocks.
    Q2_0,
}

impl StoredType {
    pub(super) fn read(id: u32, file: &str, tensor: &str, offset: u64) -> Result<Self> {
        let unsupported = |type_name: String, advice| {
            Err(Error::UnsupportedType {
                file: file.to_owned(),
                tensor: shown(tensor),
                type_name,
                offset,
                advice,
            })
        };
        match GgmlType::from_id(id) {
            Id::Known(known) => Ok(Self::Settled(known)),
            Id::Q2_0 => Ok(Self::Q2_0),
            Id::Unsupported { name, advice } => {
                unsupported(format!("type {name} (id {id})"), advice)
            }
            Id::Unknown => unsupported(
                format!("the unknown type id {id}"),
                "the file is newer than this program, or damaged: update the program, or convert the model to TQ2_0 or F16",
            ),
        }
    }
}

/// Gives every tensor its size and its place, and refuses what does not fit.
///
/// The data must be laid out as every writer does it: each tensor at the next multiple of `alignment` after the one
/// before it (in whatever order). A hole could hide anything and is refused, as llama.cpp does. Bytes behind the last
/// tensor's padding belong to nothing; their place is returned.
pub(super) fn place(
    file: &str,
    described: Vec<Described>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(Vec<TensorInfo>, Range<u64>)> {
    let mut order: Vec<usize> = (0..described.len()).collect();
    order.sort_by_key(|&index| described.get(index).map_or(0, |tensor| tensor.offset));
    let data_len = file_len.saturating_sub(data_start);
    let types = settle_types(file, &described, &order, alignment, data_len)?;

    let mut tensors = Vec::new();
    for (described, ggml_type) in described.into_iter().zip(types) {
        tensors.push(measure(file, described, ggml_type, data_start, alignment, file_len)?);
    }
    let end = check_neighbours(file, &tensors, &order, data_start, alignment, file_len)?;
    Ok((tensors, end.min(file_len)..file_len))
}

/// Size and absolute place of one tensor.
fn measure(
    file: &str,
    described: Described,
    ggml_type: GgmlType,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<TensorInfo> {
    let Described { name, dims, dims_offset, offset, offset_offset, .. } = described;
    let Some(nbytes) = ggml_type.nbytes(&dims) else {
        let (weights, _) = ggml_type.block();
        let whole = if ggml_type == GgmlType::I2S { "all its weights" } else { "a row" };
        let sets = match ggml_type.interleaved_rows() {
            1 => String::new(),
            rows => format!(", the rows one of {rows}"),
        };
        let problem = format!(
            "{dims:?} do not fit type {ggml_type}: {whole} must be a multiple of {weights}{sets}, and the size below 2^64"
        );
        return Err(Error::tensor(file, &name, "dimensions", dims_offset, problem));
    };
    if !offset.is_multiple_of(alignment) {
        let problem = format!("{offset} is not a multiple of the alignment {alignment}");
        return Err(Error::tensor(file, &name, "offset", offset_offset, problem));
    }
    let start = data_start.checked_add(offset);
    let inside =
        start.and_then(|start| start.checked_add(nbytes)).is_some_and(|end| end <= file_len);
    match start {
        Some(offset) if inside => {
            Ok(TensorInfo { name, dims, ggml_type, offset, nbytes, shard: 0 })
        }
        _ => {
            let problem = format!(
                "its {nbytes} bytes at data offset {offset} end behind the end of the file ({file_len} bytes, data from {data_start})"
            );
            Err(Error::tensor(file, &name, "offset", offset_offset, problem))
        }
    }
}

/// Refuses overlaps and holes; where the last tensor's padding ends.
fn check_neighbours(
    file: &str,
    tensors: &[TensorInfo],
    order: &[usize],
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<u64> {
    // Every end is at most the file's length, and `data_start` is aligned: the sums below stay small.
    let padded = |end: u64| end.checked_next_multiple_of(alignment).unwrap_or(end);
    let mut end = data_start.min(file_len);
    let mut before = "the header";
    for tensor in order.iter().filter_map(|&index| tensors.get(index)) {
        let problem = if tensor.offset < end {
            Some(format!("it overlaps {before}, which ends at byte {end}"))
        } else if tensor.offset != padded(end) {
            Some(format!("there is a hole between it and {before}, which ends at byte {end}"))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(Error::tensor(file, &tensor.name, "data", tensor.offset, problem));
        }
        end = tensor.offset + tensor.nbytes;
        before = &tensor.name;
    }
    Ok(padded(end))
}

/// Decides between 64- and 128-weight blocks for every Q2_0 tensor by the room up to its neighbour; where padding hides
/// the difference (small tensors), by the other Q2_0 tensors of the file.
fn settle_types(
    file: &str,
    described: &[Described],
    order: &[usize],
    alignment: u64,
    data_len: u64,
) -> Result<Vec<GgmlType>> {
    let mut verdicts: Vec<Option<GgmlType>> = described
        .iter()
        .map(|tensor| if let StoredType::Settled(known) = tensor.id { Some(known) } else { None })
        .collect();
    let mut seen = (false, false);
    for (position, &index) in order.iter().enumerate() {
        let Some(tensor) = described.get(index).filter(|tensor| tensor.id == StoredType::Q2_0)
        else {
            continue;
        };
        let next = order.get(position + 1).and_then(|&next| described.get(next));
        let room = next.map_or(data_len, |next| next.offset).saturating_sub(tensor.offset);
        // What follows the last tensor may belong to nothing: where either type leaves bytes over, nothing is said.
        let leaves_bytes = |ggml_type: GgmlType| {
            ggml_type.nbytes(&tensor.dims).is_some_and(|nbytes| nbytes <= room)
        };
        let verdict = match by_room(&tensor.dims, room, alignment) {
            Some(fit)
                if next.is_none()
                    && !fills(fit, &tensor.dims, room, alignment)
                    && [GgmlType::Q2_0G64, GgmlType::Q2_0G128].into_iter().any(leaves_bytes) =>
            {
                None
            }
            verdict => verdict,
        };
        seen.0 |= verdict == Some(GgmlType::Q2_0G64);
        seen.1 |= verdict == Some(GgmlType::Q2_0G128);
        if let Some(place) = verdicts.get_mut(index) {
            *place = verdict;
        }
    }
    let common = match seen {
        (true, false) => Some(GgmlType::Q2_0G64),
        (false, true) => Some(GgmlType::Q2_0G128),
        _ => None,
    };
    let undecided = |tensor: &Described| {
        let problem = "its size fits Q2_0 with 64-weight and with 128-weight blocks, and no other tensor decides; convert it to TQ2_0";
        Error::tensor(file, &tensor.name, "type", tensor.dims_offset, problem)
    };
    described
        .iter()
        .zip(verdicts)
        .map(|(tensor, verdict)| verdict.or(common).ok_or_else(|| undecided(tensor)))
        .collect()
}

/// The block size whose bytes, padded or not, fill the room exactly; `None` where both do. Where neither does, the upstream
/// meaning, which the checks of size and place then refuse.
fn by_room(dims: &[u64], room: u64, alignment: u64) -> Option<GgmlType> {
    let fits = |ggml_type: GgmlType| fills(ggml_type, dims, room, alignment);
    match (fits(GgmlType::Q2_0G64), fits(GgmlType::Q2_0G128)) {
        (true, true) => None,
        (false, true) => Some(GgmlType::Q2_0G128),
        _ => Some(GgmlType::Q2_0G64),
    }
}

/// Whether a tensor of this type, padded or not, fills the room exactly.
fn fills(ggml_type: GgmlType, dims: &[u64], room: u64, alignment: u64) -> bool {
    ggml_type.nbytes(dims).is_some_and(|nbytes| {
        room == nbytes || nbytes.checked_next_multiple_of(alignment) == Some(room)
    })
}
