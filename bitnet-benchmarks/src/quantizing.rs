//! Quantisation on one thread, compared with reading the same number of bytes.

use std::hint::black_box;

use bitnet_core::dense::DenseRows;
use bitnet_core::rng::SplitMix64;
use bitnet_core::simd::sum_words;
use bitnet_core::ternary::ScaleGranularity;
use bitnet_quant::activations::{ActivationBits, ActivationQuantizer, ActivationRange};
use bitnet_quant::codec::dense::{DenseMatrix, DenseType, encode_row};
use bitnet_quant::quantizer::{Absmean, LeastSquares, Quantizer, Settings};
use bitnet_quant::weights::{absmean, dequantize_row, detect_ternary};

use crate::sampling::{Plan, timed};

/// The measured subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// This project's quantisers.
    Quantizer,
    /// The sum of 64-bit words of the larger of input and output.
    Reading,
}

/// A task on [`ROWS`] by [`COLS`] weights or on [`TOKENS`] tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Absmean with one scale.
    Absmean(DenseType),
    /// Absmean with the quantisation error.
    Measured(DenseType),
    /// Absmean with a scale per group of this size.
    Grouped(DenseType, usize),
    /// Least squares.
    LeastSquares(DenseType),
    /// Detection of ternary weights.
    Detect(DenseType),
    /// Trits to f32.
    Dequantize,
    /// Activations to int8 with one scale per token.
    Activations,
}

/// Rows of the weights.
pub const ROWS: usize = 1024;
/// Columns of the weights.
pub const COLS: usize = 1024;
/// Tokens of the activations.
pub const TOKENS: usize = 64;
/// Width of a token.
pub const WIDTH: usize = 2560;

/// Measures nanoseconds per `task`.
///
/// # Errors
/// A message.
pub fn quantizing(variant: Variant, task: Task, plan: &Plan) -> Result<Vec<f64>, String> {
    with_task(task, |bytes, work| match variant {
        Variant::Quantizer => timed(plan, 1.0, work),
        Variant::Reading => {
            let words = vec![0x5555_5555_5555_5555u64; bytes / 8];
            timed(plan, 1.0, || {
                black_box(sum_words(black_box(&words)));
                Ok(())
            })
        }
    })
}

/// Returns normally distributed numbers, the same in every process.
fn numbers(count: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(158);
    (0..count).map(|_| random.normal_pair()[0] as f32 * 0.02).collect()
}

fn stored(dtype: DenseType, values: &[f32]) -> Result<DenseMatrix<Vec<u8>>, String> {
    let said = |error: bitnet_quant::Error| error.to_string();
    let mut bytes = Vec::new();
    for (row, values) in values.chunks(COLS).enumerate() {
        encode_row(dtype, row, values, &mut bytes).map_err(said)?;
    }
    DenseMatrix::new(dtype, values.len() / COLS, COLS, bytes).map_err(said)
}

/// Passes the larger of input and output bytes and the task to `with`.
fn with_task<T>(
    task: Task,
    with: impl FnOnce(usize, &mut dyn FnMut() -> Result<(), String>) -> Result<T, String>,
) -> Result<T, String> {
    let said = |error: bitnet_quant::Error| error.to_string();
    let of = |dtype| stored(dtype, &numbers(ROWS * COLS));
    let settings = Settings::default();
    match task {
        Task::Absmean(dtype) => {
            let weights = of(dtype)?;
            with(weights.bytes(), &mut || {
                absmean(&weights, ScaleGranularity::Tensor, None).map(drop).map_err(said)
            })
        }
        Task::Measured(dtype) => {
            let weights = of(dtype)?;
            let work = || Absmean.quantize_measured(&weights, &settings).map(drop).map_err(said);
            with(weights.bytes(), &mut { work })
        }
        Task::Grouped(dtype, n) => {
            let (weights, groups) = (of(dtype)?, ScaleGranularity::Group(n));
            with(weights.bytes(), &mut || absmean(&weights, groups, None).map(drop).map_err(said))
        }
        Task::LeastSquares(dtype) => {
            let weights = of(dtype)?;
            let work = || LeastSquares.quantize(&weights, &settings).map(drop).map_err(said);
            with(weights.bytes(), &mut { work })
        }
        Task::Detect(dtype) => {
            let signs: Vec<f32> =
                numbers(ROWS * COLS).iter().map(|x| (x * 40.0).round().clamp(-1.0, 1.0)).collect();
            let weights = stored(dtype, &signs)?;
            with(weights.bytes(), &mut || match detect_ternary(&weights, None).map_err(said)? {
                Some(_) => Ok(()),
                None => Err("ternary weights were not detected".into()),
            })
        }
        Task::Dequantize => {
            let trits =
                absmean(&of(DenseType::F32)?, ScaleGranularity::Tensor, None).map_err(said)?;
            let mut out = vec![0f32; ROWS * COLS];
            with(ROWS * COLS * 4, &mut || {
                for (row, out) in out.chunks_exact_mut(COLS).enumerate() {
                    dequantize_row(&trits, row, out);
                }
                black_box(&mut out);
                Ok(())
            })
        }
        Task::Activations => {
            let (x, mut q) = (numbers(TOKENS * WIDTH), vec![0i8; TOKENS * WIDTH]);
            let quantizer = ActivationQuantizer::new(ActivationBits::Int8, ActivationRange::Absmax)
                .map_err(said)?;
            with(x.len() * 4, &mut || quantizer.quantize(&x, WIDTH, &mut q).map(drop).map_err(said))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_by_both() {
        for task in [
            Task::Absmean(DenseType::BF16),
            Task::Measured(DenseType::F32),
            Task::Grouped(DenseType::BF16, 64),
            Task::LeastSquares(DenseType::BF16),
            Task::Detect(DenseType::F16),
            Task::Dequantize,
            Task::Activations,
        ] {
            for variant in [Variant::Quantizer, Variant::Reading] {
                let samples = quantizing(variant, task, &Plan::ONCE).unwrap();
                assert!(samples.iter().all(|&time| time > 0.0), "{task:?} {variant:?}");
            }
        }
    }
}
