//! The measured workloads on memory blocks.

pub mod batch;
pub mod cache_lines;
pub mod handover;
pub mod larson;
pub mod mstress;
pub mod pair;
pub mod replay;
pub mod together;
pub mod xmalloc;

use std::hint::black_box;

use serde::{Deserialize, Serialize};

use crate::blocks::Blocks;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// The bytes written to a new block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touch {
    /// Its first eight bytes.
    First,
    /// The first eight bytes of each page of 4 KiB.
    Pages,
}

/// Writes to a block of `bytes` bytes and passes its address to `black_box`, so that neither is optimised away.
#[inline]
pub fn touch<B: Blocks>(block: &mut B::Block, bytes: usize, touch: Touch) {
    match touch {
        Touch::First => B::write(block, 0, bytes as u64),
        Touch::Pages => (0..bytes).step_by(PAGE).for_each(|at| B::write(block, at, at as u64)),
    }
    black_box(B::address(block));
}
