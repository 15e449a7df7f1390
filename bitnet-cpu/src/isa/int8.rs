//! Dot products of 2-bit codes with 8-bit activations: what an instruction set supplies, and the algorithms over it.
//!
//! ```text
//! weights      [u32; 8]        byte b of the 32 holds elements 4b..4b+3, two bits each
//! activations  [[i8; 32]; 4]   plane i holds element 4b+i at index b
//! Σ code·x     = Σ_i Σ_b ((byte_b >> 2i) & 3) · plane_i[b]
//! Σ trit·x     = Σ code·x - Σ x
//! ```
//!
//! Bytes 0..16 and 16..32 are summed apart, because scales may belong to groups of 64 elements.

/// The packed codes of 128 weights.
pub(crate) type CodeBlock = [u32; 8];

/// 128 quantised activations in four planes: plane `i` holds element `4b + i` at index `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct ActivationBlock(pub(crate) [[i8; 32]; 4]);

/// Two columns of weights, as codes along the outputs, and the activations that multiply them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnPair<'a> {
    pub(crate) codes: [&'a [CodeBlock]; 2],
    pub(crate) x: [i8; 2],
}

/// Column pairs that [`Int8Dot::add_columns`] adds at most before [`Int8Dot::flush_columns`].
pub(crate) const COLUMN_PAIRS: usize = 16;

/// Sums for 128 outputs in 16 bits, in an order that belongs to the instruction set.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct ColumnAcc16(pub(crate) [[i16; 32]; 4]);

impl ColumnAcc16 {
    /// Empty.
    pub(crate) const ZERO: Self = Self([[0; 32]; 4]);
}

/// Sums for 128 outputs in four planes: plane `i` holds output `4b + i` at index `b`.
pub(crate) type PlaneSums = [[i32; 32]; 4];

/// What the sums of eight tokens start from: `-Σ x`, in an order that belongs to the instruction set. The provided
/// algorithm uses the first two arrays, for the halves of a block; AVX2 uses one array for each token.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile8Start(pub(crate) [[i32; 8]; 8]);

impl Tile8Start {
    /// Zeros.
    pub(crate) const ZERO: Self = Self([[0; 8]; 8]);
}

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 48;

/// The codes of [`PANEL_ROWS`] rows over half a block, a byte each, in the order in which they are multiplied: byte
/// `4r + k` of entry `4i + j` is the code of row `r` that meets byte `4j + k` of plane `i`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct PanelHalf(pub(crate) [[u8; 4 * PANEL_ROWS]; 16]);

/// [`Int8Dot::pack_panel`], a code at a time, of rows that stand in the panel from `first` on.
pub(super) fn pack_rows(
    rows: &[CodeBlock],
    width: usize,
    block: usize,
    first: usize,
    panel: &mut [PanelHalf; 2],
) {
    for (row, codes) in (first..).zip(rows.chunks_exact(width)) {
        for (j, word) in codes[block].iter().enumerate() {
            for (k, byte) in word.to_le_bytes().into_iter().enumerate() {
                for i in 0..4 {
                    panel[j / 4].0[4 * i + j % 4][4 * row + k] = (byte >> (2 * i)) & 3;
                }
            }
        }
    }
}

/// Most blocks of [`Int8Dot::dot_single`].
pub(crate) const SINGLE_BLOCKS: usize = 8;

/// Products of codes and 8-bit activations, summed exactly.
///
/// A sum passes through two accumulators: products are added to [`Int8Dot::Acc16`], which a level may hold in 16 bits,
/// and [`Int8Dot::flush_acc`] adds that to an [`Int8Dot::Acc32`] before it can overflow. All additions wrap modulo 2³².
pub(crate) trait Int8Dot: Copy {
    /// The unpacked codes of a block.
    type Codes: Copy;
    /// Sums over at most [`Int8Dot::ACC16_BLOCKS`] blocks.
    type Acc16: Copy;
    /// Sums over any number of blocks.
    type Acc32: Copy;
    /// Blocks after which an [`Int8Dot::Acc16`] must be flushed.
    const ACC16_BLOCKS: usize;
    /// Most blocks of [`Int8Dot::tile8_dots`].
    const TILE8_BLOCKS: usize = Self::ACC16_BLOCKS;

