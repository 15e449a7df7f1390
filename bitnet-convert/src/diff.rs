//! Tensor-by-tensor comparison of two models, as the engine reads them.

use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::names::gguf_name;
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::in_parallel;
use bitnet_quant::loss::{Loss, LossMeter};
use bitnet_quant::weights::dequantize_row;

use crate::digest::Digest;
use crate::encode::engine_trits;
use crate::order::{Order, Orders};
use crate::report::stored_name;
use crate::tensors::{self, Kind, ModelTensor};
use crate::{Error, Result};

/// The difference of a tensor between two models.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// Every number is equal.
    Equal,
    /// The tensor is in the first model only.
    OnlyFirst,
    /// The tensor is in the second model only.
    OnlySecond,
    /// The shapes differ; the value is that of the second model.
    Shape([usize; 2]),
    /// The numbers differ.
    Numbers {
        /// The error of the second model's numbers relative to the first's.
        loss: Loss,
        /// The number of different trits, if both are ternary.
        trits: Option<u64>,
    },
}

/// A tensor of two models.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDifference {
    /// Its name in GGUF files.
    pub name: String,
    /// `[rows, cols]` in the first model that has it.
    pub shape: [usize; 2],
    /// Its types in both files.
    pub types: [Option<String>; 2],
    /// The difference.
    pub difference: Difference,
}

/// A tensor as read by the engine.
enum Numbers {
    Ternary(TernaryMatrix),
    Dense(Arc<dyn DenseRows>, f32),
}

