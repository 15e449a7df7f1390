//! AVX2: one row by eight tokens, block after block, in one piece of assembly.
//!
//! A block is 32 `VPMADDUBSW` and as many `VPADDW`, whose order keeps the processor's ports busy: two
//! products, then their two additions, and the codes of the next plane between them. Compilers take the order apart
//! and run out of registers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::int8::Tile8Start;
use super::{ActivationBlock, CodeBlock};

/// Blocks for which a lane of 16 bits is enough: it starts with `-Σ x`, so that it ends with `Σ trit·x` of eight
/// numbers a block, at most `8 · 128 · 31 = 31744`, and with code 3, of groups of four blocks, `8 · 2 · 128 · 4`. What it
/// holds on the way may wrap.
pub(super) const BLOCKS: usize = 31;

/// The products of one plane with eight tokens: `$load` leaves its codes
/// in `ymm8`; it stands at `$plane` bytes in a block.
macro_rules! plane {
    ($load:literal, $plane:literal) => {
        concat!(
            $load,
            "vpmaddubsw ymm12, ymm8, [{x} + ",
            $plane,
            "]\n",
            "vpmaddubsw ymm13, ymm8, [{x} + 128 + ",
            $plane,
            "]\n",
            "vpaddw ymm0, ymm0, ymm12\n",
            "vpaddw ymm1, ymm1, ymm13\n",
            "vpmaddubsw ymm14, ymm8, [{x} + 256 + ",
            $plane,
            "]\n",
            "vpmaddubsw ymm15, ymm8, [{x} + 384 + ",
            $plane,
            "]\n",
            "vpaddw ymm2, ymm2, ymm14\n",
            "vpaddw ymm3, ymm3, ymm15\n",
            "vpmaddubsw ymm12, ymm8, [{x} + 512 + ",
            $plane,
            "]\n",
            "vpmaddubsw ymm13, ymm8, [{x} + 640 + ",
            $plane,
            "]\n",
            "vpaddw ymm4, ymm4, ymm12\n",
            "vpaddw ymm5, ymm5, ymm13\n",
            "vpmaddubsw ymm14, ymm8, [{x} + 768 + ",
            $plane,
            "]\n",
            "vpmaddubsw ymm15, ymm8, [{x} + 896 + ",
            $plane,
            "]\n",
            "vpaddw ymm6, ymm6, ymm14\n",
            "vpaddw ymm7, ymm7, ymm15\n",
        )
    };
}

/// `start + Σ code·x` of eight tokens over at most [`BLOCKS`] blocks, in lanes of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn run(start: &Tile8Start, codes: &[CodeBlock], x: &[[ActivationBlock; 8]]) -> [__m256i; 8] {
    debug_assert!(codes.len() <= BLOCKS);
    let mask = _mm256_set1_epi8(3);
    let mut sums = [_mm256_setzero_si256(); 8];
    for (sum, start) in sums.iter_mut().zip(&start.0) {
        *sum = load(start);
    }
    let blocks = codes.len().min(x.len());
    if blocks == 0 {
        return sums;
    }
    // SAFETY: the features say that the instructions are there. They read the `blocks` first blocks of `codes` (32
    // bytes each) and of `x` (1024 bytes each), and write nothing.
    unsafe {
        asm!(
            ".p2align 5",
            "2:",
            plane!("vmovdqu ymm11, [{codes}]\nvpand ymm8, ymm11, ymm10\n", "0"),
            plane!("vpsrlw ymm9, ymm11, 2\nvpand ymm8, ymm9, ymm10\n", "32"),
            plane!("vpsrlw ymm9, ymm11, 4\nvpand ymm8, ymm9, ymm10\n", "64"),
            plane!("vpsrlw ymm9, ymm11, 6\nvpand ymm8, ymm9, ymm10\n", "96"),
            "add {codes}, 32",
            "add {x}, 1024",
            "dec {blocks}",
            "jnz 2b",
            codes = inout(reg) codes.as_ptr() => _,
            x = inout(reg) x.as_ptr() => _,
            blocks = inout(reg) blocks => _,
            inout("ymm0") sums[0],
            inout("ymm1") sums[1],
            inout("ymm2") sums[2],
            inout("ymm3") sums[3],
            inout("ymm4") sums[4],
            inout("ymm5") sums[5],
            inout("ymm6") sums[6],
            inout("ymm7") sums[7],
            out("ymm8") _,
            out("ymm9") _,
            in("ymm10") mask,
            out("ymm11") _,
            out("ymm12") _,
            out("ymm13") _,
            out("ymm14") _,
            out("ymm15") _,
            options(pure, readonly, nostack)
        );
    }
    sums
}

/// `-Σ x` of each lane, modulo 2¹⁶.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn start(x: &[[ActivationBlock; 8]]) -> Tile8Start {
    let ones = _mm256_set1_epi8(1);
    let mut sums = [_mm256_setzero_si256(); 8];
    for block in x {
        for (sum, token) in sums.iter_mut().zip(block) {
            for plane in &token.0 {
                // SAFETY: the array is 32 bytes long, and the load needs no alignment.
                let plane = unsafe { _mm256_loadu_si256(plane.as_ptr().cast()) };
                *sum = _mm256_sub_epi16(*sum, _mm256_maddubs_epi16(ones, plane));
            }
        }
    }
    let mut start = Tile8Start::ZERO;
    for (start, sum) in start.0.iter_mut().zip(sums) {
        store(start, sum);
    }
    start
}

/// `Σ trit·x` of eight tokens over at most [`BLOCKS`] blocks, if `start` is that of `x`; lanes not yet added.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sums(
    start: &Tile8Start,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; 8]],
) -> [__m256i; 8] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = run(start, codes, x);
    for sum in &mut sums {
        *sum = _mm256_madd_epi16(*sum, ones);
    }
    sums
}

/// Rows and columns exchanged.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose(rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
    let [a, b, c, d, e, f, g, h] = [
        load(&rows[0]),
        load(&rows[1]),
        load(&rows[2]),
        load(&rows[3]),
        load(&rows[4]),
        load(&rows[5]),
        load(&rows[6]),
        load(&rows[7]),
    ];
    let pairs = [
        [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)],
        [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)],
        [_mm256_unpacklo_epi32(e, f), _mm256_unpacklo_epi32(g, h)],
        [_mm256_unpackhi_epi32(e, f), _mm256_unpackhi_epi32(g, h)],
    ];
    let mut out = [[0; 8]; 8];
    for half in 0..2 {
        let ([p, q], [r, s]) = (pairs[half], pairs[half + 2]);
        let low = [_mm256_unpacklo_epi64(p, q), _mm256_unpacklo_epi64(r, s)];
        let high = [_mm256_unpackhi_epi64(p, q), _mm256_unpackhi_epi64(r, s)];
        for (i, [first, second]) in [low, high].into_iter().enumerate() {
            let column = 2 * half + i;
            store(&mut out[column], _mm256_permute2x128_si256::<0x20>(first, second));
            store(&mut out[column + 4], _mm256_permute2x128_si256::<0x31>(first, second));
        }
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[i32; 8]) -> __m256i {
    // SAFETY: eight numbers are 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut [i32; 8], x: __m256i) {
    // SAFETY: eight numbers are 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
}
