//! Models whose settings say that the head is the embedding table, with files that hold both.

use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};

use super::Checkpoint;
use crate::Result;

/// Compares head and embedding table. Returns what is assumed if their numbers differ: the head is used then, as in
/// transformers 5.
///
/// # Errors
/// Those of [`Checkpoint::dense`], and for a file without one of them.
pub(super) fn differing_head(checkpoint: &impl Checkpoint) -> Result<Option<String>> {
    const HEAD: &str = "output";
    const TABLE: &str = "token_embd";
    let (rows, cols) = (checkpoint.config().vocab_size, checkpoint.config().hidden);
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let numbers = |name| -> Result<Arc<dyn DenseRows>> {
        let found = checkpoint.dense(name, rows, cols, &pool)?;
        found.ok_or_else(|| checkpoint.missing(name))
    };
    if same_numbers(&*numbers(HEAD)?, &*numbers(TABLE)?)? {
        return Ok(None);
    }
    let [head, table] = [HEAD, TABLE].map(|name| checkpoint.name_in_file(name));
    Ok(Some(format!(
        "config.json says tie_word_embeddings, but {head} differs from {table}: it is the head, as in transformers"
    )))
}

/// Whether two matrices hold the same numbers.
fn same_numbers(a: &dyn DenseRows, b: &dyn DenseRows) -> Result<bool> {
    let (mut left, mut right) = (vec![0.0; a.cols()], vec![0.0; b.cols()]);
    let mut same = (a.rows(), a.cols()) == (b.rows(), b.cols());
    for row in 0..a.rows() {
        if !same {
            break;
        }
        a.decode_row(row, &mut left)?;
        b.decode_row(row, &mut right)?;
        same = left == right;
    }
    a.release();
    b.release();
    Ok(same)
}
