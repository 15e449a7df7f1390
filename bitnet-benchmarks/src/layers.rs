//! Ternary layers on one thread, at each instruction set level of this processor.

use bitnet_core::backend::{ActivationPrecision, Counters, Operations, Preparation, TernaryWeight};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::rng::SplitMix64;
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_cpu::{CpuBackend, CpuOptions};

use crate::sampling::{Plan, timed};

/// Layers of `rows` by `cols`, which take turns, and the tokens that meet one of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Output features.
    pub rows: usize,
    /// Input features, a multiple of 16.
    pub cols: usize,
    /// Layers.
    pub count: usize,
    /// Tokens.
    pub tokens: usize,
}

/// Measures layers on 8-bit activations, their quantisation and the rescaling of results included: multiply-adds and
/// bytes of codes a nanosecond, and the share of the peak of the level's integer multiply-add, 0 where it has none.
///
/// # Errors
/// A message, if the level is not there or memory is exhausted.
pub fn layers(level: IsaLevel, layers: Layers, plan: &Plan) -> Result<[Vec<f64>; 3], String> {
    measure(level, layers, plan).map_err(|error| error.to_string())
}

fn measure(
    level: IsaLevel,
    Layers { rows, cols, count, tokens }: Layers,
    plan: &Plan,
) -> bitnet_core::Result<[Vec<f64>; 3]> {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let cpu = CpuBackend::in_pool(CpuOptions { threads: Some(1), isa: Some(level) }, &pool)?;
    let mut random = SplitMix64::new(19);
    let mut weights: Vec<Box<dyn TernaryWeight>> = Vec::with_capacity(count);
    for _ in 0..count {
        weights.push(cpu.prepare(matrix(rows, cols, &mut random)?)?);
    }
    let numbers: Vec<f32> = (0..tokens * cols).map(|_| random.normal_pair()[0] as f32).collect();
    let x = BitNetTensor::from_f32(&[tokens, cols], &numbers, &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, rows], &pool)?;
    let read = || cpu.traffic().map_or(0, |traffic| traffic.ternary_bytes) as f64;
    let (before, mut calls) = (read(), 0);
    let times = timed(plan, 1.0, || {
        let weight = &*weights[calls % count];
        calls += 1;
        cpu.bit_linear(&x, ActivationPrecision::Int8, &[weight], &mut [&mut out])
    })?;
    let bytes = (read() - before) / calls as f64;
    let peak = cpu.measure_integer_peak();
    let peak = peak.map_or(f64::INFINITY, |peak| peak.macs_per_second / 1e9);
    let macs = (tokens * rows * cols) as f64;
    let each = |work: f64| times.iter().map(|time| work / time).collect();
    Ok([each(macs), each(bytes), each(macs / peak)])
}

/// A matrix of random trits with one scale.
fn matrix(rows: usize, cols: usize, random: &mut SplitMix64) -> bitnet_core::Result<TernaryMatrix> {
    /// Bits 0 of sixteen codes.
    const LOW: u32 = 0x5555_5555;
    let words_per_row = cols.next_multiple_of(128) / 16;
    let mut words = vec![LOW; rows * words_per_row];
    for row in words.chunks_exact_mut(words_per_row) {
        for word in &mut row[..cols / 16] {
            // Codes 0, 1 and 2: the upper bit only where the lower one is not set.
            let bits = random.next_u64();
            let low = bits as u32 & LOW;
            *word = low | (((bits >> 32) as u32 & LOW & !low) << 1);
        }
    }
    TernaryMatrix::from_words(rows, cols, words.into(), ScaleGranularity::Tensor, vec![0.02])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_measured() {
        for level in IsaLevel::available() {
            for tokens in [1, 9] {
                let shape = Layers { rows: 40, cols: 272, count: 2, tokens };
                let [macs, bytes, share] = layers(level, shape, &Plan::ONCE).unwrap();
                let codes = macs[0] / (tokens * 40 * 272) as f64 * (40 * 96) as f64;
                assert!(macs[0] > 0.0 && (bytes[0] / codes - 1.0).abs() < 1e-9, "{level}");
                assert_eq!(share[0] > 0.0, level != IsaLevel::Scalar, "{level}");
            }
        }
    }
}
