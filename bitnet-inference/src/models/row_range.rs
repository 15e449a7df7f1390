//! Some rows of a dense matrix, as a matrix.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::{Error, Result};

/// Rows `range` of a matrix that has them.
#[derive(Debug)]
pub(crate) struct RowRange<'a> {
    whole: &'a Arc<dyn DenseRows>,
    range: Range<usize>,
}

impl<'a> RowRange<'a> {
    /// All rows in pieces of about `bytes` bytes, in order.
    pub(crate) fn pieces(
        whole: &'a Arc<dyn DenseRows>,
        bytes: usize,
    ) -> impl Iterator<Item = Self> {
        let rows = whole.rows();
        let row = whole.bytes() / rows.max(1);
        let step = (bytes / row.max(1)).max(1);
        (0..rows)
            .step_by(step)
            .map(move |from| Self { whole, range: from..rows.min(from.saturating_add(step)) })
    }
}

impl DenseRows for RowRange<'_> {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn cols(&self) -> usize {
        self.whole.cols()
    }

    fn type_name(&self) -> &'static str {
        self.whole.type_name()
    }

    fn bytes(&self) -> usize {
        self.whole.bytes() / self.whole.rows().max(1) * self.range.len()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.range.len() {
            return Err(Error::OutOfRange { op: "decode_row", index: row, len: self.range.len() });
        }
        self.whole.decode_row(self.range.start + row, out)
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        let (plain, bytes) = self.whole.plain()?;
        let row = bytes.len() / self.whole.rows().max(1);
        Some((plain, bytes.get(self.range.start * row..self.range.end * row)?))
    }

    fn release(&self) {
        self.whole.release();
    }
}
