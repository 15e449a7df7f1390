//! Weights of two bits each, in the canonical layout, with the scales of groups of 64 in half precision where that is
//! exact: they are a fifth of the bytes of a token in f32. With larger groups, converting them takes longer than reading
//! them.

use std::ops::Range;

use super::scaled;
use crate::isa::{CodeBlock, FloatLanes, LANES, f16_to_f32};
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity, TernaryMatrix, check_words};
use bitnet_core::{Error, Result};
use smallvec::SmallVec;

/// A `[rows, cols]` matrix of codes. Weights of +2, which are code 3, take the same kernels as trits, because their scales
/// are those of groups of at most four blocks, and no sum in 16 bits goes beyond a group.
#[derive(Debug)]
pub(crate) struct CanonicalMatrix {
    rows: usize,
    cols: usize,
    granularity: ScaleGranularity,
    words: Shared<u32>,
    scales: Scales,
    /// Whether [`super::scaled`] takes it.
    exact: bool,
}

#[derive(Debug)]
enum Scales {
    /// Those of the matrix itself.
    Float(TernaryMatrix),
    Half(Halves),
}

/// Scales of groups in half precision.
#[derive(Debug)]
struct Halves {
    /// Little-endian, and [`LANES`] zeros after them, so that vectors can be loaded anywhere.
    bytes: Shared<u8>,
    /// Weights of +2 of the matrix.
    doubled: usize,
}

/// Scales of some groups, as f32.
#[derive(Debug, Default)]
pub(super) struct ScaleBuffer(SmallVec<[f32; 256]>);

/// Returns the bits of a half that is the same number, -0 included.
fn exact_half(scale: f32) -> Option<u16> {
    let half = half::f16::from_f32(scale);
    (half.to_f32().to_bits() == scale.to_bits()).then(|| half.to_bits())
}

/// Returns the scales of a matrix in half precision, in the pool; `None` where one would be rounded.
fn halves(matrix: &TernaryMatrix, pool: &HybridMemoryPool) -> Result<Option<Halves>> {
    let scales = matrix.scales();
    let mut bytes = PoolBuffer::scratch(2 * (scales.len() + LANES), pool)?;
    let numbers = scales.iter().copied().chain([0.0; LANES]);
    for (two, scale) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
        let Some(half) = exact_half(scale) else { return Ok(None) };
        *two = half.to_le_bytes();
    }
    Ok(Some(Halves { bytes: Shared::new(bytes), doubled: matrix.doubled() }))
}

impl CanonicalMatrix {
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(super) fn new(matrix: TernaryMatrix, pool: &HybridMemoryPool) -> Result<Self> {
        let halves = match matrix.granularity() {
            ScaleGranularity::Group(64) => halves(&matrix, pool)?,
            _ => None,
        };
        let whole = Self::of_floats(matrix);
        Ok(match halves {
            Some(halves) => Self { scales: Scales::Half(halves), ..whole },
            None => whole,
        })
    }

