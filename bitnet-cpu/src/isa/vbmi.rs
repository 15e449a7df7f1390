//! Five trits in a byte, unpacked by the byte permutations of AVX-512 VBMI.
//!
//! ```text
//! group    128 bytes hold five blocks of a row: two vectors v of 64 bytes
//! trits    trit t of byte p of vector v meets byte p of activation vector z = 5v + t, of ten
//! vectors  z is planes 0 and 1 (z even) or 2 and 3 (z odd) of block z / 2 of the five
//! byte     m = c0 + 3·c1 + 9·c2 + 27·c3 of the first four codes: 64·c4 + m if m < 64, else 192 + 17·c4 + (m - 64)
//! ```
//!
//! A permutation takes six bits as its index. Below 192 these are `m`, and the two others are `c4`; from 192 on, other
//! tables say what the six bits stand for.

use super::{ActivationBlock, CodeBlock, PanelHalf};

/// Blocks of a group.
pub(crate) const GROUP_BLOCKS: usize = 5;

/// The packed codes of [`GROUP_BLOCKS`] blocks.
pub(crate) type CodeGroup = [u8; 128];

/// The activations that meet a group, of `T` tokens.
pub(crate) type ActivationGroup<const T: usize> = [[ActivationBlock; T]; GROUP_BLOCKS];

/// The activations of `T` tokens, in groups.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only x86-64 has the instructions")
)]
pub(crate) struct GroupedActivations<'a, const T: usize> {
    groups: &'a [ActivationGroup<T>],
    /// The blocks behind the last whole group, and zeros.
    rest: Option<ActivationGroup<T>>,
}

impl<'a, const T: usize> GroupedActivations<'a, T> {
    /// Of a tile of `T` tokens: block 0 of all of them, then block 1, ...
    #[inline]
    pub(crate) fn new(tile: &'a [ActivationBlock]) -> Self {
        let (groups, rest) = tile.as_chunks::<T>().0.as_chunks::<GROUP_BLOCKS>();
        let rest = (!rest.is_empty()).then(|| {
            let mut group = [[ActivationBlock([[0; 32]; 4]); T]; GROUP_BLOCKS];
            group[..rest.len()].copy_from_slice(rest);
            group
        });
        Self { groups, rest }
    }
}

/// Returns the byte of five codes.
#[inline(always)]
fn pack_byte(codes: [u8; 5]) -> u8 {
    let [c0, c1, c2, c3, c4] = codes;
    let m = c0 + 3 * (c1 + 3 * (c2 + 3 * c3));
    if m < 64 { 64 * c4 + m } else { 192 + 17 * c4 + (m - 64) }
}

/// The first four codes of each byte, two bits each, and the last one in the two upper bits.
#[cfg(any(test, target_arch = "x86_64"))]
const fn unpack_byte(byte: u8) -> (u8, u8) {
    let (m, last) = if byte < 192 {
        (byte % 64, byte / 64)
    } else if byte < 192 + 51 {
        ((byte - 192) % 17 + 64, (byte - 192) / 17)
    } else {
        (0, 0)
    };
    let four = (m % 3) | ((m / 3 % 3) << 2) | ((m / 9 % 3) << 4) | ((m / 27) << 6);
    (four, last << 6)
}

/// Packs up to [`GROUP_BLOCKS`] blocks of a row; what is missing has codes 0.
#[inline]
pub(crate) fn pack_group(blocks: &[CodeBlock]) -> CodeGroup {
    let mut group = [0; 128];
    let mut planes = [[0u8; 64]; 2 * GROUP_BLOCKS];
    for (planes, block) in planes.as_chunks_mut::<2>().0.iter_mut().zip(blocks) {
        let mut bytes = [0u8; 32];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(block) {
            *bytes = word.to_le_bytes();
        }
        for (i, plane) in planes.as_flattened_mut().as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in plane.iter_mut().zip(bytes) {
                *code = (byte >> (2 * i)) & 3;
            }
        }
    }
    for (out, [c0, c1, c2, c3, c4]) in
        group.as_chunks_mut::<64>().0.iter_mut().zip(planes.as_chunks::<5>().0)
    {
        for (p, out) in out.iter_mut().enumerate() {
            *out = pack_byte([c0[p], c1[p], c2[p], c3[p], c4[p]]);
        }
    }
    group
}

