//! AMX: tiles of sixteen tokens by sixteen rows by 64 products.
//!
//! ```text
//! A  sixteen tokens: 64 activations each             a half of each block of a [`TokenTile`]
//! B  sixteen entries: four codes of sixteen rows     a half of the rows of a [`PanelHalf`]
//! C  sixteen tokens: sums with sixteen rows, 32 bits
//! ```
//!
//! `TDPBSUD` adds A times B to C. Six tiles C, of 32 tokens by 48 rows, are summed at once: six products for two loads
//! of A and five of B, of which one stays from the first tokens to the second.

use std::marker::PhantomData;

use super::{ActivationBlock, PANEL_ROWS, PanelHalf};
#[cfg(target_arch = "x86_64")]
use bitnet_core::simd::IsaLevel;

/// Tokens of a tile of activations.
pub(crate) const TILE_TOKENS: usize = 16;

/// The activations of sixteen tokens: each block as two halves of 64, plane after plane.
pub(crate) type TokenTile = [ActivationBlock; TILE_TOKENS];

/// Sums of two tiles of tokens with the rows of a panel.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct TileSums(pub(crate) [[i32; PANEL_ROWS]; 2 * TILE_TOKENS]);

/// Puts the two halves of a block one after the other, as a [`TokenTile`] holds them.
#[inline(always)]
pub(crate) fn halves_in_order(block: &ActivationBlock) -> ActivationBlock {
    let mut ordered = ActivationBlock([[0; 32]; 4]);
    let out = ordered.0.as_flattened_mut().as_chunks_mut::<16>().0;
    for (i, plane) in block.0.iter().enumerate() {
        let [low, high] = plane.as_chunks::<16>().0 else { continue };
        (out[i], out[4 + i]) = (*low, *high);
    }
    ordered
}

/// A proof that the processor has AMX and that the system lets this process use it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Returns the proof, if the system reports the level.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Option<Self> {
        IsaLevel::Amx.is_detected().then_some(Self(()))
    }

    /// Configures the tiles of this thread until the value is dropped.
    pub(crate) fn configure(self) -> Tiles {
        #[cfg(target_arch = "x86_64")]
        instructions::configure(self);
        Tiles(PhantomData)
    }
}

/// Configured tiles. They are state of the thread, so the value cannot leave it.
#[derive(Debug)]
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        instructions::release(self);
    }
}

impl Tiles {
    /// Computes `Σ code·x` of two tiles of tokens with some halves of a panel: whole blocks from block `first / 2` on,
    /// or the one half `first`.
    ///
    /// # Panics
    /// If the halves are neither, or the tokens have no such block.
    #[inline]
    pub(crate) fn multiply(
        &self,
        panel: &[PanelHalf],
        first: usize,
        x: [&[TokenTile]; 2],
        sums: &mut TileSums,
    ) {
        let x = x.map(|x| &x[first / 2..][..panel.len().div_ceil(2)]);
        assert!(panel.len() == 1 || (panel.len() | first).is_multiple_of(2), "one half, or blocks");
        #[cfg(target_arch = "x86_64")]
        match panel {
            [] => {}
            [half] => return instructions::multiply_half(self, half, first % 2, x, sums),
            _ => return instructions::multiply_blocks(self, panel, x, sums),
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = x;
        sums.0.as_flattened_mut().fill(0);
    }
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::asm;

    use super::{Amx, PANEL_ROWS, PanelHalf, TileSums, Tiles, TokenTile};

    /// A configuration of palette 1.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        first_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Eight tiles of sixteen rows of 64 bytes: all that AMX has.
    const CONFIG: Config = {
        let mut config = Config {
            palette: 1,
            first_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let mut tile = 0;
        while tile < 8 {
            config.row_bytes[tile] = 64;
            config.rows[tile] = 16;
            tile += 1;
        }
        config
    };

    pub(super) fn configure(_: Amx) {
        static TILES: Config = CONFIG;
        // SAFETY: an `Amx` exists only where `detect` found AMX and the system's permission; the configuration is 64
        // bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const TILES,
                options(nostack, readonly, preserves_flags)
            );
        }
    }

