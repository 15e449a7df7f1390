//! Dense matrices as they are stored: rows that are decoded one at a time.

use std::any::Any;

use crate::Result;

/// A `[rows, cols]` matrix of numbers, whatever its storage, whose rows can be decoded to f32.
///
/// Embedding tables and heads implement it over mapped storage, so that no full-precision copy of them exists.
pub trait DenseRows: Send + Sync + std::fmt::Debug {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Numbers in a row.
    fn cols(&self) -> usize;

    /// The storage type's name, as users know it (`F16`, `Q6_K`).
    fn type_name(&self) -> &'static str;

    /// Bytes that the stored form takes.
    fn bytes(&self) -> usize;

    /// Decodes one row into `out` (`[cols]`).
    ///
    /// # Errors
    /// [`crate::Error::OutOfRange`] for a row that is not there, [`crate::Error::ShapeMismatch`] if `out` is not
    /// `cols` long, [`crate::Error::Decode`] if the storage has become unreadable.
    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()>;

    /// The whole matrix as little-endian elements of a plain float type, where it is stored so: back ends with a
    /// kernel for the type read these bytes instead of decoding rows.
    fn plain(&self) -> Option<(PlainType, &[u8])> {
        None
    }

    /// What a back end made of the matrix, for a downcast by
    /// [`Preparation::prepare_dense`](super::Preparation::prepare_dense)'s back end.
    fn prepared(&self) -> Option<&dyn Any> {
        None
    }

    /// Releases mapped pages of the stored bytes from the resident set. Later reads return the same bytes.
    fn release(&self) {}
}

/// A plain float type of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlainType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
}
