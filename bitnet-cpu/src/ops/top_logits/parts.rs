//! The planes of a head as named arrays, for a cache on disk.
//!
//! ```text
//! head.shape      u64        rows, columns, planes (1 or 2)
//! head.exponents  i32        of each column; the dither is not stored, it is always the same
//! head.scales     f32        of each row
//! head.worst      f64        what a row leaves over at most, after the first plane and after both
//! head.first      [u8; 32]   blocks, row after row
//! head.second     [u8; 32]   blocks, if there are two planes
//! ```

use super::int4_planes::{Int4Planes, LEAST_SCALE, MOST_EXPONENT, dithered};
use crate::isa::{MOST_ELEMENTS, NIBBLES, NibbleBlock};
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::memory::Shared;
use bitnet_core::{Error, Result};

const SHAPE: &str = "head.shape";
const EXPONENTS: &str = "head.exponents";
const SCALES: &str = "head.scales";
const WORST: &str = "head.worst";
const FIRST: &str = "head.first";
pub(super) const SECOND: &str = "head.second";

impl Int4Planes {
    /// Returns the planes as named arrays.
    pub(super) fn parts(&self) -> PreparedParts {
        let cols = self.cols;
        let shape = [self.rows as u64, cols as u64, 1 + u64::from(self.second.is_some())];
        let exponents = self.columns[..cols].iter().map(|column| column.exponent.to_ne_bytes());
        let mut parts = PreparedParts::default();
        parts.put(SHAPE, bytes(shape.map(u64::to_ne_bytes)));
        parts.put(EXPONENTS, bytes(exponents));
        // Numbers fit bytes at any address.
        parts.put(SCALES, self.scales.cast().unwrap_or_else(|| Vec::new().into()));
        parts.put(WORST, bytes(self.worst.map(f64::to_ne_bytes)));
        parts.put(FIRST, self.first.clone());
        if let Some(second) = &self.second {
            parts.put(SECOND, second.clone());
        }
        parts
    }

    /// Restores planes from the arrays of a head of this shape; they are not copied.
    pub(super) fn from_parts(rows: usize, cols: usize, parts: &PreparedParts) -> Result<Self> {
        let shape: Vec<u64> = numbers(parts, SHAPE, 3, u64::from_ne_bytes)?;
        let planes = shape[2];
        let fits = shape[..2] == [rows as u64, cols as u64] && (1..=2).contains(&planes);
        if !fits || cols > MOST_ELEMENTS {
            return Err(bad(SHAPE, format!("is {shape:?}, but the head is [{rows}, {cols}]")));
        }
        let blocks = cols.div_ceil(NIBBLES);
        let exponents: Vec<i32> = numbers(parts, EXPONENTS, cols, i32::from_ne_bytes)?;
        let stored = parts.get(SCALES)?;
        let scales: Option<Shared<f32>> = stored.cast();
        let scales = scales
            .filter(|scales| scales.len() == rows)
            .ok_or_else(|| bad(SCALES, format!("has {} bytes for {rows} rows", stored.len())))?;
        let worst: Vec<f64> = numbers(parts, WORST, 2, f64::from_ne_bytes)?;
        if exponents.iter().any(|e| !(-MOST_EXPONENT..=MOST_EXPONENT).contains(e)) {
            return Err(bad(EXPONENTS, "has one that is out of range".into()));
        }
        if scales.iter().any(|&scale| !(LEAST_SCALE..=f32::MAX).contains(&scale)) {
            return Err(bad(SCALES, "has one that is out of range".into()));
        }
        if worst.iter().any(|&worst| !(0.0..=f64::MAX).contains(&worst)) {
            return Err(bad(WORST, "has one that is out of range".into()));
        }
        let plane = |name| {
            let bytes = parts.get(name)?;
            if bytes.len() == rows * blocks * size_of::<NibbleBlock>() {
                Ok(bytes.clone())
            } else {
                Err(bad(name, format!("has {} bytes", bytes.len())))
            }
        };
        Ok(Self {
            rows,
            cols,
            blocks,
            columns: dithered(&exponents, blocks * NIBBLES),
            largest_scale: scales.iter().fold(0f32, |largest, &scale| largest.max(scale)),
            scales,
            worst: [worst[0], worst[1]],
            first: plane(FIRST)?,
            second: if planes == 2 { Some(plane(SECOND)?) } else { None },
        })
    }
}

fn bytes<const N: usize>(numbers: impl IntoIterator<Item = [u8; N]>) -> Shared<u8> {
    numbers.into_iter().flatten().collect::<Vec<u8>>().into()
}

/// Returns the `count` numbers of a part.
fn numbers<T, const N: usize>(
    parts: &PreparedParts,
    name: &str,
    count: usize,
    number: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let stored = parts.get(name)?;
    if stored.len() != count * N {
        return Err(bad(name, format!("has {} bytes, not {}", stored.len(), count * N)));
    }
    Ok(stored.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect())
}

fn bad(part: &str, problem: String) -> Error {
    Error::BadPart { part: part.into(), problem }
}