    pub(super) fn release(_: &mut Tiles) {
        // SAFETY: `Tiles` come from an `Amx`, which proves AMX; no tile holds anything between two calls of `multiply`.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }

    /// Six products: two tiles of tokens with the three tiles of the rows of a half, which are `$x` and `$panel` bytes
    /// from the operands.
    macro_rules! products {
        ($x:literal, $panel:literal) => {
            concat!(
                concat!("tileloadd tmm6, [{x0} + {stride}*1 + ", $x, "]\n"),
                concat!("tileloadd tmm7, [{panel} + {row}*1 + ", $panel, "]\n"),
                "tdpbsud tmm0, tmm6, tmm7\n",
                concat!("tileloadd tmm7, [{panel} + {row}*1 + ", $panel, " + 64]\n"),
                "tdpbsud tmm1, tmm6, tmm7\n",
                concat!("tileloadd tmm7, [{panel} + {row}*1 + ", $panel, " + 128]\n"),
                "tdpbsud tmm2, tmm6, tmm7\n",
                concat!("tileloadd tmm6, [{x1} + {stride}*1 + ", $x, "]\n"),
                "tdpbsud tmm5, tmm6, tmm7\n",
                concat!("tileloadd tmm7, [{panel} + {row}*1 + ", $panel, " + 64]\n"),
                "tdpbsud tmm4, tmm6, tmm7\n",
                concat!("tileloadd tmm7, [{panel} + {row}*1 + ", $panel, "]\n"),
                "tdpbsud tmm3, tmm6, tmm7",
            )
        };
    }

    macro_rules! zeros {
        () => {
            "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3\ntilezero tmm4\ntilezero tmm5"
        };
    }

    /// Stores the six tiles of sums.
    macro_rules! store {
        () => {
            concat!(
                "tilestored [{sums} + {row}*1], tmm0\n",
                "tilestored [{sums} + {row}*1 + 64], tmm1\n",
                "tilestored [{sums} + {row}*1 + 128], tmm2\n",
                "tilestored [{sums} + {row}*1 + 3072], tmm3\n",
                "tilestored [{sums} + {row}*1 + 3136], tmm4\n",
                "tilestored [{sums} + {row}*1 + 3200], tmm5",
            )
        };
    }

    /// The bytes of an entry of a panel, and of the sums of a token.
    const ROW: usize = 4 * PANEL_ROWS;

    /// [`Tiles::multiply`] of at least one block of each operand, of which the panel has two halves.
    pub(super) fn multiply_blocks(
        _: &Tiles,
        panel: &[PanelHalf],
        x: [&[TokenTile]; 2],
        sums: &mut TileSums,
    ) {
        let blocks = x[0].len();
        debug_assert!(blocks > 0 && x[1].len() == blocks && panel.len() == 2 * blocks);
        // SAFETY: `Tiles` prove AMX, configured as `CONFIG`. The loop runs once for each block, and `Tiles::multiply`
        // cut all operands to as many, at least one: 2 KiB of each tile of tokens, of whose 128 bytes a row the loads
        // take one half and then the other, and 6 KiB of the panel. The stores write the 6 KiB of `sums`.
        unsafe {
            asm!(
                zeros!(),
                "2:",
                products!("0", "0"),
                products!("64", "3072"),
                "add {panel}, 6144",
                "add {x0}, 2048",
                "add {x1}, 2048",
                "dec {blocks}",
                "jnz 2b",
                store!(),
                panel = inout(reg) panel.as_ptr() => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                blocks = inout(reg) blocks => _,
                sums = in(reg) sums.0.as_mut_ptr(),
                stride = in(reg) 128_usize,
                row = in(reg) ROW,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// [`Tiles::multiply`] of one half, of the one block of each tile of tokens.
    pub(super) fn multiply_half(
        _: &Tiles,
        panel: &PanelHalf,
        half: usize,
        x: [&[TokenTile]; 2],
        sums: &mut TileSums,
    ) {
        let [x0, x1] = x.map(|x| x[0].as_ptr().cast::<[u8; 64]>().wrapping_add(half));
        // SAFETY: `Tiles` prove AMX, configured as `CONFIG`. The loads take 3 KiB of the panel, and of each of the
        // sixteen tokens of a tile the half `half`, 0 or 1, of its 128 bytes. The stores write the 6 KiB of `sums`.
        unsafe {
            asm!(
                zeros!(),
                products!("0", "0"),
                store!(),
                panel = in(reg) panel,
                x0 = in(reg) x0,
                x1 = in(reg) x1,
                sums = in(reg) sums.0.as_mut_ptr(),
                stride = in(reg) 128_usize,
                row = in(reg) ROW,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}