/// Unpacks the blocks of a group, at most [`GROUP_BLOCKS`]: what tests compare with.
#[cfg(test)]
pub(crate) fn unpack_group(group: &CodeGroup, blocks: &mut [CodeBlock]) {
    let mut planes = [[0u8; 64]; 2 * GROUP_BLOCKS];
    for (planes, bytes) in planes.as_chunks_mut::<5>().0.iter_mut().zip(group.as_chunks::<64>().0) {
        for (p, &byte) in bytes.iter().enumerate() {
            let (four, last) = unpack_byte(byte);
            for (t, plane) in planes[..4].iter_mut().enumerate() {
                plane[p] = (four >> (2 * t)) & 3;
            }
            planes[4][p] = last >> 6;
        }
    }
    for (block, planes) in blocks.iter_mut().zip(planes.as_chunks::<2>().0) {
        let planes = planes.as_flattened().as_chunks::<32>().0;
        for (b, word) in block.iter_mut().enumerate() {
            let byte = |k: usize| {
                planes
                    .iter()
                    .enumerate()
                    .fold(0, |byte, (i, plane)| byte | plane[4 * b + k] << (2 * i))
            };
            *word = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
        }
    }
}

/// A proof that the processor has AVX-512 F, BW, VL, VNNI and VBMI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vbmi(());

