//! Tensor layout of a GGUF file: sizes from types and dimensions, extents in the file without gaps or overlaps.

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
    /// Its storage type.
    pub ggml_type: GgmlType,
    /// The offset of its data in its file, in bytes.
    pub offset: u64,
    /// The length of its data in bytes.
    pub nbytes: u64,
    /// The index of its file in a split model; 0 in a single file.
    pub shard: usize,
}

impl TensorInfo {
    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        // Cannot overflow: checked by the parser.
        self.dims.iter().product()
    }
}

/// A tensor description; the `*_offset` fields are positions in the file.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    pub(super) dims_offset: u64,
    pub(super) id: StoredType,
    /// From the data's start.
    pub(super) offset: u64,
    pub(super) offset_offset: u64,
}

/// A type field before sizes are resolved.
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

/// Resolves the size and position of every tensor and validates them.
///
/// Each tensor must begin at the next multiple of `alignment` after the previous one, in any order. Gaps are errors, as
/// in llama.cpp. Returns the end of the last tensor's padding; bytes after it are unused.
pub(super) fn place(
    file: &str,
    described: Vec<Described>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<(Vec<TensorInfo>, Range<u64>)> {
    let data = Data { file, start: data_start, alignment, file_len };
    let mut order: Vec<usize> = (0..described.len()).collect();
    order.sort_by_key(|&index| described.get(index).map_or(0, |tensor| tensor.offset));
    let types = data.settle_types(&described, &order)?;
    let tensors = described.into_iter().zip(types);
    let tensors = tensors
        .map(|(described, ggml_type)| data.measure(described, ggml_type))
        .collect::<Result<Vec<_>>>()?;
    let end = data.check_neighbours(&tensors, &order)?;
    Ok((tensors, end.min(file_len)..file_len))
}

/// The part of a file that holds the data of its tensors.
struct Data<'a> {
    file: &'a str,
    start: u64,
    alignment: u64,
    file_len: u64,
}

impl Data<'_> {
    /// Resolves the size and absolute position of one tensor.
    fn measure(&self, described: Described, ggml_type: GgmlType) -> Result<TensorInfo> {
        let &Self { file, start: data_start, alignment, file_len } = self;
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

    /// Rejects overlaps and gaps. Returns the end of the last tensor's padding.
    fn check_neighbours(&self, tensors: &[TensorInfo], order: &[usize]) -> Result<u64> {
        let &Self { file, start: data_start, alignment, file_len } = self;
        // Every end is at most the file's length and `data_start` is aligned, so the sums below cannot overflow.
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

    /// Selects 64- or 128-weight blocks for every Q2_0 tensor by the distance to the next tensor. Where padding hides
    /// the difference (small tensors), the other Q2_0 tensors of the file decide.
    fn settle_types(&self, described: &[Described], order: &[usize]) -> Result<Vec<GgmlType>> {
        let &Self { file, start, alignment, file_len } = self;
        let mut verdicts: Vec<Option<GgmlType>> = described
            .iter()
            .map(
                |tensor| {
                    if let StoredType::Settled(known) = tensor.id { Some(known) } else { None }
                },
            )
            .collect();
        let mut seen = (false, false);
        for (position, &index) in order.iter().enumerate() {
            let Some(tensor) = described.get(index).filter(|tensor| tensor.id == StoredType::Q2_0)
            else {
                continue;
            };
            let next = order.get(position + 1).and_then(|&next| described.get(next));
            let room = next
                .map_or(file_len.saturating_sub(start), |next| next.offset)
                .saturating_sub(tensor.offset);
            // Unused bytes may follow the last tensor, so its extent decides only if one type fits exactly.
            let leaves_bytes = |ggml_type: GgmlType| {
                ggml_type.nbytes(&tensor.dims).is_some_and(|nbytes| nbytes <= room)
            };
            let verdict = by_room(&tensor.dims, room, alignment).filter(|&fit| {
                next.is_some()
                    || fills(fit, &tensor.dims, room, alignment)
                    || ![GgmlType::Q2_0G64, GgmlType::Q2_0G128].into_iter().any(leaves_bytes)
            });
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
}

/// Returns the block size whose bytes, padded or not, fill the extent exactly; `None` if both do. If neither does,
/// returns the upstream type, which the later checks reject.
fn by_room(dims: &[u64], room: u64, alignment: u64) -> Option<GgmlType> {
    let fits = |ggml_type: GgmlType| fills(ggml_type, dims, room, alignment);
    match (fits(GgmlType::Q2_0G64), fits(GgmlType::Q2_0G128)) {
        (true, true) => None,
        (false, true) => Some(GgmlType::Q2_0G128),
        _ => Some(GgmlType::Q2_0G64),
    }
}

/// Returns whether a tensor of this type, padded or not, fills the extent exactly.
fn fills(ggml_type: GgmlType, dims: &[u64], room: u64, alignment: u64) -> bool {
    ggml_type.nbytes(dims).is_some_and(|nbytes| {
        room == nbytes || nbytes.checked_next_multiple_of(alignment) == Some(room)
    })
}
