//! Products of strided f32 matrices: blocked and packed by `gemm` or `matrixmultiply`, or one pass over the matrix for
//! a vector.

use std::ops::Add;

use super::{IsaLevel, Kernel, joined, run};

/// Accumulators of a dot product; element `i` is added to accumulator `i % LANES` with every instruction set.
const LANES: usize = 16;
/// Up to this many rows are multiplied with a row-major matrix by `matrixmultiply`, which packs it: `gemm` would read
/// it in strips of a few numbers of each row.
const FEW_ROWS: usize = 32;
/// With AVX-512, up to this many rows are multiplied with a column-major matrix by `matrixmultiply` as well: `gemm` has
/// no kernel for them there.
const FEW_ROWS_AVX512: usize = 64;
/// More rows than this are multiplied by `matrixmultiply` too: its blocks are smaller, so that it does not slow down
/// where other programs use a part of the last cache.
const MANY_ROWS: usize = 512;
/// Rows whose dot products are computed together: each is a separate stream of memory.
const ROWS: usize = 4;
/// Columns that are added together, so that the result is read and written once for all of them.
const COLUMNS: usize = 8;
/// Numbers of a result that columns are added to: they fit in the first-level cache.
const BLOCK: usize = 4096;

/// A strided matrix inside a slice: element `(i, j)` at `start + i * strides[0] + j * strides[1]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    start: usize,
    shape: [usize; 2],
    strides: [isize; 2],
}

impl<'a> Matrix<'a> {
    /// The matrix, or `None` if it extends outside the slice.
    pub(crate) fn new(
        data: &'a [f32],
        start: usize,
        shape: [usize; 2],
        strides: [isize; 2],
    ) -> Option<Self> {
        if !shape.contains(&0) {
            let (mut lowest, mut highest) = (start, start);
            for (extent, stride) in shape.into_iter().zip(strides) {
                let reach = isize::try_from(extent - 1).ok()?.checked_mul(stride)?;
                lowest = lowest.checked_add_signed(reach.min(0))?;
                highest = highest.checked_add_signed(reach.max(0))?;
            }
            if lowest > highest || highest >= data.len() {
                return None;
            }
        }
        Some(Self { data, start, shape, strides })
    }

    fn transposed(self) -> Self {
        let ([rows, cols], [down, across]) = (self.shape, self.strides);
        Self { shape: [cols, rows], strides: [across, down], ..self }
    }

    /// Whether element `(i, j)` is one of a run that a vector load can take along `dim`.
    fn runs_along(&self, dim: usize) -> bool {
        self.strides[dim] == 1 || self.shape[dim] <= 1
    }
}

/// `out = a · b`, row-major; whether the shapes fit: `a` is `[m, k]`, `b` `[k, n]`, `out` `m * n` long.
#[must_use]
pub(crate) fn product(level: IsaLevel, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) -> bool {
    let ([m, k], [k_of_b, n]) = (a.shape, b.shape);
    if k != k_of_b || m.checked_mul(n) != Some(out.len()) {
        return false;
    }
    if k == 0 || out.is_empty() {
        out.fill(0.0);
    } else if n == 1 && (a.runs_along(0) || a.runs_along(1)) {
        run(level, MatrixVector { matrix: a, vector: b, out });
    } else if m == 1 && (b.runs_along(0) || b.runs_along(1)) {
        run(level, MatrixVector { matrix: b.transposed(), vector: a.transposed(), out });
    } else {
        blocked(a, b, out);
    }
    true
}

/// Whether `gemm` takes its kernels for AVX-512.
fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// As [`product`], for shapes that are known to fit and have no extent of 0.
fn blocked(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    let ([m, k], [_, n]) = (a.shape, b.shape);
    let (a_first, b_first) = (a.data[a.start..].as_ptr(), b.data[b.start..].as_ptr());
    let ([a_down, a_across], [b_down, b_across]) = (a.strides, b.strides);
    let few = match b.runs_along(1) {
        true => FEW_ROWS,
        false if has_avx512() => FEW_ROWS_AVX512,
        false => 0,
    };
    if (few + 1..=MANY_ROWS).contains(&m) {
        let gemm = gemm_f32::gemm::f32::get_gemm_fn();
        // The transposed product of the transposed matrices: the result's columns are then those that `gemm` writes
        // along. SAFETY: `Matrix::new` has checked that every element of `a` ([m, k]) and `b` ([k, n]) is inside its
        // slice; `out` has m * n numbers, row-major, and is borrowed mutably, so that it overlaps neither.
        unsafe {
            gemm(
                n,
                m,
                k,
                out.as_mut_ptr(),
                n as isize,
                1,
                false,
                b_first,
                b_down,
                b_across,
                a_first,
                a_down,
                a_across,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm_common::Parallelism::None,
            );
        }
        return;
    }
    // SAFETY: `Matrix::new` has checked that every element of `a` ([m, k]) and `b` ([k, n]) is inside its slice; `out`
    // has m * n numbers, row-major, and is borrowed mutably, so that it overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a_first,
            a_down,
            a_across,
            b_first,
            b_down,
            b_across,
            0.0,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

/// `out = matrix · vector` for a matrix that is contiguous along one of its dimensions and a vector of one column.
struct MatrixVector<'a> {
    matrix: Matrix<'a>,
    vector: Matrix<'a>,
    out: &'a mut [f32],
}