impl Vbmi {
    /// Returns the proof, if the processor reports all of them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Option<Self> {
        let found = bitnet_core::simd::IsaLevel::Avx512Vnni.is_detected()
            && std::arch::is_x86_feature_detected!("avx512vbmi");
        found.then_some(Self(()))
    }

    /// Adds `Σ code·x` of one token with each of some rows to `dots`. Row `row(i)` of `codes`, for dot `i`, has the
    /// groups that `x` has.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn single(
        self,
        codes: &[CodeGroup],
        x: &GroupedActivations<'_, 1>,
        row: impl Fn(usize) -> usize,
        dots: &mut [i32],
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` proves the features.
        unsafe {
            instructions::single(codes, x, row, dots);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (codes, x, row, dots);
    }

    /// Adds `Σ code·x` of `T` tokens with each of up to `R` rows to `dots`; `R` is a multiple of four. The rows in `codes`
    /// follow one another, each with the groups that `x` has.
    pub(crate) fn rows<const T: usize, const R: usize>(
        self,
        codes: &[CodeGroup],
        x: &GroupedActivations<'_, T>,
        dots: &mut [[i32; R]; T],
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` proves the features.
        unsafe {
            instructions::rows(codes, x, dots);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (codes, x, dots);
    }

    /// Unpacks up to [`super::PANEL_ROWS`] rows of `width` groups each, one after the other, into a panel of as many
    /// blocks. Where there are fewer rows, the codes of the others are not specified.
    pub(crate) fn pack_panel(self, rows: &[CodeGroup], width: usize, panel: &mut [PanelHalf]) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` proves the features.
        unsafe {
            instructions::pack_panel(rows, width, panel);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (rows, width, panel);
    }
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::x86_64::*;

    use super::*;
    use crate::isa::{PANEL_ROWS, prefetch};

    /// Bytes between the codes in use and those that are prefetched.
    const PREFETCH_DISTANCE: usize = 2560;

    /// The first four codes below 192, the first four from 192 on, and the last one from 192 on.
    const TABLES: [[u8; 64]; 3] = {
        let mut tables = [[0; 64]; 3];
        let mut index = 0;
        while index < 64 {
            tables[0][index] = unpack_byte(index as u8).0;
            (tables[1][index], tables[2][index]) = unpack_byte(192 + index as u8);
            index += 1;
        }
        tables
    };

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: the array is 64 bytes long, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    /// Vector `z` of the activations of a token.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn activations<const T: usize>(x: &ActivationGroup<T>, token: usize, z: usize) -> __m512i {
        let planes = &x[z / 2][token].0.as_chunks::<2>().0[z % 2];
        // SAFETY: two planes are 64 bytes, and the load needs no alignment.
        unsafe { _mm512_loadu_si512(planes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tables() -> [__m512i; 3] {
        [load(&TABLES[0]), load(&TABLES[1]), load(&TABLES[2])]
    }

    /// Codes 0 to 4 of 64 bytes, times 1, 4, 16, 64 and 64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn scaled(bytes: __m512i, tables: &[__m512i; 3]) -> [__m512i; 5] {
        let upper = _mm512_set1_epi8(0xc0u8 as i8);
        let other = _mm512_cmpge_epu8_mask(bytes, upper);
        let four = _mm512_permutexvar_epi8(bytes, tables[0]);
        let four = _mm512_mask_permutexvar_epi8(four, other, bytes, tables[1]);
        let last = _mm512_and_si512(bytes, upper);
        [
            _mm512_and_si512(four, _mm512_set1_epi8(0x03)),
            _mm512_and_si512(four, _mm512_set1_epi8(0x0c)),
            _mm512_and_si512(four, _mm512_set1_epi8(0x30)),
            _mm512_and_si512(four, upper),
            _mm512_mask_permutexvar_epi8(last, other, bytes, tables[2]),
        ]
    }

    /// Codes 0 to 4 of 64 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn codes(bytes: __m512i, tables: &[__m512i; 3]) -> [__m512i; 5] {
        let [c0, c1, c2, c3, c4] = scaled(bytes, tables);
        [
            c0,
            _mm512_srli_epi16::<2>(c1),
            _mm512_srli_epi16::<4>(c2),
            _mm512_srli_epi16::<6>(c3),
            _mm512_srli_epi16::<6>(c4),
        ]
    }

    /// Adds all lanes of each of four sums.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduce_add([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let (low, high) = (_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
        let half = _mm256_add_epi32(low, high);
        let four = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
        let mut out = [0; 4];
        // SAFETY: four numbers are 16 bytes, and the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), four) };
        out
    }

    /// Products of one token with the five codes of each byte, times 1, 4, 16, 64 and 64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    fn add_scaled(
        sums: &mut [__m512i; 5],
        group: &CodeGroup,
        x: &ActivationGroup<1>,
        ahead: *const CodeGroup,
        tables: &[__m512i; 3],
    ) {
        for (v, bytes) in group.as_chunks::<64>().0.iter().enumerate() {
            prefetch(ahead.cast::<[u8; 64]>().wrapping_add(v));
            let codes = scaled(load(bytes), tables);
            for (t, (sum, codes)) in sums.iter_mut().zip(codes).enumerate() {
                *sum = _mm512_dpbusd_epi32(*sum, codes, activations(x, 0, 5 * v + t));
            }
        }
    }

    /// Lanes of `Σ code·x` of one token with one row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    fn row_sums(
        row: &[CodeGroup],
        x: &GroupedActivations<'_, 1>,
        ahead: *const CodeGroup,
        tables: &[__m512i; 3],
    ) -> __m512i {
        /// Groups whose sums fit 32 bits: one adds at most `2 * 2 * 4 * 128 * 128` to the two sums that are 64 times as
        /// large.
        const GROUPS: usize = 1 << 12;
        let mut all = _mm512_setzero_si512();
        let mut at = 0;
        for groups in x.groups.chunks(GROUPS).chain(x.rest.as_slice().chunks(1)) {
            let mut sums = [_mm512_setzero_si512(); 5];
            for (index, (x, group)) in groups.iter().zip(&row[at..]).enumerate() {
                add_scaled(&mut sums, group, x, ahead.wrapping_add(at + index), tables);
            }
            at += groups.len();
            let [s0, s1, s2, s3, s4] = sums;
            let s3 = _mm512_srai_epi32::<6>(_mm512_add_epi32(s3, s4));
            let s1 = _mm512_add_epi32(_mm512_srai_epi32::<2>(s1), _mm512_srai_epi32::<4>(s2));
            all = _mm512_add_epi32(all, _mm512_add_epi32(_mm512_add_epi32(s0, s1), s3));
        }
        all
    }

    /// See [`Vbmi::single`]. Four rows after one another, so that their lanes are added together.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    pub(super) fn single(
        codes: &[CodeGroup],
        x: &GroupedActivations<'_, 1>,
        row: impl Fn(usize) -> usize,
        dots: &mut [i32],
    ) {
        let tables = tables();
        let (len, width) = (dots.len(), x.groups.len() + x.rest.as_slice().len());
        let distance = PREFETCH_DISTANCE.div_ceil((width * 128).max(1));
        for (index, dots) in dots.chunks_mut(4).enumerate() {
            let mut sums = [_mm512_setzero_si512(); 4];
            for (i, sums) in sums[..dots.len()].iter_mut().enumerate() {
                let at = 4 * index + i;
                let ahead = codes.as_ptr().wrapping_add(row((at + distance).min(len - 1)) * width);
                *sums = row_sums(&codes[row(at) * width..][..width], x, ahead, &tables);
            }
            for (dot, sum) in dots.iter_mut().zip(reduce_add(sums)) {
                *dot = dot.wrapping_add(sum);
            }
        }
    }

    /// Lanes of `Σ code·x` of `T` tokens with one row. Prefetches `ahead`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    fn tile_sums<const T: usize>(
        row: &[CodeGroup],
        x: &GroupedActivations<'_, T>,
        ahead: *const CodeGroup,
        tables: &[__m512i; 3],
    ) -> [__m512i; T] {
        let mut sums = [_mm512_setzero_si512(); T];
        for (index, (group, x)) in row.iter().zip(x.groups.iter().chain(&x.rest)).enumerate() {
            for (v, bytes) in group.as_chunks::<64>().0.iter().enumerate() {
                prefetch(ahead.wrapping_add(index).cast::<[u8; 64]>().wrapping_add(v));
                for (t, codes) in codes(load(bytes), tables).into_iter().enumerate() {
                    for (token, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_dpbusd_epi32(*sum, codes, activations(x, token, 5 * v + t));
                    }
                }
            }
        }
        sums
    }

    /// See [`Vbmi::rows`]. Lanes of four rows are added together.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    pub(super) fn rows<const T: usize, const R: usize>(
        codes: &[CodeGroup],
        x: &GroupedActivations<'_, T>,
        dots: &mut [[i32; R]; T],
    ) {
        let tables = tables();
        let width = (x.groups.len() + x.rest.as_slice().len()).max(1);
        let distance = PREFETCH_DISTANCE.div_ceil(width * 128) * width;
        for (four, codes) in codes.chunks(4 * width).enumerate() {
            let mut sums = [[_mm512_setzero_si512(); T]; 4];
            for (sums, row) in sums.iter_mut().zip(codes.chunks_exact(width)) {
                *sums = tile_sums(row, x, row.as_ptr().wrapping_add(distance), &tables);
            }
            for (token, dots) in dots.iter_mut().enumerate() {
                let sums =
                    reduce_add([sums[0][token], sums[1][token], sums[2][token], sums[3][token]]);
                for (dot, sum) in dots.as_chunks_mut::<4>().0[four].iter_mut().zip(sums) {
                    *dot = dot.wrapping_add(sum);
                }
            }
        }
    }

    /// Word `j` of sixteen bytes of sixteen rows, for `j` of 0 to 3: those that begin `at` bytes behind `rows[row]`.
    ///
    /// # Safety
    /// There are sixteen bytes.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words(rows: &[*const u8; 16], at: usize) -> [__m512i; 4] {
        // SAFETY: the caller says that there are sixteen bytes; the load needs no alignment.
        let load = |row: usize| unsafe { _mm_loadu_si128(rows[row].wrapping_add(at).cast()) };
        let quad = |q: usize| {
            let lanes = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(load(q)), load(q + 4));
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(lanes, load(q + 8)), load(q + 12))
        };
        let (a, b, c, d) = (quad(0), quad(1), quad(2), quad(3));
        // A transposition of four by four words in each lane.
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }

    /// See [`Vbmi::pack_panel`]. Words are exchanged first and unpacked then, straight into their places. Prefetches as
    /// many rows as follow these.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    pub(super) fn pack_panel(rows: &[CodeGroup], width: usize, panel: &mut [PanelHalf]) {
        if rows.len() < width.max(1) {
            return;
        }
        assert!(panel.len() <= 2 * GROUP_BLOCKS * width, "as many blocks as the rows have");
        let (tables, len) = (tables(), rows.len() / width);
        // The last row stands for those that are missing.
        let first = |row: usize| rows.as_ptr().wrapping_add(row.min(len - 1) * width).cast::<u8>();
        let places: [[*const u8; 16]; PANEL_ROWS / 16] =
            std::array::from_fn(|vector| std::array::from_fn(|row| first(16 * vector + row)));
        for (index, panel) in panel.chunks_mut(2 * GROUP_BLOCKS).enumerate() {
            for line in 0..2 * len {
                let ahead = rows.as_ptr().wrapping_add(rows.len() + index * len);
                prefetch(ahead.cast::<[u8; 64]>().wrapping_add(line));
            }
            for (vector, rows) in places.iter().enumerate() {
                for q in 0..4 {
                    let at = 128 * index;
                    // SAFETY: each place is that of one of `len` rows of `width` groups of 128 bytes, and `index` is
                    // less than `width`, because there are no more parts of the panel.
                    unsafe { unpack_words::<0>(rows, at, q, vector, panel, &tables) };
                    // SAFETY: the same.
                    unsafe { unpack_words::<1>(rows, at, q, vector, panel, &tables) };
                }
            }
        }
    }

    /// Unpacks bytes `16 q` to `16 q + 15` of vector `V` of sixteen rows into the blocks of a group.
    ///
    /// # Safety
    /// There is a group `at` bytes behind each of `rows`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    unsafe fn unpack_words<const V: usize>(
        rows: &[*const u8; 16],
        at: usize,
        q: usize,
        vector: usize,
        panel: &mut [PanelHalf],
        tables: &[__m512i; 3],
    ) {
        // SAFETY: the caller says that there is a group.
        let words = unsafe { words(rows, at + 64 * V + 16 * q) };
        for (j, word) in words.into_iter().enumerate() {
            for (t, codes) in codes(word, tables).into_iter().enumerate() {
                let z = 5 * V + t;
                let (plane, half) = (2 * (z % 2) + q / 2, z / 2 * 2 + q % 2);
                let Some(half) = panel.get_mut(half) else { continue };
                let bytes = &mut half.0[4 * plane + j].as_chunks_mut::<64>().0[vector];
                // SAFETY: the array is 64 bytes long, and the store needs no alignment.
                unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), codes) };
            }
        }
    }
}
