//! The decoder that all families share, as the papers write it.
//!
//! ```text
//! h  = E[token]
//! a  = norm(h);  q, k, v = L_q(a), L_k(a), L_v(a);  (q, k = head_norm(q), head_norm(k))
//! h += L_o( (sub_norm)( attention(rope(q), rope(k), v) ) )
//! b  = norm(h);  u = activation(L_gate(b)) * L_up(b)
//! h += L_down( (sub_norm)( u ) )
//! logits = head( norm(h) )
//! ```
//!
//! What stands in brackets is there if the weight is: BitNet has the sub-norms, Qwen3 the head norms, Llama none.
//! `L_q`, `L_k` and `L_v` of Qwen2 add a bias. Most layers of Qwen3.5 have a gated delta network in place of attention
//! (`delta_net.rs`). Maple's feed-forward parts are mixtures of experts (`mixture.rs`), and most of its layers attend to a
//! window (`local_attention.rs`). Gemma 3 has norms on what both halves of a layer add, scaled embeddings, and windows with
//! a RoPE of their own. A model without a head ends with the norm: it gives embeddings of texts (`embed/`).
//! Sources: BitNet b1.58 2B4T technical report; Llama 2; Qwen2; Qwen3.

use std::sync::Arc;

use bitnet_core::backend::top_logits::{LogitQuery, TopLogits};
use bitnet_core::backend::{Backend, Direction, RopeTable, Rotation};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::{KvCache, KvShape, KvType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, Purpose};

use super::compute::Compute;
use super::layer::{Few, Pass, TokenSpan};
use super::observer::{InputObserver, ObserveFn};
use super::rope::SharedRope;
use super::top_logits::LazyTopLogits;
use super::{DraftHead, HeadMode, Layer, LayerKind, Linear, ModelConfig, SourceFiles};
use crate::cache;
use crate::weight_cache::CacheWriter;
use crate::{InferenceError, Result};

/// The output head.
#[derive(Debug)]
pub enum Head {
    /// The embedding table, used again.
    Tied,
    /// A matrix of its own, `[vocabulary, hidden]`.
    Own(Linear),
    /// None: the model gives states, and no logits.
    Absent,
}

/// A decoder-only language model on a back end.
#[derive(Debug)]
pub struct Decoder {
    /// Shapes and constants.
    pub config: ModelConfig,
    /// The embedding table, `[vocabulary, hidden]`.
    pub embedding: Arc<dyn DenseRows>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The layer that drafts tokens, if it was loaded.
    pub draft: Option<Box<DraftHead>>,
    /// Norm before the head, `[hidden]`.
    pub output_norm: BitNetTensor,
    /// What turns embedding rows back, where the table is stored rotated.
    pub embedding_rotation: Option<Arc<Rotation>>,
    /// The head.
    pub head: Head,
    /// What turns the inputs of the head, where it is stored rotated.
    pub head_rotation: Option<Arc<Rotation>>,
    pub(crate) top_logits: LazyTopLogits,
    pub(crate) files: SourceFiles,
    pub(crate) rope: SharedRope,
    /// That of layers with a window, where they have their own.
    pub(crate) local_rope: Option<SharedRope>,
    pub(crate) compute: Compute,
    /// Writes prepared weights to disk, if that was asked for.
    pub(crate) cache_writer: Option<CacheWriter>,
}

/// Tokens of one sequence that are to be run, and the cache of what came before them.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// What came before them.
    pub cache: &'a mut KvCache,
}

impl Decoder {
    /// Runs `tokens` after what `cache` holds: the hidden states `[tokens, hidden]` before the output norm.
    ///
    /// # Errors
    /// [`crate::InferenceError::Resource`] if the cache is full, [`crate::InferenceError::Core`] for a token that
    /// is not in the vocabulary, and those of [`Decoder::check_files`].
    pub fn forward(&self, tokens: &[u32], cache: &mut KvCache) -> Result<BitNetTensor> {
        self.forward_batch(&mut [Sequence { tokens, cache }], None)
    }

