//! Memory overhead of an allocator, measured by the OS.

use serde::{Deserialize, Serialize};

use bitnet_core::rng::SplitMix64;

use crate::blocks::Blocks;
use crate::smaps;

/// The live blocks during the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mix {
    /// 64 MiB in blocks of 64 bytes to below 1 MiB, log-uniform in powers of two.
    Small,
    /// 384 MiB in blocks of 1 to 32 MiB, in whole pages.
    Large,
    /// One block of 626 MiB: the embedding table of BitNet b1.58 2B4T in half precision.
    Embedding,
}

/// Bytes of the embedding table `[128256, 2560]`.
const EMBEDDING: usize = 128_256 * 2560 * 2;

impl Mix {
    /// Returns the blocks' sizes, in whole cache lines.
    pub fn sizes(self) -> Vec<usize> {
        let mut rng = SplitMix64::new(3);
        let (whole, draw): (usize, fn(&mut SplitMix64) -> usize) = match self {
            Self::Small => (64 << 20, |rng| {
                let low = 1 << rng.below(14);
                (low + rng.below(low)) * 64
            }),
            Self::Large => (384 << 20, |rng| (1 << 20) + rng.below(31 * 256 + 1) * 4096),
            Self::Embedding => (EMBEDDING, |_| EMBEDDING),
        };
        let mut left = whole;
        let mut sizes = Vec::new();
        while left > 0 {
            let size = draw(&mut rng).min(left);
            left -= size;
            sizes.push(size);
        }
        sizes
    }
}

/// Overhead relative to the requested bytes: 0.02 is two percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Footprint {
    /// Resident memory above the requested bytes, all of which were written.
    pub resident: f64,
    /// Address space above the requested bytes.
    pub mapped: f64,
    /// Resident memory after all blocks were freed.
    pub retained: f64,
}

/// Measures with the blocks of `mix` alive and written.
///
/// # Errors
/// A message if the allocation fails or the OS does not report memory.
pub fn footprint<B: Blocks>(blocks: &B, mix: Mix) -> Result<Footprint, String> {
    let count = || smaps::anonymous().ok_or("this system has no /proc/self/smaps".to_owned());
    let sizes = mix.sizes();
    // The vector of block owners is memory as well, so it is written before the first measurement.
    let mut owners: Vec<Option<B::Block>> = sizes.iter().map(|_| None).collect();
    count()?;
    let before = count()?;
    for (owner, &bytes) in owners.iter_mut().zip(&sizes) {
        let mut block = blocks.take(bytes).map_err(|refused| refused.to_string())?;
        B::fill(&mut block, bytes);
        std::hint::black_box(B::address(&block));
        *owner = Some(block);
    }
    let full = count()?;
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    SplitMix64::new(5).shuffle(&mut order);
    for place in order {
        if let Some(block) = owners[place].take() {
            blocks.free(block);
        }
    }
    let empty = count()?;
    let asked = sizes.iter().sum::<usize>() as f64;
    let growth = |now: u64, then: u64| now as f64 - then as f64;
    Ok(Footprint {
        resident: growth(full.resident, before.resident) / asked - 1.0,
        mapped: growth(full.mapped, before.mapped) / asked - 1.0,
        retained: growth(empty.resident, before.resident) / asked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_add_up() {
        let small = Mix::Small.sizes();
        assert_eq!(small.iter().sum::<usize>(), 64 << 20);
        assert!(small.iter().all(|size| (64..1 << 20).contains(size) && size % 64 == 0));
        let large = Mix::Large.sizes();
        assert_eq!(large.iter().sum::<usize>(), 384 << 20);
        assert!(large.iter().rev().skip(1).all(|size| (1 << 20..=32 << 20).contains(size)));
        assert_eq!(Mix::Embedding.sizes(), [656_670_720]);
    }
}
