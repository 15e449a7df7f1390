//! A ternary matrix over mapped bytes that is decoded row by row: an embedding table, of which a token needs one row.

use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::dense::DenseRows;
use bitnet_core::{Error, Result};
use bitnet_formats::Region;
use bitnet_quant::codec::TernaryStorage;

use super::ternary_rows::TernaryRows;

/// Rows that are checked together when the matrix is opened.
const ROWS: usize = 1024;

/// Rows that are read before the pages around them are released: the system maps 64 KiB around each of them.
const READS: usize = 64;

/// A matrix `[rows, cols]` of blocks that do not cross rows.
#[derive(Debug)]
pub(crate) struct BlockRows {
    storage: TernaryStorage,
    type_name: &'static str,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    region: Region,
    reads: AtomicUsize,
}

impl BlockRows {
    /// Returns the matrix over the bytes of `region`, every row of which has been checked; `None` if rows of this
    /// storage cannot be read one by one.
    ///
    /// # Errors
    /// Those of the codec.
    pub(crate) fn open(
        storage: TernaryStorage,
        type_name: &'static str,
        [rows, cols]: [usize; 2],
        region: Region,
    ) -> bitnet_quant::Result<Option<Self>> {
        let row_bytes = region.len().checked_div(rows).unwrap_or(0);
        if !storage.is_by_rows() || row_bytes == 0 || row_bytes * rows != region.len() {
            return Ok(None);
        }
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let range = start * row_bytes..(start + count) * row_bytes;
            storage.decode(&region[range.clone()], count, cols, None)?;
            if let Ok(read) = region.slice(range) {
                read.release();
            }
        }
        let reads = AtomicUsize::new(0);
        Ok(Some(Self { storage, type_name, rows, cols, row_bytes, region, reads }))
    }
}

impl DenseRows for BlockRows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn bytes(&self) -> usize {
        self.region.len()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let missing = Error::OutOfRange { op: "decode_row", index: row, len: self.rows };
        let bytes = (row < self.rows).then(|| &self.region[row * self.row_bytes..]);
        let bytes = &bytes.ok_or(missing)?[..self.row_bytes];
        // The bytes were checked when the matrix was opened: an error means that the file has changed since.
        let decoded = self.storage.decode(bytes, 1, self.cols, None);
        let matrix = decoded.map_err(|error| Error::BadArgument {
            op: "decode_row",
            what: "a row of the file",
            value: error.to_string(),
            expected: "it was in order when the file was opened: the file has changed",
        })?;
        if self.reads.fetch_add(1, Ordering::Relaxed) % READS == READS - 1 {
            self.region.release();
        }
        TernaryRows::new(matrix, self.type_name).decode_row(0, out)
    }

    fn release(&self) {
        self.region.release();
    }
}
