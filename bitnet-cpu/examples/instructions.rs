//! Calls one operation a given number of times, for programs that count instructions.
//!
//! `instructions TIMES [TOKENS]` multiplies `[TOKENS, 2560]` by ternary `[6912, 2560]` on one thread, `TIMES` times.
//! The difference between two counts, divided by that of `TIMES`, is the cost of one call: `scripts/emulate.sh count`.

use bitnet_core::Result;
use bitnet_core::backend::{ActivationPrecision, Backend, Operations, Preparation};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_cpu::{CpuBackend, CpuOptions};

const ROWS: usize = 6912;
const COLS: usize = 2560;

fn argument(index: usize, otherwise: usize) -> usize {
    std::env::args().nth(index).and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

fn main() -> Result<()> {
    let (times, tokens) = (argument(1, 1), argument(2, 1));
    let backend = CpuBackend::new(CpuOptions { threads: Some(1), isa: None })?;
    let pool = HybridMemoryPool::new()?;
    let values: Vec<f32> = (0..tokens * COLS).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let x = BitNetTensor::from_f32(&[tokens, COLS], &values, &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, ROWS], &pool)?;
    let trits: Vec<i8> = (0..ROWS * COLS).map(|i| (i * 7 % 3) as i8 - 1).collect();
    let matrix =
        TernaryMatrix::from_trits(ROWS, COLS, &trits, ScaleGranularity::Tensor, vec![1.0])?;
    let weight = backend.prepare(matrix)?;
    for _ in 0..times {
        backend.bit_linear(&x, ActivationPrecision::Int8, &[&*weight], &mut [&mut out])?;
    }
    println!("{}: {times} times {tokens} tokens, out[0] = {}", backend.describe(), out.f32()?[0]);
    Ok(())
}
