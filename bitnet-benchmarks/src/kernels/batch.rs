//! Allocates many blocks, then frees them in random order.

use std::time::{Duration, Instant};

use bitnet_core::rng::SplitMix64;

use crate::blocks::{Blocks, Refused};
use crate::kernels::{Touch, touch};
use crate::sampling::{Plan, sample};

/// Measures nanoseconds per allocation and per free, with blocks of all `sizes` alive in between.
///
/// # Errors
/// [`Refused`] if an allocation fails.
pub fn batch<B: Blocks>(
    blocks: &B,
    plan: &Plan,
    sizes: &[usize],
) -> Result<[Vec<f64>; 2], Refused> {
    let mut rng = SplitMix64::new(7);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    rng.shuffle(&mut order);
    let mut alive: Vec<Option<B::Block>> = sizes.iter().map(|_| None).collect();
    sample(plan, sizes.len() as f64, |rounds| {
        let (mut taking, mut giving) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            let start = Instant::now();
            for (place, &bytes) in alive.iter_mut().zip(sizes) {
                let mut block = blocks.take(bytes)?;
                touch::<B>(&mut block, bytes, Touch::First);
                *place = Some(block);
            }
            let taken = Instant::now();
            for &place in &order {
                if let Some(block) = alive[place].take() {
                    blocks.free(block);
                }
            }
            giving += taken.elapsed();
            taking += taken - start;
        }
        Ok([taking, giving])
    })
}
