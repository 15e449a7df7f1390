//! Self-tests of instruction sets: every level computes a known result before it is trusted, and the choice among those
//! that do.

use std::sync::OnceLock;

use crate::isa::{
    ActivationBlock, Amx, AnyIsa, CodeBlock, CodeGroup, GROUP_BLOCKS, GroupedActivations, Isa,
    LANES, NIBBLES, NibbleBlock, Op, PANEL_ROWS, PanelHalf, TILE_TOKENS, TileSums, TokenTile, Vbmi,
    WideBlock, f16_to_f32, halves_in_order, pack_group,
};
use crate::ops::{block_sums, int4_dots};
use bitnet_core::rng::SplitMix64;
use bitnet_core::simd::IsaLevel;
use bitnet_core::{Error, Result};

/// Blocks of [`Input`]: at least the rows of a panel, more than two flushes of any level, and no multiple of one.
const BLOCKS: usize = 53;

/// Input of the self-test: codes, activations, finite 16-bit numbers and whole numbers.
struct Input {
    codes: [CodeBlock; BLOCKS],
    x: [[ActivationBlock; 1]; BLOCKS],
    halves: [[u8; 2]; LANES],
    whole: [f32; LANES],
}

impl Input {
    /// A fixed pseudo-random pattern; with `extreme`, every code is 2 and every activation is that number, so that
    /// accumulators that are too narrow overflow.
    fn new(extreme: Option<i8>) -> Self {
        let mut random = SplitMix64::new(1);
        let mut next = move || (random.next_u64() >> 33) as u32;
        let mut input = Self {
            codes: [[0; 8]; BLOCKS],
            x: [[ActivationBlock([[0; 32]; 4]); 1]; BLOCKS],
            halves: [[0; 2]; LANES],
            whole: [0.0; LANES],
        };
        for (codes, [x]) in input.codes.iter_mut().zip(&mut input.x) {
            for word in codes {
                let trits = |_| if extreme.is_some() { 2 } else { next() % 3 };
                *word = [0; 16].map(trits).iter().fold(0, |word, code| word << 2 | code);
            }
            for x in x.0.as_flattened_mut() {
                *x = extreme.unwrap_or(next() as i8);
            }
        }
        for half in &mut input.halves {
            *half = (next() as u16 & 0xbfff).to_le_bytes();
        }
        for number in &mut input.whole {
            *number = (next() % 1000) as f32;
        }
        input
    }
}

/// Results of the self-test: the sums over both halves, and the bits of four vectors of floats (half precision,
/// bfloat16, f32, and a product with a sum), all of which are exact.
type Results = ([i32; 2], [[u32; LANES]; 4]);

impl Op for &Input {
    type Output = Results;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let halves = block_sums(isa, &self.codes, self.x.as_flattened());
        let whole = isa.load(&self.whole);
        let vectors = [
            isa.load_f16(&self.halves),
            isa.load_bf16(&self.halves),
            isa.load_f32(&self.whole.map(f32::to_le_bytes)),
            isa.mul_add(whole, isa.splat(3.0), whole),
        ];
        (halves, vectors.map(|vector| isa.store(vector).map(f32::to_bits)))
    }
}

/// Computes the results one element at a time, in order, unlike any kernel.
fn expected(input: &Input) -> Results {
    let mut halves = [0i32; 2];
    for (codes, [x]) in input.codes.iter().zip(&input.x) {
        for element in 0..128 {
            let code = (codes[element / 16] >> (2 * (element % 16))) & 3;
            let x = x.0[element % 4][element / 4];
            halves[element / 64] += code as i32 * i32::from(x);
        }
    }
    let bits = input.halves.map(u16::from_le_bytes);
    let bfloats = bits.map(|bits| f32::from_bits(u32::from(bits) << 16));
    let vectors = [bits.map(f16_to_f32), bfloats, input.whole, input.whole.map(|x| 4.0 * x)];
    (halves, vectors.map(|vector| vector.map(f32::to_bits)))
}

/// Blocks of [`Int4Input`]: more than two flushes of any level, and no multiple of one.
const INT4_BLOCKS: usize = 11;

/// Input of the self-test of 4-bit codes.
struct Int4Input {
    codes: [NibbleBlock; INT4_BLOCKS],
    x: [WideBlock; INT4_BLOCKS],
}