impl Kernel for MatrixVector<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { matrix, vector, out } = self;
        let [_, cols] = matrix.shape;
        let [down, across] = matrix.strides;
        let step = vector.strides[0];
        if matrix.runs_along(1) && (step == 1 || cols == 1) {
            let x = &vector.data[vector.start..vector.start + cols];
            let mut rows = Lines { data: matrix.data, at: matrix.start, step: down, len: cols };
            let (groups, rest) = out.as_chunks_mut::<ROWS>();
            for out in groups {
                *out = dots::<ROWS>(rows.next(), x);
            }
            for out in rest {
                [*out] = dots::<1>(rows.next(), x);
            }
            return;
        }
        if matrix.runs_along(0) {
            out.fill(0.0);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let (at, len) = (matrix.start + block * BLOCK, out.len());
                let mut columns = Lines { data: matrix.data, at, step: across, len };
                let mut factors = Lines { data: vector.data, at: vector.start, step, len: 1 };
                for _ in 0..cols / COLUMNS {
                    add_columns::<COLUMNS>(columns.next(), factors.next(), out);
                }
                for _ in 0..cols % COLUMNS {
                    add_columns::<1>(columns.next(), factors.next(), out);
                }
            }
            return;
        }
        blocked(matrix, vector, out);
    }
}

/// Runs of `len` numbers, `step` numbers from one to the next.
struct Lines<'a> {
    data: &'a [f32],
    at: usize,
    step: isize,
    len: usize,
}

impl<'a> Lines<'a> {
    /// The next `N` of them.
    #[inline(always)]
    fn next<const N: usize>(&mut self) -> [&'a [f32]; N] {
        let mut lines = [&[][..]; N];
        for line in &mut lines {
            *line = &self.data[self.at..self.at + self.len];
            self.at = self.at.wrapping_add_signed(self.step);
        }
        lines
    }
}

/// The dot products of rows with `x`, all of one length. Element `i` is added to accumulator `i % LANES` of its row,
/// and the accumulators are added by halves.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "as iterators the loops do not become vectors")]
fn dots<const N: usize>(rows: [&[f32]; N], x: &[f32]) -> [f32; N] {
    let mut lanes = [[0f32; LANES]; N];
    let (whole, rest) = x.as_chunks::<LANES>();
    let count = whole.len();
    let mut chunks = [&[][..]; N];
    for row in 0..N {
        chunks[row] = &rows[row].as_chunks::<LANES>().0[..count];
    }
    for i in 0..count {
        for row in 0..N {
            for lane in 0..LANES {
                lanes[row][lane] += chunks[row][i][lane] * whole[i][lane];
            }
        }
    }
    let mut sums = [0.0; N];
    for row in 0..N {
        sums[row] = total(lanes[row], &rows[row][count * LANES..], rest);
    }
    sums
}

/// The accumulators with the last products, fewer than `LANES`, added by halves.
#[inline(always)]
fn total(mut lanes: [f32; LANES], a: &[f32], x: &[f32]) -> f32 {
    for ((lane, &a), &x) in lanes.iter_mut().zip(a).zip(x) {
        *lane += a * x;
    }
    joined(lanes, Add::add)
}

