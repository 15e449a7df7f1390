//! Weights with five trits in a byte: a fifth fewer bytes for one token, whose time is that of reading them.

use std::ops::Range;

use crate::isa::{CodeBlock, CodeGroup, GROUP_BLOCKS, PanelHalf, Vbmi, pack_group};
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};

/// Bytes of codes in the canonical layout from which on a matrix is packed: a model with such matrices exceeds the
/// caches of a core. From these, codes of two bits are read faster, because they need less unpacking.
const PACKED_BYTES: usize = 1 << 18;

/// A `[rows, cols]` matrix of trits, each row in [`CodeGroup`]s, with one scale or one for each row.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    rows: usize,
    cols: usize,
    granularity: ScaleGranularity,
    scales: Shared<f32>,
    codes: Shared<u8>,
    vbmi: Vbmi,
}

/// Groups of a row.
fn width(cols: usize) -> usize {
    cols.div_ceil(ROW_BLOCK * GROUP_BLOCKS)
}

impl PackedMatrix {
    /// Returns whether a matrix is worth packing.
    pub(super) fn takes(matrix: &TernaryMatrix) -> bool {
        let grouped = matches!(matrix.granularity(), ScaleGranularity::Group(_));
        !grouped && matrix.words().len() * 4 >= PACKED_BYTES
    }

    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(matrix: &TernaryMatrix, vbmi: Vbmi, pool: &HybridMemoryPool) -> Result<Self> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut codes = PoolBuffer::scratch(rows * width(cols) * size_of::<CodeGroup>(), pool)?;
        let mut groups = codes.as_chunks_mut().0.iter_mut();
        for row in 0..rows {
            let blocks: &[CodeBlock] = matrix.row_words(row).as_chunks().0;
            for (blocks, group) in blocks.chunks(GROUP_BLOCKS).zip(&mut groups) {
                *group = pack_group(blocks);
            }
        }
        let (granularity, scales) = (matrix.granularity(), matrix.shared_scales());
        Ok(Self { rows, cols, granularity, scales, codes: Shared::new(codes), vbmi })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    #[inline]
    pub(super) fn granularity(&self) -> ScaleGranularity {
        self.granularity
    }

    #[inline]
    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The groups of all rows, one row after the other.
    #[inline]
    pub(super) fn codes(&self) -> &[CodeGroup] {
        self.codes.as_chunks().0
    }

    /// Adds the arrays from which [`PackedMatrix::from_parts`] restores the matrix.
    pub(super) fn put_in(&self, parts: &mut PreparedParts) {
        let per_row = u64::from(self.granularity == ScaleGranularity::Row);
        let shape = [self.rows as u64, self.cols as u64, per_row];
        let shape = shape.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
        parts.put("packed.shape", shape.into());
        parts.put("packed.scales", self.scales.cast::<u8>().unwrap_or_else(|| Vec::new().into()));
        parts.put("packed.codes", self.codes.clone());
    }

    pub(super) fn is_in(parts: &PreparedParts) -> bool {
        parts.has("packed.shape")
    }

    /// # Errors
    /// [`Error::BadPart`] for arrays that are missing, of another length, or hold scales that are not finite. Every
    /// byte is a valid code.
    pub(super) fn from_parts(parts: &PreparedParts, vbmi: Vbmi) -> Result<Self> {
        let bad = |part: &str, problem: &str| Error::BadPart {
            part: format!("packed.{part}"),
            problem: problem.into(),
        };
        let (&[rows, cols, per_row], []) = parts.get("packed.shape")?.as_chunks::<8>() else {
            return Err(bad("shape", "is not 24 bytes long"));
        };
        let number = |bytes| usize::try_from(u64::from_ne_bytes(bytes));
        let (Ok(rows), Ok(cols), Ok(per_row)) = (number(rows), number(cols), number(per_row))
        else {
            return Err(bad("shape", "exceeds the address space"));
        };
        let (granularity, scale_count) = match per_row {
            0 => (ScaleGranularity::Tensor, 1),
            1 => (ScaleGranularity::Row, rows),
            _ => return Err(bad("shape", "has scales of an unknown kind")),
        };
        let scales: Shared<f32> = parts
            .get("packed.scales")?
            .cast()
            .filter(|scales: &Shared<f32>| {
                scales.len() == scale_count && scales.iter().all(|scale| scale.is_finite())
            })
            .ok_or_else(|| bad("scales", "are too many, too few or not finite"))?;
        let codes = parts.get("packed.codes")?.clone();
        let row_bytes = width(cols).checked_mul(size_of::<CodeGroup>());
        if row_bytes.and_then(|bytes| bytes.checked_mul(rows)) != Some(codes.len()) {
            return Err(bad("codes", "are too many or too few"));
        }
        Ok(Self { rows, cols, granularity, scales, codes, vbmi })
    }

    /// Unpacks some rows into a panel.
    pub(super) fn pack_panel(&self, rows: Range<usize>, panel: &mut [PanelHalf]) {
        let width = width(self.cols);
        self.vbmi.pack_panel(self.codes_of(rows), width, panel);
    }

    /// The groups of some rows.
    #[inline]
    pub(super) fn codes_of(&self, rows: Range<usize>) -> &[CodeGroup] {
        let width = width(self.cols);
        &self.codes()[rows.start * width..rows.end * width]
    }

    /// What unpacks the codes.
    #[inline]
    pub(super) fn vbmi(&self) -> Vbmi {
        self.vbmi
    }
}

#[cfg(test)]
mod tests;
