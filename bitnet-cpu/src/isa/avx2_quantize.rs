//! AVX2: 128 activations rounded to 8 bits and laid out in planes.

use std::arch::x86_64::*;

use super::ActivationBlock;

/// Four of `x` from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
fn four(x: &[f32; 128], at: usize) -> __m128 {
    // SAFETY: the slice is four numbers long, and the load needs no alignment.
    unsafe { _mm_loadu_ps(x[at..at + 4].as_ptr()) }
}

/// Four of `x` from `at` on and the four that stand sixteen further, scaled and rounded half to even, within
/// -128..=127; 0 for NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: &[f32; 128], at: usize, scale: __m256) -> __m256i {
    let product = _mm256_mul_ps(_mm256_set_m128(four(x, at + 16), four(x, at)), scale);
    let number = _mm256_cmp_ps::<_CMP_ORD_Q>(product, product);
    let bounded = _mm256_min_ps(product, _mm256_set1_ps(127.0));
    let bounded = _mm256_max_ps(bounded, _mm256_set1_ps(-128.0));
    _mm256_cvtps_epi32(_mm256_and_ps(bounded, number))
}

/// 32 of `x` from `at` on: eight bytes of plane 0, of plane 1, of plane 2, of plane 3.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_bytes(x: &[f32; 128], at: usize, scale: __m256) -> __m256i {
    let low = _mm256_packs_epi32(rounded(x, at, scale), rounded(x, at + 4, scale));
    let high = _mm256_packs_epi32(rounded(x, at + 8, scale), rounded(x, at + 12, scale));
    // In order, since what is packed holds elements 0..16 in its lower half and 16..32 in its upper one.
    let bytes = _mm256_packs_epi16(low, high);
    let fours = _mm256_set1_epi32(0x0c08_0400);
    let order = _mm256_setr_epi32(
        0,
        0x0101_0101,
        0x0202_0202,
        0x0303_0303,
        0,
        0x0101_0101,
        0x0202_0202,
        0x0303_0303,
    );
    let planes = _mm256_shuffle_epi8(bytes, _mm256_add_epi8(fours, order));
    _mm256_permutevar8x32_epi32(planes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// `q = clamp(round_half_even(x * scale), -128, 127)`, NaN to 0, in planes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn quantize(x: &[f32; 128], scale: f32) -> ActivationBlock {
    let scale = _mm256_set1_ps(scale);
    let [a, b, c, d] = [
        eight_bytes(x, 0, scale),
        eight_bytes(x, 32, scale),
        eight_bytes(x, 64, scale),
        eight_bytes(x, 96, scale),
    ];
    let even = [_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d)];
    let odd = [_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d)];
    let planes = [
        _mm256_permute2x128_si256::<0x20>(even[0], even[1]),
        _mm256_permute2x128_si256::<0x20>(odd[0], odd[1]),
        _mm256_permute2x128_si256::<0x31>(even[0], even[1]),
        _mm256_permute2x128_si256::<0x31>(odd[0], odd[1]),
    ];
    let mut block = ActivationBlock([[0; 32]; 4]);
    for (plane, bytes) in block.0.iter_mut().zip(planes) {
        // SAFETY: a plane is 32 bytes long, and the store needs no alignment.
        unsafe { _mm256_storeu_si256(plane.as_mut_ptr().cast(), bytes) };
    }
    block
}
