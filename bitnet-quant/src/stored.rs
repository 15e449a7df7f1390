//! Access of kernels to stored numbers: plain floats in place, other types through one decoded row at a time.

use crate::codec::f16_to_f32;
use crate::{Error, Result};
use bitnet_core::dense::{DenseRows, PlainType};
use half::f16;

/// A storage type of plain numbers.
pub(crate) trait Stored: Copy + Send + Sync + 'static {
    /// One stored number.
    type Raw: Copy + Send + Sync;
    /// A number's bits without the sign, ordered like magnitudes.
    type Bits: Copy + Ord;

    /// The magnitude of infinity; those of non-finite numbers are at least this.
    const INFINITY: Self::Bits;

    /// The number of trailing zero bits of every value as f32, if few enough bits remain for counting values.
    const SHIFT: u32;

    /// Returns the value of a number.
    fn value(raw: Self::Raw) -> f32;

    /// Returns the magnitude of a number.
    fn magnitude(raw: Self::Raw) -> Self::Bits;

    /// Returns whether the sign bit is set.
    fn negative(raw: Self::Raw) -> bool;

    /// Returns the largest magnitude whose value is at most `threshold`, which is 0 or more and not NaN.
    fn floor(threshold: f32) -> Self::Bits;

    /// Returns the value of a magnitude.
    fn magnitude_value(bits: Self::Bits) -> f32;

    /// Returns the code of a number: 2 or 0, by its sign, if its magnitude is above `above`, else 1.
    #[inline(always)]
    fn code(raw: Self::Raw, above: Self::Bits) -> u8 {
        let counts = Self::magnitude(raw) > above;
        1 + u8::from(counts) - 2 * u8::from(counts & Self::negative(raw))
    }
}

/// Numbers in memory.
#[derive(Clone, Copy)]
pub(crate) struct Native;

/// Little-endian binary32.
#[derive(Clone, Copy)]
pub(crate) struct LeF32;

/// Little-endian binary16.
#[derive(Clone, Copy)]
pub(crate) struct LeF16;

/// Little-endian bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct LeBf16;

impl Stored for Native {
    type Raw = f32;
    type Bits = i32;
    const INFINITY: i32 = 0x7f80_0000;
    const SHIFT: u32 = 0;

    #[inline(always)]
    fn value(raw: f32) -> f32 {
        raw
    }

    #[inline(always)]
    fn magnitude(raw: f32) -> i32 {
        (raw.to_bits() & 0x7fff_ffff) as i32
    }

    #[inline(always)]
    fn negative(raw: f32) -> bool {
        (raw.to_bits() as i32) < 0
    }

    #[inline(always)]
    fn floor(threshold: f32) -> i32 {
        Self::magnitude(threshold)
    }

    #[inline(always)]
    fn magnitude_value(bits: i32) -> f32 {
        f32::from_bits(bits as u32)
    }
}

impl Stored for LeF32 {
    type Raw = [u8; 4];
    type Bits = i32;
    const INFINITY: i32 = Native::INFINITY;
    const SHIFT: u32 = 0;

    #[inline(always)]
    fn value(raw: [u8; 4]) -> f32 {
        f32::from_le_bytes(raw)
    }

    #[inline(always)]
    fn magnitude(raw: [u8; 4]) -> i32 {
        Native::magnitude(Self::value(raw))
    }

    #[inline(always)]
    fn negative(raw: [u8; 4]) -> bool {
        Native::negative(Self::value(raw))
    }

    #[inline(always)]
    fn floor(threshold: f32) -> i32 {
        Native::floor(threshold)
    }

    #[inline(always)]
    fn magnitude_value(bits: i32) -> f32 {
        f32::from_bits(bits as u32)
    }
}

impl Stored for LeF16 {
    type Raw = [u8; 2];
    type Bits = i16;
    const INFINITY: i16 = 0x7c00;
    const SHIFT: u32 = 13;

    #[inline(always)]
    fn value(raw: [u8; 2]) -> f32 {
        f16_to_f32(u16::from_le_bytes(raw))
    }

    #[inline(always)]
    fn magnitude(raw: [u8; 2]) -> i16 {
        i16::from_le_bytes(raw) & 0x7fff
    }

