//! Preparation: weights and heads in the layout of a back end's kernels.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::dense::DenseRows;
use super::prepared_parts::PreparedParts;
use super::top_logits::{Guarantee, HeadWeight};
use crate::memory::HybridMemoryPool;
use crate::ternary::TernaryMatrix;
use crate::{Error, Result};

/// A ternary weight in the layout of a back end's kernels, made by [`Preparation::prepare`].
pub trait TernaryWeight: Debug + Send + Sync + Any {
    /// Output features.
    fn rows(&self) -> usize;

    /// Input features.
    fn cols(&self) -> usize;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// Returns the arrays from which [`Preparation::prepare_from_parts`]
    /// restores the weight; empty if it cannot be cached.
    fn parts(&self) -> PreparedParts {
        PreparedParts::default()
    }

    /// Returns `self` for a downcast by the back end that made it.
    fn as_any(&self) -> &dyn Any;
}

/// Brings weights into the layout of a back end's kernels, once, when a model is loaded.
pub trait Preparation {
    /// Returns the pool that holds prepared weights; `None` if the back end holds only what it is passed.
    fn pool(&self) -> Option<&HybridMemoryPool> {
        None
    }

    /// Takes a ternary matrix into the layout of this back end's kernels.
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>>;

    /// As [`Preparation::prepare`], for a layer whose input holds many exact zeros: the back end may hold what it needs
    /// to skip the weights of zero inputs. Results are those of [`Preparation::prepare`], bit for bit.
    fn prepare_for_sparse_input(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.prepare(matrix)
    }

    /// Names the layout of [`TernaryWeight::parts`] on this back end; the name changes whenever the parts of the same
    /// matrix change. `None` if weights of this back end cannot be cached.
    fn parts_layout(&self) -> Option<String> {
        None
    }

    /// Restores the weight whose [`TernaryWeight::parts`] these are. Parts are not trusted: their lengths and values
    /// are checked.
    ///
    /// # Errors
    /// [`Error::BadPart`].
    fn prepare_from_parts(&self, parts: &PreparedParts) -> Result<Box<dyn TernaryWeight>> {
        Err(unsupported(parts))
    }

    /// Takes a dense matrix (an embedding table, a head, a layer that is not ternary) into the memory of this back end.
    /// The rows that are returned hold the same numbers.
    ///
    /// # Errors
    /// Those of reading the rows, and [`Error::OutOfMemory`].
    fn prepare_dense(&self, rows: Arc<dyn DenseRows>) -> Result<Arc<dyn DenseRows>> {
        Ok(rows)
    }

    /// Prepares an output head for [`Operations::top_logits`](super::Operations::top_logits); `None` if this back end
    /// finds the largest logits no faster than [`Operations::linear`](super::Operations::linear) computes all of them.
    ///
    /// # Errors
    /// Those of reading the rows, and [`Error::OutOfMemory`].
    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        let _ = (rows, guarantee);
        Ok(None)
    }

    /// Restores the head whose [`HeadWeight::parts`] these are, over the same stored rows. The layout of the parts goes
    /// with [`Preparation::parts_layout`]. Lengths and values are checked; that the parts belong to these rows is not.
    ///
    /// # Errors
    /// [`Error::BadPart`].
    fn prepare_head_from_parts(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
        parts: &PreparedParts,
    ) -> Result<Box<dyn HeadWeight>> {
        let _ = (rows, guarantee);
        Err(unsupported(parts))
    }
}

/// The error of a back end that restores nothing.
fn unsupported(parts: &PreparedParts) -> Error {
    let name = parts.iter().next().map_or("", |(name, _)| name).to_owned();
    Error::BadPart { part: name, problem: "is of no use to this back end".into() }
}