/// `out += column · factor` for one column after another, all of one length; each factor is a run of one.
#[inline(always)]
fn add_columns<const N: usize>(columns: [&[f32]; N], factors: [&[f32]; N], out: &mut [f32]) {
    let mut all = columns;
    for column in &mut all {
        *column = &column[..out.len()];
    }
    let mut numbers = [0.0; N];
    for (number, factor) in numbers.iter_mut().zip(factors) {
        *number = factor[0];
    }
    for (j, out) in out.iter_mut().enumerate() {
        let mut sum = *out;
        for (column, factor) in all.iter().zip(numbers) {
            sum += column[j] * factor;
        }
        *out = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_that_reach_outside_their_slice_are_refused() {
        let data = [0f32; 12];
        let fits = |start, shape, strides| Matrix::new(&data, start, shape, strides).is_some();
        assert!(fits(0, [3, 4], [4, 1]) && fits(0, [4, 3], [1, 4]));
        assert!(fits(11, [3, 4], [-4, -1]) && fits(5, [9, 9], [0, 0]));
        assert!(fits(12, [0, 4], [4, 1]), "no elements");
        assert!(
            !fits(1, [3, 4], [4, 1]) && !fits(10, [3, 4], [-4, -1]) && !fits(12, [1, 1], [1, 1])
        );
        assert!(!fits(0, [usize::MAX, 2], [1, 1]) && !fits(0, [2, 2], [isize::MAX, isize::MAX]));
        assert!(!fits(1, [2, 2], [isize::MAX, isize::MIN]));
        let m = Matrix::new(&data, 0, [3, 4], [4, 1]).unwrap();
        assert!(!product(IsaLevel::Scalar, m, m, &mut [0.0; 9]));
        assert!(!product(IsaLevel::Scalar, m, m.transposed(), &mut [0.0; 8]));
    }

    #[test]
    fn products_are_those_of_the_definition_in_every_layout() {
        let data: Vec<f32> = (0..520 * 90).map(|i| ((i * 7919) % 1009) as f32 - 504.0).collect();
        // A matrix of this shape in `data`: row-major, column-major, backwards, every second number, one row repeated.
        let layouts = |[rows, cols]: [usize; 2]| {
            let (down, last) = (cols as isize, rows * cols - 1);
            [
                (0, [down, 1]),
                (0, [1, rows as isize]),
                (last, [-down, -1]),
                (0, [90, 2]),
                (3, [0, 1]),
            ]
        };
        for [m, k, n] in [
            [33, 40, 29],
            [32, 40, 29],
            [7, 3, 45],
            [45, 2, 7],
            [1, 9, 9],
            [44, 44, 44],
            [513, 3, 5],
        ] {
            for (a_start, a_strides) in layouts([m, k]) {
                for (b_start, b_strides) in layouts([k, n]) {
                    let a = Matrix::new(&data, a_start, [m, k], a_strides).unwrap();
                    let b = Matrix::new(&data, b_start, [k, n], b_strides).unwrap();
                    let mut out = vec![f32::NAN; m * n];
                    assert!(product(IsaLevel::Scalar, a, b, &mut out));
                    let at = |start: usize, [down, across]: [isize; 2], i: usize, j: usize| {
                        let offset = i as isize * down + j as isize * across;
                        f64::from(data[start.checked_add_signed(offset).unwrap()])
                    };
                    for (index, &sum) in out.iter().enumerate() {
                        let (i, j) = (index / n, index % n);
                        let expected: f64 = (0..k)
                            .map(|l| at(a_start, a_strides, i, l) * at(b_start, b_strides, l, j))
                            .sum();
                        // 44 products of at most 2^18: their sums are whole numbers below 2^24.
                        assert_eq!(f64::from(sum), expected, "{m} x {k} x {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_are_multiplied_the_same_at_every_level() {
        let data: Vec<f32> = (0..70 * 611).map(|i| ((i * 7919) % 1009) as f32 - 504.0).collect();
        let shapes = [[70, 611], [611, 70], [1, 600], [600, 1]];
        for [rows, cols] in shapes {
            let wide = Matrix::new(&data, 0, [rows, cols], [cols as isize, 1]).unwrap();
            let tall = Matrix::new(&data, 0, [rows, cols], [1, rows as isize]).unwrap();
            for (matrix, step) in [(wide, 1), (wide, 2), (tall, 1), (tall, -1)] {
                let start = if step < 0 { 5000 } else { 0 };
                let x = Matrix::new(&data, start, [cols, 1], [step, 1]).unwrap();
                let at = |level| {
                    let mut out = vec![0f32; rows];
                    assert!(product(level, matrix, x, &mut out));
                    let mut turned = vec![0f32; rows];
                    assert!(product(level, x.transposed(), matrix.transposed(), &mut turned));
                    assert_eq!(out, turned);
                    out
                };
                let scalar = at(IsaLevel::Scalar);
                for (i, &sum) in scalar.iter().enumerate() {
                    let element = |r: usize, c: usize| {
                        let [down, across] = matrix.strides;
                        f64::from(data[(r as isize * down + c as isize * across) as usize])
                    };
                    let expected: f64 = (0..cols)
                        .map(|c| {
                            element(i, c)
                                * f64::from(data[(start as isize + c as isize * step) as usize])
                        })
                        .sum();
                    // 611 products of at most 2^18 in f32: each addition is off by at most 2^-24 of 2^28.
                    assert!((f64::from(sum) - expected).abs() <= 611.0 * 16.0, "{sum} {expected}");
                }
                for level in IsaLevel::available() {
                    assert_eq!(at(level), scalar, "{level}");
                }
            }
        }
    }
}
