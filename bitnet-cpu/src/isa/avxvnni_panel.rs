//! AVX-VNNI: panels of 48 rows by tiles of tokens, as `avx512_panel` multiplies them, in vectors of eight rows.
//!
//! Two vectors of rows by six tokens are twelve sums: with the codes and the activations, fifteen of sixteen registers.
//! The other two tokens of eight meet all six vectors.

use std::arch::x86_64::*;

use super::int8::pack_rows;
use super::{ActivationBlock, CodeBlock, PANEL_ROWS, PanelHalf};

/// Rows of a vector.
const LANES: usize = 8;

/// Vectors of a panel.
const VECTORS: usize = PANEL_ROWS / LANES;

/// Four activations in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn broadcast(x: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x.cast_unsigned())))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u8; 32], bytes: __m256i) {
    // SAFETY: the array is 32 bytes long, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) };
}

/// `Σ code·x` of `N` tokens from `token` on with each row of a panel, `V` vectors at a time.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn some_dots<const T: usize, const N: usize, const V: usize>(
    panel: &[PanelHalf],
    first: usize,
    x: &[[ActivationBlock; T]],
    token: usize,
    out: &mut [[i32; PANEL_ROWS]],
) {
    for vector in (0..VECTORS).step_by(V) {
        let mut sums = [[_mm256_setzero_si256(); V]; N];
        for (half, panel) in (first..).zip(panel) {
            let x = &x[half / 2][token..token + N];
            for (i, entries) in panel.0.as_chunks::<4>().0.iter().enumerate() {
                for (j, entry) in entries.iter().enumerate() {
                    let codes = &entry.as_chunks::<32>().0[vector..vector + V];
                    for (sums, x) in sums.iter_mut().zip(x) {
                        let x = broadcast(&x.0[i].as_chunks::<4>().0[4 * (half % 2) + j]);
                        for (sum, codes) in sums.iter_mut().zip(codes) {
                            *sum = _mm256_dpbusd_avx_epi32(*sum, load(codes), x);
                        }
                    }
                }
            }
        }
        for (out, sums) in out[token..].iter_mut().zip(sums) {
            let out = &mut out.as_chunks_mut::<LANES>().0[vector..];
            for (out, sum) in out.iter_mut().zip(sums) {
                // SAFETY: the array is 32 bytes long, and the store needs no alignment.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
            }
        }
    }
}

/// See [`super::Int8Dot::panel_dots`].
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn dots<const T: usize>(
    panel: &[PanelHalf],
    first: usize,
    x: &[[ActivationBlock; T]],
    out: &mut [[i32; PANEL_ROWS]],
) {
    match T {
        8 => {
            some_dots::<T, 6, 2>(panel, first, x, 0, out);
            some_dots::<T, 2, VECTORS>(panel, first, x, 6, out);
        }
        4 => some_dots::<T, 4, 2>(panel, first, x, 0, out),
        2 => some_dots::<T, 2, VECTORS>(panel, first, x, 0, out),
        _ => some_dots::<T, 1, VECTORS>(panel, first, x, 0, out),
    }
}

/// See [`super::Int8Dot::pack_panel`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pack(rows: &[CodeBlock], width: usize, block: usize, panel: &mut [PanelHalf; 2]) {
    assert!(block < width, "a block of the row");
    let (vectors, rest) = rows.split_at(rows.len() / (LANES * width) * (LANES * width));
    pack_rows(rest, width, block, vectors.len() / width, panel);
    for (vector, rows) in vectors.chunks_exact(LANES * width).take(VECTORS).enumerate() {
        for (h, half) in panel.iter_mut().enumerate() {
            // Rows q and q + 4, one in each 128-bit lane.
            let pair = |q: usize| {
                let words = |row: usize| {
                    let [a, b, c, d] = rows[row * width + block].as_chunks::<4>().0[h];
                    _mm_setr_epi32(a as i32, b as i32, c as i32, d as i32)
                };
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(words(q)), words(q + 4))
            };
            let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
            // A transposition of four by four words in each lane: word `j` of four rows after the other.
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            let words = [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ];
            for (j, word) in words.into_iter().enumerate() {
                let planes = [
                    word,
                    _mm256_srli_epi32::<2>(word),
                    _mm256_srli_epi32::<4>(word),
                    _mm256_srli_epi32::<6>(word),
                ];
                for (i, plane) in planes.into_iter().enumerate() {
                    let bytes = &mut half.0[4 * i + j].as_chunks_mut::<32>().0[vector];
                    store(bytes, _mm256_and_si256(plane, _mm256_set1_epi8(3)));
                }
            }
        }
    }
}
