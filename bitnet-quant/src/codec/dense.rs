//! Dense storage types: plain floats and ggml's block types, decoded row by row.

use super::{plain, q4_0, q6_k, q8_0, shape};
use crate::{Error, Result};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::simd::{self, Kernel};
use std::fmt;

/// The storage type of a dense matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "ggml's names, as users know them")]
pub enum DenseType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// ggml Q8_0: 8 bits and an f16 scale for every 32.
    Q8_0,
    /// ggml Q6_K: 6 bits, int8 scales for every 16, an f16 scale for every 256.
    Q6_K,
    /// ggml Q4_0: 4 bits and an f16 scale for every 32.
    Q4_0,
}

impl DenseType {
    /// Returns the type's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q6_K => "Q6_K",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// Returns the numbers per block; columns are a multiple of it.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 => q8_0::BLOCK,
            Self::Q6_K => q6_k::BLOCK,
            Self::Q4_0 => q4_0::BLOCK,
        }
    }

    /// Returns the bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => q8_0::BLOCK_BYTES,
            Self::Q6_K => q6_k::BLOCK_BYTES,
            Self::Q4_0 => q4_0::BLOCK_BYTES,
        }
    }

    /// Returns the plain float type, if it is one.
    pub fn plain(self) -> Option<PlainType> {
        match self {
            Self::F32 => Some(PlainType::F32),
            Self::F16 => Some(PlainType::F16),
            Self::BF16 => Some(PlainType::BF16),
            Self::Q8_0 | Self::Q6_K | Self::Q4_0 => None,
        }
    }

    /// Returns the bytes of a stored `[rows, cols]` matrix.
    ///
    /// # Errors
    /// [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for an unsupported shape.
    pub fn size(self, rows: usize, cols: usize) -> Result<usize> {
        shape::blocked_size(self.name(), rows, cols, self.block_len(), self.block_bytes())
    }
}

impl From<PlainType> for DenseType {
    fn from(plain: PlainType) -> Self {
        match plain {
            PlainType::F32 => Self::F32,
            PlainType::F16 => Self::F16,
            PlainType::BF16 => Self::BF16,
        }
    }
}

/// A `[rows, cols]` matrix over its stored bytes, which may be mapped and unaligned.
pub struct DenseMatrix<B> {
    dtype: DenseType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: B,
}

impl<B: AsRef<[u8]>> DenseMatrix<B> {
    /// Wraps row-major, little-endian bytes.
    ///
    /// # Errors
    /// Errors of [`DenseType::size`], [`Error::Length`] if `bytes` has another length.
    pub fn new(dtype: DenseType, rows: usize, cols: usize, bytes: B) -> Result<Self> {
        let size = dtype.size(rows, cols)?;
        shape::exact_len(dtype.name(), rows, cols, bytes.as_ref().len(), size)?;
        Ok(Self { dtype, rows, cols, row_bytes: size / rows, bytes })
    }

    /// Returns the storage type.
    pub fn dtype(&self) -> DenseType {
        self.dtype
    }

    /// Returns the stored bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B> fmt::Debug for DenseMatrix<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenseMatrix")
            .field("dtype", &self.dtype)
            .field("rows", &self.rows)
            .field("cols", &self.cols)
            .finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]> + Send + Sync> DenseRows for DenseMatrix<B> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn type_name(&self) -> &'static str {
        self.dtype.name()
    }

    fn bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
        const OP: &str = "decode row";
        if row >= self.rows {
            return Err(bitnet_core::Error::OutOfRange { op: OP, index: row, len: self.rows });
        }
        if out.len() != self.cols {
            return Err(bitnet_core::Error::ShapeMismatch {
                op: OP,
                operand: "out",
                got: vec![out.len()],
                expected: format!("[{}]", self.cols),
            });
        }
        let start = row * self.row_bytes;
        let stored = self.bytes.as_ref().get(start..start + self.row_bytes).ok_or_else(|| {
            bitnet_core::Error::Decode(format!(
                "{}: the bytes of row {row} are no longer available; open the file again",
                self.dtype.name()
            ))
        })?;
        simd::run(simd::active()?, Decode { dtype: self.dtype, stored, out });
        Ok(())
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        self.dtype.plain().map(|plain| (plain, self.bytes.as_ref()))
    }
}

