//! AMX: tiles of sixteen tokens by sixteen rows by 64 products.
//!
//! ```text
//! A  sixteen tokens: 64 activations each             a half of each block of a [`TokenTile`]
//! B  sixteen entries: four codes of sixteen rows     a half of the rows of a [`PanelHalf`]
//! C  sixteen tokens: sums with sixteen rows, 32 bits
//! ```
//!
//! `TDPBSUD` adds A times B to C. Four tiles C, of 32 tokens by 32 rows, are summed at once: four products for two loads of A and
//! two of B. The rows of all tiles are 128 bytes apart in memory.

use std::marker::PhantomData;

use super::{ActivationBlock, PANEL_ROWS, PanelHalf};
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
    /// Computes `Σ code·x` of two tiles of tokens with the rows of a panel.
    ///
    /// # Panics
    /// If the panel and the tokens have different numbers of blocks.
    #[inline]
    pub(crate) fn multiply(&self, panel: &[PanelHalf], x: [&[TokenTile]; 2], sums: &mut TileSums) {
        let blocks = x[0].len();
        assert!(x[1].len() == blocks && panel.len() == 2 * blocks, "one length");
        #[cfg(target_arch = "x86_64")]
        if blocks != 0 {
            return instructions::multiply(self, panel, x, sums);
        }
        sums.0.as_flattened_mut().fill(0);
    }
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::asm;

    use super::{Amx, PanelHalf, TileSums, Tiles, TokenTile};

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
        // SAFETY: an `Amx` exists only where `detect` found AMX and the system's permission; the configuration is 64 bytes.
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

    /// [`Tiles::multiply`], where there is at least one block and the panel has two halves for each.
    pub(super) fn multiply(
        _: &Tiles,
        panel: &[PanelHalf],
        x: [&[TokenTile]; 2],
        sums: &mut TileSums,
    ) {
        // SAFETY: `Tiles` prove AMX, configured as `CONFIG`. The loop runs once for each block, at least once. A block is 2 KiB of
        // each tile of tokens, of whose 128 bytes a row the loads take one half and then the other, and 4 KiB of the panel: the
        // caller passes as many. The stores write the 4 KiB of `sums`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{panel} + {stride}*1]",
                "tileloadd tmm4, [{x0} + {stride}*1]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {stride}*1 + 64]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {stride}*1]",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{panel} + {stride}*1 + 2048]",
                "tileloadd tmm4, [{x0} + {stride}*1 + 64]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {stride}*1 + 2112]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {stride}*1 + 64]",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "add {panel}, 4096",
                "add {x0}, 2048",
                "add {x1}, 2048",
                "dec {blocks}",
                "jnz 2b",
                "tilestored [{sums} + {stride}*1], tmm0",
                "tilestored [{sums} + {stride}*1 + 64], tmm1",
                "tilestored [{sums} + {stride}*1 + 2048], tmm2",
                "tilestored [{sums} + {stride}*1 + 2112], tmm3",
                panel = inout(reg) panel.as_ptr() => _,
                x0 = inout(reg) x[0].as_ptr() => _,
                x1 = inout(reg) x[1].as_ptr() => _,
                blocks = inout(reg) x[0].len() => _,
                sums = in(reg) sums.0.as_mut_ptr(),
                stride = in(reg) 128_usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