impl Int4Input {
    /// A fixed pseudo-random pattern; with `extreme`, every code is 15 and every part is that number.
    fn new(extreme: Option<i8>) -> Self {
        let mut random = SplitMix64::new(1);
        let mut next = move || (random.next_u64() >> 33) as u32;
        let mut input = Self { codes: [[0; 32]; INT4_BLOCKS], x: [WideBlock::ZERO; INT4_BLOCKS] };
        for (codes, x) in input.codes.iter_mut().zip(&mut input.x) {
            for byte in codes {
                *byte = if extreme.is_some() { 0xff } else { next() as u8 };
            }
            for part in x.high.as_flattened_mut().iter_mut().chain(x.low.as_flattened_mut()) {
                *part = extreme.unwrap_or(next() as i8);
            }
        }
        input
    }

    /// Computes the sums one element at a time, unlike any kernel.
    fn expected(&self) -> [i32; 2] {
        let mut sums = [0; 2];
        for (codes, x) in self.codes.iter().zip(&self.x) {
            for element in 0..NIBBLES {
                let code = i32::from((codes[element % 32] >> (element / 32 * 4)) & 15);
                sums[0] += code * i32::from(x.high[element / 32][element % 32]);
                sums[1] += code * i32::from(x.low[element / 32][element % 32]);
            }
        }
        sums
    }
}

impl Op for &Int4Input {
    type Output = [i32; 2];

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let [sums] = int4_dots(isa, &self.codes, self.x.as_chunks::<1>().0, &self.codes);
        sums
    }
}

/// A panel of the first blocks of an input, each a row, by two of its activation blocks: from both halves, and from the
/// second half alone.
struct PanelTest<'a>(&'a Input);

/// The sums from both halves, and those from the second half: of two tokens with all rows.
type PanelResults = [[[i32; PANEL_ROWS]; 2]; 2];

impl PanelTest<'_> {
    /// Computes the sums one element at a time, unlike any kernel.
    fn expected(&self) -> PanelResults {
        let Self(input) = self;
        [0, 64].map(|first| {
            let mut sums = [[0; PANEL_ROWS]; 2];
            for (sums, [x]) in sums.iter_mut().zip(&input.x) {
                for (sum, codes) in sums.iter_mut().zip(&input.codes) {
                    for element in first..128 {
                        let code = (codes[element / 16] >> (2 * (element % 16))) & 3;
                        *sum += code as i32 * i32::from(x.0[element % 4][element / 4]);
                    }
                }
            }
            sums
        })
    }
}

impl Op for PanelTest<'_> {
    type Output = PanelResults;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Self(input) = self;
        let mut panel = [PanelHalf([[0xff; 4 * PANEL_ROWS]; 16]); 2];
        isa.pack_panel(&input.codes[..PANEL_ROWS], 1, 0, &mut panel);
        let x = [[input.x[0][0], input.x[1][0]]];
        [0, 1].map(|first| {
            let mut sums = [[-1; PANEL_ROWS]; 2];
            isa.panel_dots(&panel[first..], first, &x, &mut sums);
            sums
        })
    }
}

/// A panel of two blocks of each row by two tiles of tokens, both taken from an input.
struct TileTest<'a>(&'a Input);

/// Blocks of a [`TileTest`].
const TILE_BLOCKS: usize = 2;