/// Compares every tensor of two models as read by the engine: full-precision masters as trits, rows of query and key
/// heads in the first model's order. `on_done` receives (finished tensors, total tensors).
///
/// # Errors
/// Errors of reading either model.
pub fn diff(
    first: &ModelFiles,
    second: &ModelFiles,
    threads: usize,
    on_done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<TensorDifference>> {
    let (a, b) = (tensors::of(first)?, tensors::of(second)?);
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let only_second = b.iter().filter(|tensor| !a.iter().any(|other| other.name == tensor.name));
    let all: Vec<(Option<&ModelTensor>, Option<&ModelTensor>)> = a
        .iter()
        .map(|tensor| (Some(tensor), b.iter().find(|other| other.name == tensor.name)))
        .chain(only_second.map(|tensor| (None, Some(tensor))))
        .collect();
    let compare = |index: usize| {
        let (in_first, in_second) = all[index];
        let types = [
            in_first.and_then(|tensor| stored_name(first, tensor)),
            in_second.and_then(|tensor| stored_name(second, tensor)),
        ];
        let difference = match (in_first, in_second) {
            (Some(a), Some(b)) if (a.rows, a.cols) != (b.rows, b.cols) => {
                Difference::Shape([b.rows, b.cols])
            }
            (Some(tensor), Some(_)) => numbers_differ(first, second, tensor, &pool)?,
            (Some(_), None) => Difference::OnlyFirst,
            (None, _) => Difference::OnlySecond,
        };
        let tensor = in_first.or(in_second).ok_or_else(|| Error::refused("tensor", "nowhere"))?;
        let (name, shape) = (gguf_name(&tensor.stem()), [tensor.rows, tensor.cols]);
        Ok::<_, Error>(TensorDifference { name, shape, types, difference })
    };
    let out = in_parallel(all.len(), threads, compare, on_done)?;
    first.check()?;
    second.check()?;
    Ok(out)
}

fn numbers_differ(
    first: &ModelFiles,
    second: &ModelFiles,
    tensor: &ModelTensor,
    pool: &HybridMemoryPool,
) -> Result<Difference> {
    let to = Orders::of_model(first.config());
    let order = Order::of(tensor, second.config(), Orders::of_model(second.config()), to);
    let mut free = vec![0.0; tensor.cols];
    if tensor.kind == Kind::Vector {
        let stem = tensor.stem();
        let read = |files: &ModelFiles| {
            files.vector(&stem, tensor.cols)?.ok_or_else(|| files.missing(&stem))
        };
        let mut meter = LossMeter::new();
        let mut theirs = read(second)?;
        if let Some(order) = order {
            order.move_cols(&mut theirs, &mut free);
        }
        push(&mut meter, &stem, &read(first)?, &theirs)?;
        return Ok(outcome(&meter, None));
    }
    let (a, b) = (numbers(first, tensor, pool)?, numbers(second, tensor, pool)?);
    let mut differing = None;
    if let (Numbers::Ternary(a), Numbers::Ternary(b)) = (&a, &b) {
        if order.is_none() && Digest::of_weights(a) == Digest::of_weights(b) {
            return Ok(Difference::Equal);
        }
        differing = Some(differing_trits(a, b, order));
    }
    let mut meter = LossMeter::new();
    let (mut ours, mut theirs) = (vec![0.0; tensor.cols], vec![0.0; tensor.cols]);
    for row in 0..tensor.rows {
        read_row(&a, row, &mut ours)?;
        read_row(&b, order.map_or(row, |order| order.source_row(row)), &mut theirs)?;
        if let Some(order) = order {
            order.move_cols(&mut theirs, &mut free);
        }
        push(&mut meter, &tensor.stem(), &ours, &theirs)?;
    }
    for numbers in [&a, &b] {
        if let Numbers::Dense(rows, _) = numbers {
            rows.release();
        }
    }
    Ok(outcome(&meter, differing))
}

fn push(meter: &mut LossMeter, stem: &str, a: &[f32], b: &[f32]) -> Result<()> {
    meter.push(a, b).map_err(|source| Error::tensor(stem, "numbers", source))
}

fn outcome(meter: &LossMeter, trits: Option<u64>) -> Difference {
    let loss = meter.loss();
    if loss.mse == 0.0 { Difference::Equal } else { Difference::Numbers { loss, trits } }
}

fn numbers(files: &ModelFiles, tensor: &ModelTensor, pool: &HybridMemoryPool) -> Result<Numbers> {
    let stem = tensor.stem();
    let missing = || Error::from(files.missing(&stem));
    if tensor.kind != Kind::Linear {
        let rows = files.dense(&stem, tensor.rows, tensor.cols, pool)?.ok_or_else(missing)?;
        return Ok(Numbers::Dense(rows, 1.0));
    }
    let stored = files.linear(&stem, tensor.rows, tensor.cols, pool)?.ok_or_else(missing)?;
    Ok(match engine_trits(stored, &|scale| scale, pool)? {
        Ok((matrix, _)) => Numbers::Ternary(matrix),
        Err((rows, scale)) => Numbers::Dense(rows, scale.unwrap_or(1.0)),
    })
}

fn read_row(numbers: &Numbers, row: usize, out: &mut [f32]) -> Result<()> {
    match numbers {
        Numbers::Ternary(matrix) => dequantize_row(matrix, row, out),
        Numbers::Dense(rows, factor) => {
            rows.decode_row(row, out)?;
            if *factor != 1.0 {
                out.iter_mut().for_each(|number| *number *= factor);
            }
        }
    }
    Ok(())
}

/// Counts different trits, with the second matrix in the first one's order.
fn differing_trits(a: &TernaryMatrix, b: &TernaryMatrix, order: Option<Order>) -> u64 {
    let row_of = |row: usize| order.map_or(row, |order| order.source_row(row));
    let (mut ours, mut theirs) = (vec![0; a.cols()], vec![0; b.cols()]);
    let mut by_cols = |order: Order, row: usize| {
        a.unpack_row(row, &mut ours);
        b.unpack_row(row_of(row), &mut theirs);
        ours.iter().enumerate().filter(|(col, own)| **own != theirs[order.source_col(*col)]).count()
    };
    let by_words = |row: usize| {
        let words = a.row_words(row).iter().zip(b.row_words(row_of(row)));
        words
            .map(|(a, b)| {
                let bits = a ^ b;
                u64::from(((bits | (bits >> 1)) & 0x5555_5555).count_ones())
            })
            .sum::<u64>()
    };
    match order.filter(|order| order.moves_cols()) {
        Some(order) => (0..a.rows()).map(|row| by_cols(order, row) as u64).sum(),
        None => (0..a.rows()).map(by_words).sum(),
    }
}
