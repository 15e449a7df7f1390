//! A layer that drafts the token after the next one (multi-token prediction), and what it reads and gives.
//!
//! ```text
//! x  = L_join( [ norm_e(E[token]), norm_h(state) ] )     state: that of the model before `token`, after the output norm
//! s  = norm( layer(x) )                                   the state before the drafted token
//! logits = head(s)
//! ```
//!
//! Sources: DeepSeek-V3 (2024), section 2.2; the tensors `nextn.*` of llama.cpp.

use bitnet_core::kv::{KvCache, KvShape, KvType};
use bitnet_core::memory::Purpose;
use bitnet_core::memory::tensor::BitNetTensor;

use super::layer::{Few, TokenSpan};
use super::linear::Projection;
use super::observer::{DRAFT_JOIN, InputObserver};
use super::{Decoder, Layer};
use crate::cache;
use crate::{InferenceError, Result};

/// A layer that drafts tokens.
#[derive(Debug)]
pub struct DraftHead {
    /// Norm of the token's embedding, `[hidden]`.
    pub embedding_norm: BitNetTensor,
    /// Norm of the state before the token, `[hidden]`.
    pub state_norm: BitNetTensor,
    /// Projection of both, `[hidden, 2 * hidden]`.
    pub join: Projection,
    /// The layer, the only one in its cache.
    pub layer: Layer,
    /// Norm before the head, `[hidden]`; the model's own where there is none.
    pub output_norm: Option<BitNetTensor>,
}

impl Decoder {
    /// Returns an empty cache for `capacity` positions of the layer that drafts tokens.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn new_draft_cache(&self, capacity: usize, kind: KvType) -> Result<KvCache> {
        let pool = self.pool().for_purpose(Purpose::KvCache);
        let (kv_heads, head_dim) = (self.config.kv_heads, self.config.head_dim);
        let shape = KvShape { kind, layers: 1, kv_heads, head_dim };
        Ok(self.backend().kv_cache(shape, capacity, &pool)?)
    }

    /// Runs the layer that drafts tokens for `tokens` and the states before each of them, `[tokens, hidden]`, after what
    /// `cache` holds. A state is what [`Decoder::normed`] returns of the token before, or what this returned for it.
    /// Returns the states before the tokens after them, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] for a model without such a layer, and those of [`Decoder::forward`].
    pub fn draft_states(
        &self,
        tokens: &[u32],
        states: &BitNetTensor,
        cache: &mut KvCache,
    ) -> Result<BitNetTensor> {
        let draft = self.draft.as_ref().ok_or_else(|| {
            InferenceError::unsupported(
                "drafting with a model without a layer for it",
                "--draft ngram is",
            )
        })?;
        cache::reserve(cache, tokens.len())?;
        let first = cache.len();
        let positions: Few<_> = (first..first + tokens.len()).collect();
        let rope = self.ropes(first + tokens.len())?;
        let pass = self.pass(&rope, &positions);
        let embedding = pass.norm(&self.embed(tokens)?, &draft.embedding_norm)?;
        let states = pass.norm(states, &draft.state_norm)?;
        let pairs: Vec<_> =
            (0..tokens.len()).flat_map(|row| [(&embedding, row), (&states, row)]).collect();
        let pairs = self.backend().rows(&pairs, self.pool())?;
        let pairs = pairs.view(&[tokens.len(), 2 * self.config.hidden])?;
        // Layers that draft are not observed.
        let mut observer = InputObserver::new(self.layers.len(), None);
        let join = std::array::from_ref(&draft.join);
        let [mut h] = self.compute.project(&pairs, join, DRAFT_JOIN, &mut observer)?;
        let mut spans = [TokenSpan { cache, first, tokens: tokens.len() }];
        draft.layer.forward(&mut h, &mut spans, &pass, &mut observer)?;
        self.check_files()?;
        cache.advance(tokens.len());
        pass.norm(&h, draft.output_norm.as_ref().unwrap_or(&self.output_norm))
    }
}