    /// Returns an empty 16-bit accumulator.
    fn zero_acc16(self) -> Self::Acc16;

    /// Returns an empty 32-bit accumulator.
    fn zero_acc32(self) -> Self::Acc32;

    /// Unpacks the codes of a block.
    fn unpack(self, codes: &CodeBlock) -> Self::Codes;

    /// Returns `acc + code · x` over one block.
    fn multiply_add(self, acc: Self::Acc16, codes: Self::Codes, x: &ActivationBlock)
    -> Self::Acc16;

    /// Returns `sums + acc`.
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32;

    /// Adds the lanes over bytes 0..16 and over bytes 16..32 of all blocks.
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2];

    /// Adds all lanes of each of four sums.
    #[inline(always)]
    fn reduce_add(self, sums: [Self::Acc32; 4]) -> [i32; 4] {
        sums.map(|sums| {
            let [low, high] = self.reduce_add_halves(sums);
            low.wrapping_add(high)
        })
    }

    /// [`Int8Dot::reduce_add_halves`] of eight sums: the first halves, then the second ones.
    #[inline(always)]
    fn reduce_add_halves8(self, sums: [Self::Acc32; 8]) -> [[i32; 8]; 2] {
        let mut out = [[0; 8]; 2];
        for (i, sums) in sums.into_iter().enumerate() {
            [out[0][i], out[1][i]] = self.reduce_add_halves(sums);
        }
        out
    }

    /// Returns `sums + code · x` of one token over `N` blocks, at most [`SINGLE_BLOCKS`], without a branch: codes serve
    /// one token only, so a level may leave them where they stand in their bytes.
    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        const { assert!(N <= SINGLE_BLOCKS && N <= Self::ACC16_BLOCKS) };
        let mut acc = self.zero_acc16();
        for (codes, x) in codes.iter().zip(x) {
            acc = self.multiply_add(acc, self.unpack(codes), x);
        }
        self.flush_acc(sums, acc)
    }

    /// Prepares [`Int8Dot::tile8_dots`] for all rows that meet `x`, at most [`Int8Dot::TILE8_BLOCKS`] blocks of eight
    /// tokens; `halves` are `-Σ x` over bytes 0..16 and over bytes 16..32 of all blocks.
    #[inline(always)]
    fn tile8_start(self, halves: &[[i32; 8]; 2], _x: &[[ActivationBlock; 8]]) -> Tile8Start {
        let mut start = Tile8Start::ZERO;
        start.0[..2].copy_from_slice(halves);
        start
    }

    /// Returns `Σ trit·x` of eight tokens with one row, if `start` is that of `x`.
    #[inline(always)]
    fn tile8_dots(
        self,
        start: &Tile8Start,
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [i32; 8] {
        let [mut dots, high] = self.tile8_halves(start, codes, x);
        for (dot, high) in dots.iter_mut().zip(high) {
            *dot = dot.wrapping_add(high);
        }
        dots
    }

    /// [`Int8Dot::tile8_dots`] over bytes 0..16 and over bytes 16..32 of all blocks.
    #[inline(always)]
    fn tile8_halves(
        self,
        start: &Tile8Start,
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [[i32; 8]; 2] {
        let mut accs = [self.zero_acc16(); 8];
        for (codes, x) in codes.iter().zip(x) {
            let codes = self.unpack(codes);
            for (acc, x) in accs.iter_mut().zip(x) {
                *acc = self.multiply_add(*acc, codes, x);
            }
        }
        let mut sums = [self.zero_acc32(); 8];
        for (sums, acc) in sums.iter_mut().zip(accs) {
            *sums = self.flush_acc(*sums, acc);
        }
        let mut halves = self.reduce_add_halves8(sums);
        for (dots, start) in halves.iter_mut().zip(&start.0) {
            for (dot, start) in dots.iter_mut().zip(start) {
                *dot = dot.wrapping_add(*start);
            }
        }
        halves
    }

    /// Whether tiles of tokens are multiplied by panels: the level broadcasts four activations to a lane for each row,
    /// so that no sum has to be added across lanes.
    const PANELS: bool = false;

    /// Tokens from which on panels cost less than other kernels, for weights with one scale.
    const PANEL_TOKENS: usize = 48;

    /// Whether eight tokens are multiplied by four rows one after another, and not by one: registers hold the sums.
    const EIGHT_BY_FOUR: bool = false;

    /// Unpacks block `block` of up to [`PANEL_ROWS`] rows of `width` blocks each, one after the other, into the two
    /// halves. Where there are fewer rows, the codes of the others are not specified.
    ///
    /// # Panics
    /// If a row has no such block.
    #[inline(always)]
    fn pack_panel(
        self,
        rows: &[CodeBlock],
        width: usize,
        block: usize,
        panel: &mut [PanelHalf; 2],
    ) {
        pack_rows(rows, width, block, 0, panel);
    }

    /// Computes `Σ code·x` of `T` tokens, the first of `sums`, with each row of a panel, whose first half is half
    /// `first` of the blocks of `x`.
    #[inline(always)]
    fn panel_dots<const T: usize>(
        self,
        panel: &[PanelHalf],
        first: usize,
        x: &[[ActivationBlock; T]],
        sums: &mut [[i32; PANEL_ROWS]],
    ) {
        sums.as_flattened_mut().fill(0);
        for (half, panel) in (first..).zip(panel) {
            for (sums, x) in sums.iter_mut().zip(&x[half / 2]) {
                for (entry, codes) in panel.0.iter().enumerate() {
                    let (i, j) = (entry / 4, entry % 4);
                    let x = &x.0[i][16 * (half % 2) + 4 * j..][..4];
                    for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                        for (code, x) in codes.iter().zip(x) {
                            *sum = sum.wrapping_add(i32::from(*code) * i32::from(*x));
                        }
                    }
                }
            }
        }
    }

    /// Exchanges rows and columns.
    #[inline(always)]
    fn transpose8(self, rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        let mut out = [[0; 8]; 8];
        for (i, row) in rows.iter().enumerate() {
            for (column, x) in out.iter_mut().zip(row) {
                column[i] = *x;
            }
        }
        out
    }

    /// Adds `Σ code · x` for the outputs of block `block` over two pairs of columns to `acc`.
    ///
    /// # Panics
    /// If a column has no such block.
    #[inline(always)]
    fn add_columns(self, pairs: &[ColumnPair<'_>; 2], block: usize, acc: &mut ColumnAcc16) {
        // A pair adds at most 2 · 2 · 128 to a lane, so sixteen stay in 16 bits.
        for pair in pairs {
            for (codes, x) in pair.codes.iter().zip(pair.x) {
                let mut bytes = [0u8; 32];
                for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&codes[block]) {
                    *bytes = word.to_le_bytes();
                }
                for (plane, acc) in acc.0.iter_mut().enumerate() {
                    for (acc, byte) in acc.iter_mut().zip(bytes) {
                        *acc += i16::from((byte >> (2 * plane)) & 3) * i16::from(x);
                    }
                }
            }
        }
    }

    /// Adds `acc` to `sums` and empties it.
    #[inline(always)]
    fn flush_columns(self, acc: &mut ColumnAcc16, sums: &mut PlaneSums) {
        for (sum, acc) in sums.as_flattened_mut().iter_mut().zip(acc.0.as_flattened_mut()) {
            *sum = sum.wrapping_add(i32::from(*acc));
            *acc = 0;
        }
    }
}
