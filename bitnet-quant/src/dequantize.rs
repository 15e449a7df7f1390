//! Dequantisation of ternary rows.

use bitnet_core::simd::{self, IsaLevel, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryMatrix};

/// Writes the weights of one row, `scale * trit`, into `out` (`[cols]`).
///
/// # Panics
/// If `row >= rows` or `out` is not `cols` long.
pub fn dequantize_row(matrix: &TernaryMatrix, row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), matrix.cols());
    let run = match matrix.granularity() {
        ScaleGranularity::Group(n) => n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => matrix.cols().max(1),
    };
    // Plain loops vectorise on any processor.
    let level = simd::active().unwrap_or(IsaLevel::Scalar);
    let words = matrix.row_words(row).chunks(run.div_ceil(CODES_PER_WORD));
    for (index, (out, words)) in out.chunks_mut(run).zip(words).enumerate() {
        simd::run(level, Dequantize { words, scale: matrix.scale_at(row, index * run), out });
    }
}

/// Converts codes 0, 1, 2 to -1, 0, 1 times the scale.
struct Dequantize<'a> {
    words: &'a [u32],
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Zero times a negative scale is -0; adding zero makes it +0.
        let value = |word: u32, j: usize| {
            let trit = (word >> (2 * j) & 3) as i32 - 1;
            trit as f32 * self.scale + 0.0
        };
        let (chunks, rest) = self.out.as_chunks_mut::<CODES_PER_WORD>();
        for (out, &word) in chunks.iter_mut().zip(self.words) {
            for (j, out) in out.iter_mut().enumerate() {
                *out = value(word, j);
            }
        }
        if let Some(&word) = self.words.get(chunks.len()) {
            for (j, out) in rest.iter_mut().enumerate() {
                *out = value(word, j);
            }
        }
    }
}
