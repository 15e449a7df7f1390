//! How kernels read stored numbers: plain floats as they lie, other storage through one decoded row at a time.

use crate::codec::f16_to_f32;
use crate::{Error, Result};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::ternary::CODES_PER_WORD;
use half::f16;

/// A way in which numbers lie in memory.
pub(crate) trait Stored: Copy + Send + Sync + 'static {
    /// One number as it lies there.
    type Raw: Copy + Send + Sync;
    /// A number's bits without the sign; they are ordered as magnitudes are.
    type Bits: Copy + Ord;

    /// The magnitude of infinity: that of a number that is not finite is no less.
    const INFINITY: Self::Bits;

    /// The number.
    fn value(raw: Self::Raw) -> f32;

    /// Its magnitude.
    fn magnitude(raw: Self::Raw) -> Self::Bits;

    /// Whether the sign bit is set.
    fn negative(raw: Self::Raw) -> bool;

    /// The largest magnitude whose value is not above `threshold`, which is 0 or more and not NaN.
    fn floor(threshold: f32) -> Self::Bits;

    /// Sixteen codes as a word: 2 or 0, by their sign, for numbers whose magnitude is above `above`, 1 for others.
    fn word(sixteen: &[Self::Raw; CODES_PER_WORD], above: Self::Bits) -> u32;
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

    fn floor(threshold: f32) -> i32 {
        Self::magnitude(threshold)
    }

    #[inline(always)]
    fn word(sixteen: &[f32; CODES_PER_WORD], above: i32) -> u32 {
        word_of_32(sixteen.map(|raw| raw.to_bits() as i32), above)
    }
}

impl Stored for LeF32 {
    type Raw = [u8; 4];
    type Bits = i32;
    const INFINITY: i32 = Native::INFINITY;

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

    fn floor(threshold: f32) -> i32 {
        Native::floor(threshold)
    }

    #[inline(always)]
    fn word(sixteen: &[[u8; 4]; CODES_PER_WORD], above: i32) -> u32 {
        word_of_32(sixteen.map(|raw| u32::from_le_bytes(raw) as i32), above)
    }
}

impl Stored for LeF16 {
    type Raw = [u8; 2];
    type Bits = i16;
    const INFINITY: i16 = 0x7c00;

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

    fn floor(threshold: f32) -> i16 {
        let nearest = f16::from_f32(threshold);
        let above = nearest.to_f32() > threshold;
        (nearest.to_bits() & 0x7fff) as i16 - i16::from(above)
    }

    #[inline(always)]
    fn word(sixteen: &[[u8; 2]; CODES_PER_WORD], above: i16) -> u32 {
        word_of_16(sixteen.map(i16::from_le_bytes), above)
    }
}

impl Stored for LeBf16 {
    type Raw = [u8; 2];
    type Bits = i16;
    const INFINITY: i16 = 0x7f80;

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

    fn floor(threshold: f32) -> i16 {
        (Native::floor(threshold) >> 16) as i16
    }

    #[inline(always)]
    fn word(sixteen: &[[u8; 2]; CODES_PER_WORD], above: i16) -> u32 {
        word_of_16(sixteen.map(i16::from_le_bytes), above)
    }
}

/// [`Stored::word`] of numbers with 32 bits.
#[inline(always)]
fn word_of_32(bits: [i32; CODES_PER_WORD], above: i32) -> u32 {
    let mut places = [0u32; CODES_PER_WORD];
    for (j, (place, bits)) in places.iter_mut().zip(bits).enumerate() {
        let counts = if (bits & i32::MAX) > above { u32::MAX } else { 0 };
        let positive = !(bits >> 31) as u32;
        *place = (!counts & (1 << (2 * j))) | (counts & positive & (2 << (2 * j)));
    }
    places.iter().fold(0, |word, place| word | place)
}

/// [`Stored::word`] of numbers with 16 bits.
#[inline(always)]
fn word_of_16(bits: [i16; CODES_PER_WORD], above: i16) -> u32 {
    let mut places = [0u16; CODES_PER_WORD];
    for (j, (place, bits)) in places.iter_mut().zip(bits).enumerate() {
        let counts = if (bits & i16::MAX) > above { u16::MAX } else { 0 };
        let positive = !(bits >> 15) as u16;
        *place = (!counts & (1 << (2 * (j % 8)))) | (counts & positive & (2 << (2 * (j % 8))));
    }
    let half = |places: &[u16]| places.iter().fold(0, |word, place| word | place);
    u32::from(half(&places[..8])) | (u32::from(half(&places[8..])) << 16)
}

/// The rows of a matrix, as kernels read them.
pub(crate) trait Rows: Copy + Send + Sync {
    /// How its numbers lie.
    type Stored: Stored;

    /// One row (`[cols]`), which may have been decoded into `room`.
    fn row<'a>(&'a self, row: usize, room: &'a mut Vec<f32>) -> Result<&'a [Raw<Self>]>;
}

/// A number of a matrix's rows.
pub(crate) type Raw<R> = <<R as Rows>::Stored as Stored>::Raw;

/// Rows that lie one after the other.
#[derive(Clone, Copy)]
struct Plain<'a, S: Stored> {
    numbers: &'a [S::Raw],
    cols: usize,
}

impl<S: Stored> Rows for Plain<'_, S> {
    type Stored = S;

    fn row<'a>(&'a self, row: usize, _: &'a mut Vec<f32>) -> Result<&'a [S::Raw]> {
        // The matrix was found to hold exactly its rows.
        Ok(&self.numbers[row * self.cols..(row + 1) * self.cols])
    }
}

/// Rows that are decoded when they are asked for.
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

/// Something that is done with the rows of a matrix, whatever its storage.
pub(crate) trait Work {
    /// The result.
    type Output;

    /// Does it.
    fn with<R: Rows>(self, rows: R) -> Result<Self::Output>;
}

/// Does `work` with the rows of `matrix`, read in the quickest way that there is.
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

/// The shape of a matrix that has weights.
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