    #[inline(always)]
    fn negative(raw: [u8; 2]) -> bool {
        i16::from_le_bytes(raw) < 0
    }

    #[inline(always)]
    fn floor(threshold: f32) -> i16 {
        let nearest = f16::from_f32(threshold);
        let above = nearest.to_f32() > threshold;
        (nearest.to_bits() & 0x7fff) as i16 - i16::from(above)
    }

    #[inline(always)]
    fn magnitude_value(bits: i16) -> f32 {
        Self::value(bits.to_le_bytes())
    }
}

impl Stored for LeBf16 {
    type Raw = [u8; 2];
    type Bits = i16;
    const INFINITY: i16 = 0x7f80;
    const SHIFT: u32 = 16;

    #[inline(always)]
    fn value(raw: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16)
    }

    #[inline(always)]
    fn magnitude(raw: [u8; 2]) -> i16 {
        i16::from_le_bytes(raw) & 0x7fff
    }

    #[inline(always)]
    fn negative(raw: [u8; 2]) -> bool {
        i16::from_le_bytes(raw) < 0
    }

    #[inline(always)]
    fn floor(threshold: f32) -> i16 {
        (Native::floor(threshold) >> 16) as i16
    }

    #[inline(always)]
    fn magnitude_value(bits: i16) -> f32 {
        Self::value(bits.to_le_bytes())
    }
}

/// The rows of a matrix for kernels.
pub(crate) trait Rows: Copy + Send + Sync {
    /// The storage type.
    type Stored: Stored;

    /// Returns one row (`[cols]`), decoded into `room` if necessary.
    fn row<'a>(&'a self, row: usize, room: &'a mut Vec<f32>) -> Result<&'a [Raw<Self>]>;
}

/// A number of a matrix's rows.
pub(crate) type Raw<R> = <<R as Rows>::Stored as Stored>::Raw;

/// Contiguous rows.
#[derive(Clone, Copy)]
struct Plain<'a, S: Stored> {
    numbers: &'a [S::Raw],
    cols: usize,
}

impl<S: Stored> Rows for Plain<'_, S> {
    type Stored = S;

    fn row<'a>(&'a self, row: usize, _: &'a mut Vec<f32>) -> Result<&'a [S::Raw]> {
        // The matrix holds exactly its rows: checked at construction.
        Ok(&self.numbers[row * self.cols..(row + 1) * self.cols])
    }
}

/// Rows decoded on access.
#[derive(Clone, Copy)]
struct Decoded<'a>(&'a dyn DenseRows);

impl Rows for Decoded<'_> {
    type Stored = Native;

    fn row<'a>(&'a self, row: usize, room: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        room.resize(self.0.cols(), 0.0);
        self.0.decode_row(row, room)?;
        Ok(room)
    }
}

/// Work on the rows of a matrix, generic over its storage.
pub(crate) trait Work {
    /// The result.
    type Output;

    /// Runs the work.
    fn with<R: Rows>(self, rows: R) -> Result<Self::Output>;
}

/// Runs `work` on the rows of `matrix` with the fastest access for its storage.
pub(crate) fn read<W: Work>(matrix: &dyn DenseRows, work: W) -> Result<W::Output> {
    let cols = matrix.cols();
    let count = matrix.rows().checked_mul(cols);
    if let Some((plain, bytes)) = matrix.plain() {
        let (twos, fours) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
        match plain {
            PlainType::F32 if count == Some(fours.len()) => {
                return work.with(Plain::<LeF32> { numbers: fours, cols });
            }
            PlainType::F16 if count == Some(twos.len()) => {
                return work.with(Plain::<LeF16> { numbers: twos, cols });
            }
            PlainType::BF16 if count == Some(twos.len()) => {
                return work.with(Plain::<LeBf16> { numbers: twos, cols });
            }
            _ => {}
        }
    }
    work.with(Decoded(matrix))
}

/// Returns the shape of a non-empty matrix.
///
/// # Errors
/// [`Error::EmptyShape`].
pub(crate) fn shape_of(format: &'static str, weights: &dyn DenseRows) -> Result<(usize, usize)> {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return Err(Error::EmptyShape { format, rows, cols });
    }
    Ok((rows, cols))
}