    /// Runs the tokens of several sequences at once, each after what its cache holds, and shows `observe` what each
    /// linear layer reads. Returns the hidden states `[tokens of all, hidden]`, sequence after sequence; each row
    /// equals that of [`Decoder::forward`] for its sequence alone.
    ///
    /// # Errors
    /// Those of [`Decoder::forward`] and of `observe`; all caches are unchanged then.
    pub fn forward_batch(
        &self,
        sequences: &mut [Sequence<'_>],
        mut observe: Option<&mut ObserveFn<'_>>,
    ) -> Result<BitNetTensor> {
        let (mut tokens, mut positions) = (Few::new(), Few::new());
        for sequence in &mut *sequences {
            cache::reserve(sequence.cache, sequence.tokens.len())?;
            let first = sequence.cache.len();
            positions.extend(first..first + sequence.tokens.len());
            tokens.extend_from_slice(sequence.tokens);
        }
        let rope = self.ropes(positions.iter().max().map_or(0, |last| last + 1))?;
        let pass = self.pass(&rope, &positions);
        let mut h = self.embed(&tokens)?;
        let mut spans: Few<_> = sequences
            .iter_mut()
            .map(|sequence| TokenSpan {
                first: sequence.cache.len(),
                tokens: sequence.tokens.len(),
                cache: sequence.cache,
            })
            .collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let mut observer = InputObserver::new(index, observe.as_deref_mut());
            layer.forward(&mut h, &mut spans, &pass, &mut observer)?;
        }
        drop(spans);
        self.check_files()?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens.len());
        }
        Ok(h)
    }

    /// Returns the embeddings `[tokens, hidden]`.
    pub(super) fn embed(&self, tokens: &[u32]) -> Result<BitNetTensor> {
        let mut h = self.compute.tensor(tokens.len(), self.config.hidden)?;
        self.backend().embed(&*self.embedding, tokens, &mut h)?;
        match &self.embedding_rotation {
            Some(rotation) => self.compute.rotate(&h, rotation, Direction::Inverse),
            None => Ok(h),
        }
    }

    /// Runs layer `index` in place: `h` is `[tokens, hidden]`, and the tokens stand after what `cache` holds. The cache
    /// is not advanced.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit or there is no such layer, and those of
    /// [`Decoder::forward`].
    pub fn layer(&self, index: usize, h: &mut BitNetTensor, cache: &mut KvCache) -> Result<()> {
        let missing = bitnet_core::Error::OutOfRange { op: "layer", index, len: self.layers.len() };
        let layer = self.layers.get(index).ok_or(missing)?;
        let (first, tokens) = (cache.len(), h.shape()[0]);
        cache::reserve(cache, tokens)?;
        let positions: Few<_> = (first..first + tokens).collect();
        let rope = self.ropes(first + tokens)?;
        let mut spans = [TokenSpan { cache, first, tokens }];
        let mut observer = InputObserver::new(index, None);
        layer.forward(h, &mut spans, &self.pass(&rope, &positions), &mut observer)
    }

    pub(super) fn pass<'a>(&'a self, ropes: &'a Ropes, positions: &'a [usize]) -> Pass<'a> {
        let (rope, local_rope) = (&*ropes.of_all, ropes.of_windows.as_deref());
        Pass { config: &self.config, compute: &self.compute, rope, local_rope, positions }
    }

    /// The error for logits of a model without a head.
    pub(crate) fn no_head(&self) -> InferenceError {
        let what = format!("{}: writing text with a model without a head", self.files.name);
        InferenceError::unsupported(what, "`bitnet embed` makes embeddings of texts with it")
    }

    /// Computes the logits `[tokens, vocabulary]` of hidden states `[tokens, hidden]`, on the host.
    ///
    /// # Errors
    /// [`InferenceError::Core`] if shapes do not fit, [`InferenceError::UnsupportedOperation`] for a model without a head,
    /// and those of [`Decoder::check_files`].
    pub fn logits(&self, h: &BitNetTensor) -> Result<BitNetTensor> {
        self.logits_of_normed(self.normed(h)?)
    }

    /// Computes what [`Decoder::logits`] computes, of what [`Decoder::normed`] returns.
    ///
    /// # Errors
    /// Those of [`Decoder::logits`].
    pub fn logits_of_normed(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        let x = self.head_input(x)?;
        let logits = match &self.head {
            Head::Own(weight) => self.compute.linear(&x, weight),
            Head::Tied => self.compute.dense(&x, &*self.embedding),
            Head::Absent => Err(self.no_head()),
        }?;
        self.check_files()?;
        self.compute.to_host(logits)
    }

    /// Returns hidden states `[tokens, hidden]` after the output norm.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit.
    pub fn normed(&self, h: &BitNetTensor) -> Result<BitNetTensor> {
        self.compute.norm(h, &self.output_norm, self.config.stream_eps())
    }

    /// Runs the tokens of several sequences at once, as [`Decoder::forward_batch`] does, and returns the states
    /// `[tokens of all, hidden]` after the output norm, on the host.
    ///
    /// # Errors
    /// Those of [`Decoder::forward`].
    pub fn states(&self, sequences: &mut [Sequence<'_>]) -> Result<BitNetTensor> {
        let h = self.forward_batch(sequences, None)?;
        self.compute.to_host(self.normed(&h)?)
    }

    /// Returns what the head reads, from what the output norm gives.
    fn head_input(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        match &self.head_rotation {
            Some(rotation) => self.compute.rotate(&x, rotation, Direction::Forward),
            None => Ok(x),
        }
    }

    /// Computes some logits of hidden states `h` (`[queries, hidden]`): those that each query asks for, each equal to
    /// that of [`Decoder::logits`]. `None` where all of them are computed as fast: the mode is [`HeadMode::Full`], or
    /// the head is small, or ternary, or holds what is not finite.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit, and those of [`Decoder::prepare_top_logits`] and
    /// [`Decoder::check_files`].
    pub fn top_logits(
        &self,
        h: &BitNetTensor,
        queries: &[LogitQuery],
    ) -> Result<Option<Vec<TopLogits>>> {
        self.top_logits_of_normed(|| self.normed(h), queries)
    }

    /// Computes what [`Decoder::top_logits`] computes, after the output norm.
    pub(crate) fn top_logits_of_normed(
        &self,
        normed: impl FnOnce() -> Result<BitNetTensor>,
        queries: &[LogitQuery],
    ) -> Result<Option<Vec<TopLogits>>> {
        let Some(source) = self.top_logits.plan_query(self.dense_head(), self.backend())? else {
            return Ok(None);
        };
        let x = self.head_input(normed()?)?;
        let top = source.top(&x, queries, &self.compute)?;
        self.check_files()?;
        Ok(Some(top))
    }

    /// Prepares the head for [`Decoder::top_logits`], which otherwise does so on the second call. Returns whether the
    /// head can be prepared.
    ///
    /// # Errors
    /// If its rows can't be read, or for want of memory.
    pub fn prepare_top_logits(&self) -> Result<bool> {
        Ok(self.top_logits.prepared(self.dense_head(), self.backend(), true)?.is_some())
    }

    /// How [`Decoder::top_logits`] reads the head.
    pub fn head_mode(&self) -> HeadMode {
        self.top_logits.mode
    }

    /// The rows of the head, unless they are ternary.
    fn dense_head(&self) -> Option<&Arc<dyn DenseRows>> {
        match &self.head {
            Head::Own(Linear::Ternary(..)) | Head::Absent => None,
            Head::Own(Linear::Dense(rows)) => Some(rows),
            Head::Tied => Some(&self.embedding),
        }
    }

    /// What computes.
    pub fn backend(&self) -> &dyn Backend {
        &*self.compute.backend
    }

    /// The pool that activations live in; caches are accounted under [`Purpose::KvCache`] in it.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.compute.pool
    }

    /// Returns an empty cache for `capacity` positions.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn new_cache(&self, capacity: usize, kind: KvType) -> Result<KvCache> {
        let c = &self.config;
        let pool = self.pool().for_purpose(Purpose::KvCache);
        let layers = c.layers_of(LayerKind::Attention);
        let (kv_heads, head_dim) = (c.kv_heads, c.head_dim);
        let shape = KvShape { kind, layers, kv_heads, head_dim };
        let cache = self.backend().kv_cache(shape, capacity, &pool)?;
        Ok(match &c.recurrent {
            Some(recurrent) => cache.with_recurrent_state(recurrent.shape, &pool)?,
            None => cache,
        })
    }

    /// Returns the rotation tables, which are at least `positions` positions long.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub(crate) fn ropes(&self, positions: usize) -> Result<Ropes> {
        let of_all = self.rope.at_least(positions, self.pool())?;
        let own = self.local_rope.as_ref();
        let of_windows = own.map(|rope| rope.at_least(positions, self.pool())).transpose()?;
        Ok(Ropes { of_all, of_windows })
    }
}

/// The rotation tables of a pass.
pub(crate) struct Ropes {
    of_all: Arc<RopeTable>,
    /// That of layers with a window, where they have their own.
    of_windows: Option<Arc<RopeTable>>,
}
