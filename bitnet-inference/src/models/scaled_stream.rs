//! Scaled embeddings, residual branches and logits (MiniCPM; of Gemma 3 the first alone), held so that the decoder is Llama's.
//!
//! ```text
//! h = e * E[token];  h += r * branch(norm(h)) ...;  logits = l * head(norm(h))
//! ```
//!
//! The stream is held as `g = h / r`: its embeddings are `(e / r) * E[token]`, branches are added as they are, and norms,
//! which do not change with the size of their input, have `eps / r²` in place of `eps`. The norm before the head takes `l`.

use std::sync::Arc;

use bitnet_core::Result;
use bitnet_core::dense::DenseRows;

/// The factors of a scaled stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamScales {
    /// `e`: on embeddings.
    pub embedding: f32,
    /// `r`: on what each half of a layer adds.
    pub residual: f32,
    /// `l`: on logits.
    pub logits: f32,
}

impl StreamScales {
    /// Embeddings multiplied by the root of their width, and nothing else scaled.
    ///
    /// transformers rounds the root to the type of the weights that it computes with: here, as with weights in float32, it
    /// is an f32.
    pub fn root_of(width: usize) -> Self {
        Self { embedding: (width as f64).sqrt() as f32, residual: 1.0, logits: 1.0 }
    }

    /// The factor on embeddings of the stream that is held.
    pub(crate) fn of_embeddings(self) -> f32 {
        self.embedding / self.residual
    }

    /// Returns the name of a factor that is impossible, and its value.
    pub(super) fn fault(self) -> Option<(&'static str, f32)> {
        let factors =
            [("embedding", self.embedding), ("residual", self.residual), ("logit", self.logits)];
        factors.into_iter().find(|(_, factor)| !(factor.is_finite() && *factor > 0.0))
    }
}

/// Rows multiplied by a factor.
#[derive(Debug)]
pub(crate) struct ScaledRows {
    rows: Arc<dyn DenseRows>,
    factor: f32,
}

impl ScaledRows {
    pub(crate) fn new(rows: Arc<dyn DenseRows>, factor: f32) -> Self {
        Self { rows, factor }
    }
}

impl DenseRows for ScaledRows {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn type_name(&self) -> &'static str {
        self.rows.type_name()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.rows.decode_row(row, out)?;
        out.iter_mut().for_each(|number| *number *= self.factor);
        Ok(())
    }

    fn release(&self) {
        self.rows.release();
    }
}