    fn of_floats(matrix: TernaryMatrix) -> Self {
        let (rows, cols, granularity) = (matrix.rows(), matrix.cols(), matrix.granularity());
        Self {
            rows,
            cols,
            granularity,
            words: matrix.shared_words(),
            exact: scaled::is_exact(granularity, cols, matrix.scales().iter().copied()),
            scales: Scales::Float(matrix),
        }
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

    /// Returns whether [`super::scaled`] takes the matrix.
    #[inline]
    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Returns the scales of a matrix without groups.
    #[inline]
    pub(super) fn scales(&self) -> &[f32] {
        match &self.scales {
            Scales::Float(matrix) => matrix.scales(),
            Scales::Half(_) => &[],
        }
    }

    /// Returns the scales of some groups, counted from the first one of the first row.
    #[inline(always)]
    pub(super) fn group_scales<'a, I: FloatLanes>(
        &'a self,
        isa: I,
        groups: Range<usize>,
        buffer: &'a mut ScaleBuffer,
    ) -> &'a [f32] {
        let halves = match &self.scales {
            Scales::Float(matrix) => return &matrix.scales()[groups],
            Scales::Half(halves) => &halves.bytes.as_chunks::<2>().0[groups.start..],
        };
        let (ScaleBuffer(buffer), count) = (buffer, groups.len());
        let len = count.next_multiple_of(LANES);
        if buffer.len() != len {
            buffer.resize(len, 0.0);
        }
        let sixteens = halves.as_chunks::<LANES>().0.iter();
        for (out, sixteen) in buffer.as_chunks_mut::<LANES>().0.iter_mut().zip(sixteens) {
            *out = isa.store(isa.load_f16(sixteen));
        }
        &buffer[..count]
    }

    /// Returns the blocks of all rows, one row after the other.
    #[inline(always)]
    pub(super) fn blocks(&self) -> &[CodeBlock] {
        self.words.as_chunks().0
    }

    /// Returns a row as blocks of 128 codes.
    #[inline(always)]
    pub(super) fn row_blocks(&self, row: usize) -> &[CodeBlock] {
        let width = self.cols.div_ceil(ROW_BLOCK);
        &self.blocks()[row * width..(row + 1) * width]
    }

    /// Bytes of the codes.
    pub(super) fn code_bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Bytes of the scales.
    pub(super) fn scale_bytes(&self) -> usize {
        match &self.scales {
            Scales::Float(matrix) => size_of_val(matrix.scales()),
            Scales::Half(halves) => halves.bytes.len(),
        }
    }

    /// Adds the arrays from which [`CanonicalMatrix::from_parts`] restores the matrix.
    pub(super) fn put_in(&self, parts: &mut PreparedParts) {
        let (halves, group) = match (&self.scales, self.granularity) {
            (Scales::Half(halves), ScaleGranularity::Group(group)) => (halves, group),
            (Scales::Half(_), _) => return,
            (Scales::Float(matrix), _) => return parts.put_matrix("rows", matrix),
        };
        let shape = [self.rows, self.cols, group, halves.doubled];
        let shape = shape.iter().flat_map(|n| (*n as u64).to_ne_bytes()).collect::<Vec<u8>>();
        parts.put("halves.shape", shape.into());
        parts.put("halves.scales", halves.bytes.clone());
        // Numbers fit bytes at any address.
        parts.put("halves.words", self.words.cast::<u8>().unwrap_or_else(|| Vec::new().into()));
    }

    /// # Errors
    /// [`Error::BadPart`] for arrays that are missing, of another length, or hold scales that are not finite, those of
    /// [`PreparedParts::matrix`] and of [`check_words`].
    pub(super) fn from_parts(parts: &PreparedParts) -> Result<Self> {
        if !parts.has("halves.shape") {
            return Ok(Self::of_floats(parts.matrix("rows")?));
        }
        let bad = |part: &str, problem: &str| Error::BadPart {
            part: format!("halves.{part}"),
            problem: problem.into(),
        };
        let (&[rows, cols, group, doubled], []) = parts.get("halves.shape")?.as_chunks::<8>()
        else {
            return Err(bad("shape", "is not 32 bytes long"));
        };
        let number = |bytes| {
            let number = usize::try_from(u64::from_ne_bytes(bytes));
            number.map_err(|_| bad("shape", "exceeds the address space"))
        };
        let (rows, cols, doubled) = (number(rows)?, number(cols)?, number(doubled)?);
        let granularity = ScaleGranularity::Group(number(group)?);
        let words = parts.get("halves.words")?.cast();
        let words: Shared<u32> = words.ok_or_else(|| bad("words", "is not an array of words"))?;
        if check_words(rows, cols, &words, granularity, doubled > 0)? != doubled {
            return Err(bad("shape", "has another number of weights of +2 than its words"));
        }
        let bytes = parts.get("halves.scales")?.clone();
        let (halves, rest) = bytes.as_chunks::<2>();
        let count = granularity.scale_count(rows, cols)?.checked_add(LANES);
        let is_finite = |half: &[u8; 2]| u16::from_le_bytes(*half) & 0x7c00 != 0x7c00;
        if Some(halves.len()) != count || !rest.is_empty() || !halves.iter().all(is_finite) {
            return Err(bad("scales", "are too many, too few or not finite"));
        }
        let floats = halves.iter().map(|half| f16_to_f32(u16::from_le_bytes(*half)));
        let exact = scaled::is_exact(granularity, cols, floats);
        let scales = Scales::Half(Halves { bytes, doubled });
        Ok(Self { rows, cols, granularity, words, scales, exact })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::AnyIsa;
    use bitnet_core::ternary::TernaryBuilder;

    fn matrix(scales: Vec<f32>, code: u8) -> TernaryMatrix {
        let mut builder = TernaryBuilder::new(3, 20 * 64).unwrap().accept_doubled();
        for row in 0..3 {
            builder.push_row(&vec![(row + code) % 4; 20 * 64]).unwrap();
        }
        builder.finish(ScaleGranularity::Group(64), scales).unwrap()
    }

    /// The numbers of half precision whose place is a multiple of a step: 60 of them, both signs, zeros and subnormals.
    fn half_scales() -> Vec<f32> {
        (0..60u16).map(|i| f16_to_f32((i * 517) | ((i % 2) << 15))).collect()
    }

    #[test]
    fn scales_of_groups_are_held_in_half_precision_only_where_that_is_exact() {
        let pool = HybridMemoryPool::new().unwrap();
        let scales = half_scales();
        let held = CanonicalMatrix::new(matrix(scales.clone(), 0), &pool).unwrap();
        assert_eq!(held.scale_bytes(), 120 + 32);
        for isa in bitnet_core::simd::IsaLevel::available().into_iter().filter_map(AnyIsa::detect) {
            for range in [0..60, 7..8, 20..40, 3..59, 5..5] {
                struct Of<'a>(&'a CanonicalMatrix, Range<usize>);
                impl crate::isa::Op for Of<'_> {
                    type Output = Vec<u32>;
                    fn eval<I: crate::isa::Isa>(self, isa: I) -> Vec<u32> {
                        let mut buffer = ScaleBuffer::default();
                        let scales = self.0.group_scales(isa, self.1, &mut buffer);
                        scales.iter().map(|scale| scale.to_bits()).collect()
                    }
                }
                let bits: Vec<u32> = scales[range.clone()].iter().map(|s| s.to_bits()).collect();
                assert_eq!(isa.run(Of(&held, range)), bits, "{isa:?}");
            }
        }
        for other in [0.1f32, 1e-10, 70000.0] {
            let mut scales = scales.clone();
            scales[31] = other;
            let held = CanonicalMatrix::new(matrix(scales, 0), &pool).unwrap();
            assert_eq!(held.scale_bytes(), 240, "{other}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let pool = HybridMemoryPool::new().unwrap();
        for (kind, scales) in [("halves", half_scales()), ("rows", vec![0.1; 60])] {
            let held = CanonicalMatrix::new(matrix(scales, 1), &pool).unwrap();
            let mut parts = PreparedParts::default();
            held.put_in(&mut parts);
            let again = CanonicalMatrix::from_parts(&parts).unwrap();
            assert_eq!((again.blocks(), again.exact), (held.blocks(), held.exact));
            let doubled = match &again.scales {
                Scales::Float(matrix) => matrix.doubled(),
                Scales::Half(halves) => halves.doubled,
            };
            assert_eq!(doubled, 1280);
            let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
                let mut other = PreparedParts::default();
                for (part, bytes) in parts.iter() {
                    let mut bytes = bytes.to_vec();
                    if part == format!("{kind}.{name}") {
                        change(&mut bytes);
                    }
                    other.put(part, bytes.into());
                }
                CanonicalMatrix::from_parts(&other).map(drop)
            };
            assert!(changed("shape", &|_| {}).is_ok());
            for place in [0, 8, 16, 24] {
                assert!(changed("shape", &|bytes| bytes[place] ^= 4).is_err(), "{place}");
            }
            assert!(changed("shape", &|bytes| bytes.truncate(24)).is_err());
            assert!(changed("scales", &|bytes| bytes.truncate(150)).is_err());
            assert!(
                changed("scales", &|bytes| bytes.fill(0x7f)).is_err() || held.scale_bytes() == 240
            );
            assert!(changed("words", &|bytes| bytes[0] = 0xff).is_err());
            assert!(changed("words", &|bytes| bytes.truncate(4)).is_err());
        }
    }
}