/// Appends one row to a stored matrix. `row` is used in errors only.
///
/// Floats are rounded half to even; Q8_0, Q6_K and Q4_0 equal ggml's reference quantisers without an importance
/// matrix.
///
/// # Errors
/// [`Error::BadNumber`] for a number that is not finite or out of range, [`Error::NotAMultiple`] for a
/// row that is not whole blocks. `out` is unchanged on error.
pub fn encode_row(dtype: DenseType, row: usize, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let format = dtype.name();
    shape::multiple(format, "columns", values.len(), dtype.block_len())?;
    let bad = |col: usize| Error::BadNumber { format, row, col, value: values[col] };
    if !plain::all_finite(values) {
        return Err(bad(values.iter().position(|v| !v.is_finite()).unwrap_or(0)));
    }
    let bytes = values.len() / dtype.block_len() * dtype.block_bytes();
    let level = simd::active()?;
    shape::append(out, bytes, |stored| {
        simd::run(level, Encode { dtype, values, stored }).map_err(bad)
    })
}

/// Decodes one stored row.
struct Decode<'a> {
    dtype: DenseType,
    stored: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { dtype, stored, out } = self;
        match dtype {
            DenseType::F32 => plain::decode(PlainType::F32, stored, out),
            DenseType::F16 => plain::decode(PlainType::F16, stored, out),
            DenseType::BF16 => plain::decode(PlainType::BF16, stored, out),
            DenseType::Q8_0 => q8_0::decode(stored, out),
            DenseType::Q6_K => q6_k::decode(stored, out),
            DenseType::Q4_0 => q4_0::decode(stored, out),
        }
    }
}

/// Encodes one row of finite numbers; the error is the index of a number out of range.
struct Encode<'a> {
    dtype: DenseType,
    values: &'a [f32],
    stored: &'a mut [u8],
}

impl Kernel for Encode<'_> {
    type Output = Result<(), usize>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { dtype, values, stored } = self;
        match dtype {
            DenseType::F32 => plain_row(PlainType::F32, values, stored),
            DenseType::F16 => plain_row(PlainType::F16, values, stored),
            DenseType::BF16 => plain_row(PlainType::BF16, values, stored),
            DenseType::Q8_0 => q8_0::encode(values, stored),
            DenseType::Q6_K => q6_k::encode(values, stored),
            DenseType::Q4_0 => q4_0::encode(values, stored),
        }
    }
}

/// Converts one row of plain floats to another type; returns false if a number is out of range.
struct Convert<'a> {
    from: PlainType,
    to: PlainType,
    stored: &'a [u8],
    converted: &'a mut [u8],
}

impl Kernel for Convert<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        plain::convert(self.from, self.to, self.stored, self.converted)
    }
}

/// The error is the index of a number out of range.
#[inline(always)]
fn plain_row(plain: PlainType, values: &[f32], stored: &mut [u8]) -> Result<(), usize> {
    if plain::encode(plain, values, stored) {
        return Ok(());
    }
    Err(values.iter().position(|v| !plain::encode(plain, &[*v], &mut [0; 4])).unwrap_or(0))
}

/// Converts one row of plain floats to another plain type directly and appends it. `row` is used in errors only.
///
/// # Errors
/// [`Error::BadNumber`] for a number that is not finite or out of the range of `to`, [`Error::NotAMultiple`] for bytes
/// that are not whole numbers. `out` is unchanged on error.
pub fn convert_row(
    from: PlainType,
    to: PlainType,
    row: usize,
    stored: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let format = DenseType::from(to).name();
    let width = plain::width(from);
    shape::multiple(format, "bytes", stored.len(), width)?;
    let level = simd::active()?;
    shape::append(out, stored.len() / width * plain::width(to), |converted| {
        if simd::run(level, Convert { from, to, stored, converted }) {
            return Ok(());
        }
        let held = |one: &[u8]| plain::convert(from, to, one, &mut [0; 4]);
        let col = stored.chunks_exact(width).position(|one| !held(one)).unwrap_or(0);
        let mut value = [0f32];
        plain::decode(from, &stored[col * width..][..width], &mut value);
        Err(Error::BadNumber { format, row, col, value: value[0] })
    })
}

/// Encodes a whole matrix as `dtype`, one row at a time.
///
/// # Errors
/// Errors of [`DenseType::size`], of [`encode_row`] and of reading `matrix`.
pub fn encode(matrix: &dyn DenseRows, dtype: DenseType) -> Result<Vec<u8>> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut out = shape::buffer(dtype.size(rows, cols)?)?;
    if let (Some((from, stored)), Some(to)) = (matrix.plain(), dtype.plain())
        && DenseType::from(from).size(rows, cols)? == stored.len()
    {
        for (row, stored) in stored.chunks_exact(stored.len() / rows).enumerate() {
            convert_row(from, to, row, stored, &mut out)?;
        }
        return Ok(out);
    }
    let mut values = vec![0f32; cols];
    for row in 0..rows {
        matrix.decode_row(row, &mut values)?;
        encode_row(dtype, row, &values, &mut out)?;
    }
    Ok(out)
}