impl TileTest<'_> {
    /// Block `block` of row `row` is number `TILE_BLOCKS * row + block` of these.
    fn rows(&self) -> [CodeBlock; TILE_BLOCKS * PANEL_ROWS] {
        std::array::from_fn(|index| self.0.codes[index % BLOCKS])
    }

    fn x(&self, token: usize, block: usize) -> &ActivationBlock {
        &self.0.x[(token + 3 * block) % BLOCKS][0]
    }

    /// Computes the sums one row and token at a time, unlike any kernel.
    fn expected(&self) -> TileSums {
        let mut sums = TileSums([[0; PANEL_ROWS]; 2 * TILE_TOKENS]);
        let mut rows = [[0i16; 128]; TILE_BLOCKS * PANEL_ROWS];
        for (row, codes) in rows.iter_mut().zip(self.rows()) {
            for (e, code) in row.iter_mut().enumerate() {
                *code = ((codes[e / 16] >> (2 * (e % 16))) & 3) as i16;
            }
        }
        for (token, sums) in sums.0.iter_mut().enumerate() {
            for block in 0..TILE_BLOCKS {
                let planes = &self.x(token, block).0;
                let mut x = [0i16; 128];
                for (e, x) in x.iter_mut().enumerate() {
                    *x = i16::from(planes[e % 4][e / 4]);
                }
                for (sum, row) in sums.iter_mut().zip(rows.as_chunks::<TILE_BLOCKS>().0) {
                    let products = row[block].iter().zip(&x).map(|(code, x)| code * x);
                    *sum += products.map(i32::from).sum::<i32>();
                }
            }
        }
        sums
    }

    /// Computes the sums with the tiles of a level: in one, and half by half.
    fn sums(&self, isa: AnyIsa, amx: Amx) -> [TileSums; 2] {
        let mut panel = [PanelHalf([[0xff; 4 * PANEL_ROWS]; 16]); 2 * TILE_BLOCKS];
        isa.run(PackTest { rows: &self.rows(), panel: &mut panel });
        let tile = |first| -> [TokenTile; TILE_BLOCKS] {
            std::array::from_fn(|block| {
                std::array::from_fn(|token| halves_in_order(self.x(first + token, block)))
            })
        };
        let (tiles, x) = (amx.configure(), [tile(0), tile(TILE_TOKENS)]);
        let mut sums = [TileSums([[-1; PANEL_ROWS]; 2 * TILE_TOKENS]); 2];
        tiles.multiply(&panel, 0, [&x[0], &x[1]], &mut sums[0]);
        // The same, half by half from the last one.
        sums[1].0.as_flattened_mut().fill(0);
        for (half, panel) in panel.chunks(1).enumerate().rev() {
            let mut part = sums[0];
            tiles.multiply(panel, half, [&x[0], &x[1]], &mut part);
            for (sum, part) in sums[1].0.as_flattened_mut().iter_mut().zip(part.0.as_flattened()) {
                *sum += part;
            }
        }
        sums
    }
}

/// Five trits in a byte: the sum over the blocks of an input as a single token and as a tile of one, and whether the
/// panel of a [`TileTest`] is that of the other layout.
fn packed_sums(input: &Input, isa: AnyIsa, vbmi: Vbmi) -> [Option<i32>; 2] {
    let row: Vec<CodeGroup> = input.codes.chunks(GROUP_BLOCKS).map(pack_group).collect();
    let x = GroupedActivations::new(input.x.as_flattened());
    let mut sum = [0];
    vbmi.single(&row, &x, |_| 0, &mut sum);
    let rows = TileTest(input).rows();
    let groups: Vec<CodeGroup> = rows.chunks(TILE_BLOCKS).map(pack_group).collect();
    let mut panels = [[PanelHalf([[0xff; 4 * PANEL_ROWS]; 16]); 2 * TILE_BLOCKS]; 2];
    isa.run(PackTest { rows: &rows, panel: &mut panels[0] });
    vbmi.pack_panel(&groups, 1, &mut panels[1]);
    let same = panels[0] == panels[1];
    let mut tile = [[0; 4]];
    vbmi.rows(&row, &x, &mut tile);
    [sum[0], tile[0][0]].map(|sum| same.then_some(sum))
}

/// Unpacks the panel of a [`TileTest`].
struct PackTest<'a> {
    rows: &'a [CodeBlock],
    panel: &'a mut [PanelHalf],
}

impl Op for PackTest<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for (block, halves) in self.panel.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            isa.pack_panel(self.rows, TILE_BLOCKS, block, halves);
        }
    }
}

/// Inputs with their results, which are the same for every level.
struct Known {
    inputs: [(Input, Results, PanelResults); 3],
    int4: [(Int4Input, [i32; 2]); 3],
}

impl Known {
    fn new() -> Self {
        let extremes = [None, Some(-128), Some(127)];
        let with_results = |extreme| {
            let input = Input::new(extreme);
            let (results, panel) = (expected(&input), PanelTest(&input).expected());
            (input, results, panel)
        };
        let with_sums = |extreme| {
            let input = Int4Input::new(extreme);
            let sums = input.expected();
            (input, sums)
        };
        Self { inputs: extremes.map(with_results), int4: extremes.map(with_sums) }
    }

