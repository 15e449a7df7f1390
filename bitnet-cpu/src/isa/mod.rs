//! Instruction sets: the few instructions over which every kernel is written once.
//!
//! A kernel is an [`Op`] over [`Isa`], which is three narrow traits: [`Int8Dot`] (products of codes and 8-bit
//! activations), [`FloatLanes`] (sixteen f32 lanes) and [`Int4Dot`] (products of 4-bit codes). Traits also hold the
//! algorithms that most levels share, as provided methods; a file of a level says only what it does
//! differently. [`AnyIsa`] chooses at run time.

mod amx;
mod dispatch;
mod float;
mod int4;
mod int8;
mod peak;
mod plain;
mod scalar;
mod vbmi;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_quantize;
#[cfg(target_arch = "x86_64")]
mod avx2_sparse;
#[cfg(target_arch = "x86_64")]
mod avx2_tile8;
#[cfg(target_arch = "x86_64")]
mod avx512_panel;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni_panel;
// The kernels read words as bytes, so they are for little-endian processors.
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon_dotprod;

pub(crate) use amx::{Amx, TILE_TOKENS, TileSums, Tiles, TokenTile, halves_in_order};
pub(crate) use dispatch::AnyIsa;
#[allow(unused_imports, reason = "only levels of x86-64 and 64-bit Arm extend another one")]
use float::Extension;
pub(crate) use float::{FloatLanes, LANES, f16_to_f32};
pub(crate) use int4::{Int4Dot, MOST_ELEMENTS, NIBBLES, NibbleBlock, WideBlock};
pub(crate) use int8::{
    ActivationBlock, COLUMN_PAIRS, CodeBlock, ColumnAcc16, ColumnPair, Int8Dot, PANEL_ROWS,
    PanelHalf, PlaneSums,
};
pub use peak::IntegerPeak;
pub(crate) use peak::{ROUNDS as PEAK_ROUNDS, measure as measure_integer_peak};
#[cfg(test)]
pub(crate) use vbmi::unpack_group;
pub(crate) use vbmi::{CodeGroup, GROUP_BLOCKS, GroupedActivations, Vbmi, pack_group};

/// An instruction set. A value of the type is the proof that the processor has it.
///
/// Methods of its traits are called only from code that [`Isa::run`] entered, or they do not inline.
pub(crate) trait Isa:
    FloatLanes + Int8Dot<Acc32 = <Self as FloatLanes>::Sums> + Int4Dot + Send + Sync
{
    /// Returns the instruction set, if the processor reports it.
    fn detect() -> Option<Self>;

    /// Runs `op` in a function compiled for this instruction set.
    fn run<O: Op>(self, op: O) -> O::Output;
}

/// A kernel, written once for all instruction sets.
pub(crate) trait Op {
    /// The kernel's result.
    type Output;

    /// Computes it. `#[inline(always)]`, as everything that it calls in its loops.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;
}

/// Asks for a cache line that will be read soon. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<X>(line: *const X) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; a prefetch neither reads nor faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
