//! AVX-512: panels of 48 rows by tiles of tokens.
//!
//! A vector holds four codes of each of sixteen rows. `VPDPBUSD` multiplies them by four activations that are broadcast
//! to all lanes, so that lane `r` ends with the sum of row `r`. Three vectors of rows by eight tokens are 24 sums in
//! registers, and eleven loads for 24 products.

use std::arch::x86_64::*;

use super::int8::pack_rows;
use super::{ActivationBlock, CodeBlock, PANEL_ROWS, PanelHalf, prefetch};

/// Vectors of a panel.
const VECTORS: usize = PANEL_ROWS / 16;

/// Halves between the codes in use and those that are requested from the second-level cache.
const AHEAD: usize = 1;

/// Four activations in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(x: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_ne_bytes(x.map(|x| x.cast_unsigned())))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is 64 bytes long, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// See [`super::Int8Dot::panel_dots`].
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn dots<const T: usize>(
    panel: &[PanelHalf],
    first: usize,
    x: &[[ActivationBlock; T]],
    out: &mut [[i32; PANEL_ROWS]],
) {
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; T];
    for (half, panel) in (first..).zip(panel) {
        let x = &x[half / 2];
        for (i, entries) in panel.0.as_chunks::<4>().0.iter().enumerate() {
            for (j, entry) in entries.iter().enumerate() {
                let mut codes = [_mm512_setzero_si512(); VECTORS];
                for (codes, bytes) in codes.iter_mut().zip(entry.as_chunks::<64>().0) {
                    prefetch(bytes.as_ptr().wrapping_add(AHEAD * size_of::<PanelHalf>()));
                    *codes = load(bytes);
                }
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = broadcast(&x.0[i].as_chunks::<4>().0[4 * (half % 2) + j]);
                    for (sum, codes) in sums.iter_mut().zip(codes) {
                        *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                    }
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
            // SAFETY: the array is 64 bytes long, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
        }
    }
}

/// Half `h` of a block of rows `q`, `q + 4`, `q + 8` and `q + 12`, one in each 128-bit lane; rows are `width` blocks
/// apart.
///
/// # Safety
/// There is such a half in each of these rows, counted from `codes`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn quad(codes: *const CodeBlock, width: usize, h: usize, q: usize) -> __m512i {
    // SAFETY: the caller says that the row has the block, which is 32 bytes long; the load needs no alignment.
    let half = |row: usize| unsafe {
        _mm_loadu_si128(codes.wrapping_add(row * width).cast::<__m128i>().wrapping_add(h))
    };
    let lanes = _mm512_castsi128_si512(half(q));
    let lanes = _mm512_inserti32x4::<1>(lanes, half(q + 4));
    let lanes = _mm512_inserti32x4::<2>(lanes, half(q + 8));
    _mm512_inserti32x4::<3>(lanes, half(q + 12))
}

/// See [`super::Int8Dot::pack_panel`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn pack(rows: &[CodeBlock], width: usize, block: usize, panel: &mut [PanelHalf; 2]) {
    assert!(block < width, "a block of the row");
    let mask = _mm512_set1_epi8(3);
    let (vectors, rest) = rows.split_at(rows.len() / (16 * width) * (16 * width));
    pack_rows(rest, width, block, vectors.len() / width, panel);
    for (vector, rows) in vectors.chunks_exact(16 * width).take(VECTORS).enumerate() {
        let codes = rows.as_ptr().wrapping_add(block);
        for (h, half) in panel.iter_mut().enumerate() {
            let mut quads = [mask; 4];
            for (q, quads) in quads.iter_mut().enumerate() {
                // SAFETY: there are sixteen rows of `width` blocks, this block is one of each, and a half is `h`
                // of two.
                *quads = unsafe { quad(codes, width, h, q) };
            }
            let [a, b, c, d] = quads;
            // A transposition of four by four words in each lane: word `j` of four rows after the other.
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            let words = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ];
            for (j, word) in words.into_iter().enumerate() {
                let planes = [
                    word,
                    _mm512_srli_epi32::<2>(word),
                    _mm512_srli_epi32::<4>(word),
                    _mm512_srli_epi32::<6>(word),
                ];
                for (i, plane) in planes.into_iter().enumerate() {
                    let bytes = &mut half.0[4 * i + j].as_chunks_mut::<64>().0[vector];
                    let plane = _mm512_and_si512(plane, mask);
                    // SAFETY: the array is 64 bytes long, and the store needs no alignment.
                    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), plane) };
                }
            }
        }
    }
}