    /// Returns whether a level computes the known results.
    fn passes(&self, isa: AnyIsa) -> bool {
        let tiles = TileTest(&self.inputs[0].0);
        self.inputs.iter().all(|(input, results, panel)| {
            let sum = Some(results.0[0] + results.0[1]);
            isa.run(input) == *results
                && isa.run(PanelTest(input)) == *panel
                && isa.vbmi().is_none_or(|vbmi| packed_sums(input, isa, vbmi) == [sum; 2])
        }) && self.int4.iter().all(|(input, sums)| isa.run(input) == *sums)
            && isa.amx().is_none_or(|amx| tiles.sums(isa, amx) == [tiles.expected(); 2])
    }
}

/// Returns every level that this processor reports, and whether it passes its self-test; best last. The tests run once
/// per process. A level that is not reported is not run.
pub fn proven_levels() -> Vec<(IsaLevel, bool)> {
    static PROVEN: OnceLock<Vec<(IsaLevel, bool)>> = OnceLock::new();
    PROVEN
        .get_or_init(|| {
            let known = Known::new();
            let test = |level| (level, AnyIsa::detect(level).is_some_and(|isa| known.passes(isa)));
            IsaLevel::available().into_iter().map(test).collect()
        })
        .clone()
}

/// Returns the level to run: the one wanted, which must be proven if it is `forced`, or else the best proven one that
/// is not above it.
///
/// # Errors
/// [`Error::IsaUnavailable`] or [`Error::IsaBroken`].
pub(crate) fn choose(
    wanted: IsaLevel,
    forced: bool,
    proofs: &[(IsaLevel, bool)],
) -> Result<Chosen> {
    let Some(at) = proofs.iter().position(|&(level, _)| level == wanted) else {
        let names: Vec<_> = proofs.iter().map(|(level, _)| level.name()).collect();
        return Err(Error::IsaUnavailable {
            name: wanted.name().into(),
            available: names.join(", "),
        });
    };
    let candidates = if forced { &proofs[at..=at] } else { &proofs[..=at] };
    candidates
        .iter()
        .rev()
        .filter(|(_, proven)| *proven)
        .find_map(|&(level, _)| AnyIsa::detect(level).map(|isa| Chosen { level, isa }))
        .ok_or(Error::IsaBroken { name: wanted.name() })
}

/// A chosen level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) level: IsaLevel,
    pub(crate) isa: AnyIsa,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_levels_pass() {
        let proven = proven_levels();
        assert_eq!(proven.first(), Some(&(IsaLevel::Scalar, true)));
        assert!(proven.iter().all(|&(_, proven)| proven), "{proven:?}");
    }

    #[test]
    fn broken_level_is_skipped_unless_forced() {
        let proofs = [(IsaLevel::Scalar, true), (IsaLevel::Avx2, false)];
        assert_eq!(choose(IsaLevel::Avx2, false, &proofs).unwrap().level, IsaLevel::Scalar);
        assert_eq!(choose(IsaLevel::Scalar, true, &proofs).unwrap().level, IsaLevel::Scalar);
        let forced = choose(IsaLevel::Avx2, true, &proofs).unwrap_err();
        assert_eq!(forced, Error::IsaBroken { name: "avx2" });
        let absent = choose(IsaLevel::Neon, true, &proofs).unwrap_err();
        assert!(matches!(absent, Error::IsaUnavailable { .. }));
    }

    #[test]
    fn wrong_kernel_fails() {
        /// Scalar, but for a lost block.
        struct Lost<'a>(&'a Input);
        impl Op for Lost<'_> {
            type Output = [i32; 2];
            fn eval<I: Isa>(self, isa: I) -> [i32; 2] {
                block_sums(isa, &self.0.codes[1..], self.0.x[1..].as_flattened())
            }
        }
        let input = Input::new(None);
        let scalar = AnyIsa::detect(IsaLevel::Scalar).unwrap();
        assert_ne!(scalar.run(Lost(&input)), expected(&input).0);
    }
}
