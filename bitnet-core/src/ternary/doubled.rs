//! Weights of +2 beside a matrix of trits: what a two-bit code of 3 stands for.

use super::{TernaryMatrix, mismatch};
use crate::{Error, Result};

/// The weights of a two-bit matrix that are twice their scale. The matrix itself holds +1 in their place, and this the
/// other +1: `w = scale * (trit + 1)` where there is one. They are few, and each takes 8 bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubledWeights {
    rows: usize,
    cols: usize,
    /// Where the weights of each row begin, `[rows + 1]`.
    starts: Vec<usize>,
    weights: Vec<DoubledWeight>,
}

/// One weight of [`DoubledWeights`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DoubledWeight {
    /// Its column.
    pub col: u32,
    /// Its scale.
    pub scale: f32,
}

impl DoubledWeights {
    /// From the places `(row, column)` of weights in `matrix`, in ascending order; `matrix` holds +1 there.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for a place outside the matrix, out of order, or without +1; [`Error::OutOfMemory`].
    pub fn new(matrix: &TernaryMatrix, places: &[(usize, usize)]) -> Result<Self> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut starts: Vec<usize> = Vec::new();
        let mut weights: Vec<DoubledWeight> = Vec::new();
        let refused = |_| Error::refused_by_system((rows + places.len()).saturating_mul(8));
        starts.try_reserve_exact(rows + 1).map_err(refused)?;
        weights.try_reserve_exact(places.len()).map_err(refused)?;
        let mut last = None;
        for &(row, col) in places {
            let inside = row < rows && col < cols && u32::try_from(col).is_ok();
            if !inside || last >= Some((row, col)) || matrix.trit(row, col) != 1 {
                let expected = format!("+1 of [{rows}, {cols}], in ascending order");
                return Err(mismatch("place", vec![row, col], expected));
            }
            last = Some((row, col));
            starts.resize(row + 1, weights.len());
            weights.push(DoubledWeight { col: col as u32, scale: matrix.scale_at(row, col) });
        }
        starts.resize(rows + 1, weights.len());
        Ok(Self { rows, cols, starts, weights })
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of weights.
    pub fn count(&self) -> usize {
        self.weights.len()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.starts[..])
    }

    /// The weights of a row, in ascending order of their columns.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn row(&self, row: usize) -> &[DoubledWeight] {
        &self.weights[self.starts[row]..self.starts[row + 1]]
    }

    /// Adds `Σ scale * x` over the weights of a row, summed in f64 in the order of their columns, to `out`. `x` is
    /// `[cols]`.
    ///
    /// # Panics
    /// If there is no such row, or `x` is too short.
    #[inline]
    pub fn add_row(&self, row: usize, x: &[f32], out: &mut f32) {
        let weights = self.row(row);
        if !weights.is_empty() {
            let product = |w: &DoubledWeight| f64::from(w.scale) * f64::from(x[w.col as usize]);
            *out += weights.iter().map(product).sum::<f64>() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::ScaleGranularity;

    fn matrix() -> TernaryMatrix {
        let mut trits = vec![0; 3 * 128];
        for (row, col) in [(0, 5), (0, 70), (2, 0), (2, 127)] {
            trits[row * 128 + col] = 1;
        }
        let scales = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        TernaryMatrix::from_trits(3, 128, &trits, ScaleGranularity::Group(64), scales).unwrap()
    }

    #[test]
    fn rows_hold_their_columns_with_the_scale_of_their_group() {
        let found = DoubledWeights::new(&matrix(), &[(0, 5), (0, 70), (2, 127)]).unwrap();
        let row = |row| found.row(row).iter().map(|w| (w.col, w.scale)).collect::<Vec<_>>();
        assert_eq!([row(0), row(1), row(2)], [vec![(5, 1.0), (70, 2.0)], vec![], vec![(127, 6.0)]]);
        assert_eq!((found.count(), found.rows(), found.cols()), (3, 3, 128));
        let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let mut out = 1.0;
        found.add_row(0, &x, &mut out);
        assert_eq!(out, 1.0 + 5.0 + 140.0);
    }

    #[test]
    fn places_out_of_order_outside_or_without_a_one_are_refused() {
        for places in [&[(0, 70), (0, 5)][..], &[(0, 5), (0, 5)], &[(3, 0)], &[(0, 128)], &[(0, 6)]]
        {
            assert!(DoubledWeights::new(&matrix(), places).is_err(), "{places:?}");
        }
    }
}
