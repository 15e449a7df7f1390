//! The decoder that BitNet, Llama and Qwen3 share, as their papers write it.
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
//! Sources: BitNet b1.58 2B4T technical report; Llama 2; Qwen3.

use std::sync::Arc;

use bitnet_core::backend::top_logits::TopLogits;
use bitnet_core::backend::{
    ActivationPrecision, AttentionShape, Backend, RopeTable, TernaryWeight,
};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::{KvCache, KvSpan, KvType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, Purpose, Shared};

use smallvec::SmallVec;

use super::layer_input::{DOWN, GATE_UP, OUTPUT, Observe, QKV, Site, Tap};
use super::top::TopHead;
use super::{HeadMode, ModelConfig, SourceFiles};
use crate::Result;
use crate::cache::SequenceCache;

/// The weight of a linear layer: quantisation is its property, not the model's.
#[derive(Debug)]
pub enum Linear {
    /// Trits, with the treatment of the input that the model was trained for.
    Ternary(Box<dyn TernaryWeight>, ActivationPrecision),
    /// An ordinary matrix.
    Dense(Arc<dyn DenseRows>),
}

impl Linear {
    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Self::Ternary(weight, _) => weight.rows(),
            Self::Dense(weight) => weight.rows(),
        }
    }
}

/// A linear layer, with an RMS norm on its input where the checkpoint has one.
#[derive(Debug)]
pub struct Projection {
    /// The weight, `[out_features, in_features]`.
    pub weight: Linear,
    /// The input norm's weight, `[in_features]`, and its epsilon.
    pub input_norm: Option<(Shared<f32>, f32)>,
}

/// Attention of one layer.
#[derive(Debug)]
pub struct Attention {
    /// Query, key and value projections.
    pub qkv: [Projection; 3],
    /// Norm of each query head and each key head, `[head_dim]` (Qwen3).
    pub head_norms: Option<[Shared<f32>; 2]>,
    /// Norm before the output projection, `[heads * head_dim]` (BitNet).
    pub sub_norm: Option<Shared<f32>>,
    /// Output projection.
    pub output: Projection,
}

/// Feed-forward part of one layer.
#[derive(Debug)]
pub struct FeedForward {
    /// Gate and up projections.
    pub gate_up: [Projection; 2],
    /// Norm before the down projection, `[intermediate]` (BitNet).
    pub sub_norm: Option<Shared<f32>>,
    /// Down projection.
    pub down: Projection,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention, `[hidden]`.
    pub attention_norm: Shared<f32>,
    /// Attention.
    pub attention: Attention,
    /// Norm before the feed-forward part, `[hidden]`.
    pub feed_forward_norm: Shared<f32>,
    /// Feed-forward part.
    pub feed_forward: FeedForward,
}

/// The output head.
#[derive(Debug)]
pub enum Head {
    /// The embedding table, used again.
    Tied,
    /// A matrix of its own, `[vocabulary, hidden]`.
    Own(Linear),
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
    /// Norm before the head, `[hidden]`.
    pub output_norm: Shared<f32>,
    /// The head.
    pub head: Head,
    pub(crate) top: TopHead,
    pub(crate) files: SourceFiles,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) pool: HybridMemoryPool,
}

/// A few items for each sequence or token, on the stack where there is one of them.
type Few<T> = SmallVec<[T; 1]>;

/// Tokens of one sequence that are to be run, and the cache of what came before them.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// What came before them.
    pub cache: &'a mut SequenceCache,
}

/// A sequence's tokens and its cache.
struct Slot<'a> {
    cache: &'a mut KvCache,
    first: usize,
    tokens: usize,
}

impl Decoder {
    /// What computes.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The pool that activations live in; caches are accounted under [`Purpose::KvCache`] in it.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns an error if a file that weights are read from is no longer what was loaded. Whatever was computed before
    /// an `Ok` was computed from the loaded bytes; [`Decoder::forward`], [`Decoder::logits`] and [`Decoder::top_logits`]
    /// end with this check.
    ///
    /// # Errors
    /// [`crate::InferenceError::Format`] naming the file and what has changed.
    pub fn check_files(&self) -> Result<()> {
        self.files.check()?;
        self.top.check_file()
    }

    /// An empty cache for `capacity` positions.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn new_cache(&self, capacity: usize, kind: KvType) -> Result<SequenceCache> {
        let c = &self.config;
        let pool = self.pool.for_purpose(Purpose::KvCache);
        SequenceCache::new(kind, self.layers.len(), capacity, c.kv_heads, c.head_dim, &pool)
    }

    /// The rotation table for `positions` positions.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn rope_table(&self, positions: usize) -> Result<RopeTable> {
        Ok(RopeTable::in_pool(&self.config.inverse_frequencies(), positions, &self.pool)?)
    }

    /// Runs `tokens` after what `cache` holds: the hidden states `[tokens, hidden]` before the output norm.
    ///
    /// # Errors
    /// [`crate::InferenceError::Resource`] if the cache is full, [`crate::InferenceError::Core`] for a token that
    /// is not in the vocabulary, and those of [`Decoder::check_files`].
    pub fn forward(
        &self,
        tokens: &[u32],
        cache: &mut SequenceCache,
        rope: &RopeTable,
    ) -> Result<BitNetTensor> {
        self.forward_batch(&mut [Sequence { tokens, cache }], rope)
    }

    /// As [`Decoder::forward`], showing `observe` what each linear layer reads.
    ///
    /// # Errors
    /// As [`Decoder::forward`], and those of `observe`.
    pub fn forward_observed(
        &self,
        tokens: &[u32],
        cache: &mut SequenceCache,
        rope: &RopeTable,
        observe: &mut Observe<'_>,
    ) -> Result<BitNetTensor> {
        self.run(&mut [Sequence { tokens, cache }], rope, Some(observe))
    }

    /// Runs the tokens of several sequences at once, each after what its cache holds: the hidden states
    /// `[tokens of all, hidden]`, those of one sequence after those of another. Each is what [`Decoder::forward`]
    /// gives for its sequence alone.
    ///
    /// # Errors
    /// As [`Decoder::forward`]; no sequence has moved then.
    pub fn forward_batch(
        &self,
        sequences: &mut [Sequence<'_>],
        rope: &RopeTable,
    ) -> Result<BitNetTensor> {
        self.run(sequences, rope, None)
    }

    fn run(
        &self,
        sequences: &mut [Sequence<'_>],
        rope: &RopeTable,
        mut observe: Option<&mut Observe<'_>>,
    ) -> Result<BitNetTensor> {
        let (mut tokens, mut positions) = (Few::new(), Few::new());
        for sequence in &mut *sequences {
            sequence.cache.reserve(sequence.tokens.len())?;
            let first = sequence.cache.len();
            positions.extend(first..first + sequence.tokens.len());
            tokens.extend_from_slice(sequence.tokens);
        }
        let mut h = self.tensor(tokens.len(), self.config.hidden)?;
        self.backend.embed(&*self.embedding, &tokens, &mut h)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut slots: Few<_> = sequences
                .iter_mut()
                .map(|sequence| Slot {
                    first: sequence.cache.len(),
                    tokens: sequence.tokens.len(),
                    cache: sequence.cache.kv_mut(),
                })
                .collect();
            let mut tap = Tap { layer: index, observe: observe.as_deref_mut() };
            self.layer_over(layer, &mut h, &mut slots, &positions, rope, &mut tap)?;
        }
        self.check_files()?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens.len());
        }
        Ok(h)
    }

    /// Runs layer `index` in place: `h` is `[tokens, hidden]`, and the tokens stand after what `cache` holds. The cache is not
    /// advanced.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit or there is no such layer, and those of
    /// [`SequenceCache::reserve`].
    pub fn layer(
        &self,
        index: usize,
        h: &mut BitNetTensor,
        cache: &mut SequenceCache,
        rope: &RopeTable,
    ) -> Result<()> {
        let missing = bitnet_core::Error::OutOfRange { op: "layer", index, len: self.layers.len() };
        let layer = self.layers.get(index).ok_or(missing)?;
        let (first, tokens) = (cache.len(), h.shape()[0]);
        cache.reserve(tokens)?;
        let positions: Few<_> = (first..first + tokens).collect();
        let mut tap = Tap { layer: index, observe: None };
        let mut slots = [Slot { cache: cache.kv_mut(), first, tokens }];
        self.layer_over(layer, h, &mut slots, &positions, rope, &mut tap)
    }

    fn layer_over(
        &self,
        layer: &Layer,
        h: &mut BitNetTensor,
        slots: &mut [Slot<'_>],
        positions: &[usize],
        rope: &RopeTable,
        tap: &mut Tap<'_, '_>,
    ) -> Result<()> {
        let a = self.norm(h, &layer.attention_norm)?;
        let o = self.attention(&layer.attention, a, slots, positions, rope, tap)?;
        self.backend.add(h, &o)?;
        let b = self.norm(h, &layer.feed_forward_norm)?;
        let d = self.feed_forward(&layer.feed_forward, b, tap)?;
        Ok(self.backend.add(h, &d)?)
    }

    /// Logits `[tokens, vocabulary]` of hidden states `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit, and those of [`Decoder::check_files`].
    pub fn logits(&self, h: &BitNetTensor) -> Result<BitNetTensor> {
        let x = self.norm(h, &self.output_norm)?;
        let logits = match &self.head {
            Head::Own(Linear::Ternary(weight, precision)) => {
                self.ternary(&x, *precision, &**weight)
            }
            Head::Own(Linear::Dense(weight)) => self.dense(&x, &**weight),
            Head::Tied => self.dense(&x, &*self.embedding),
        }?;
        self.check_files()?;
        Ok(logits)
    }

    /// How the head is read where only the largest logits are wanted.
    pub fn head_mode(&self) -> HeadMode {
        self.top.mode()
    }

    /// Prepares the head for [`Decoder::top_logits`], which otherwise does so when it is called a second time; whether it
    /// can be prepared.
    ///
    /// # Errors
    /// If its rows can't be read, or for want of memory.
    pub fn prepare_top_logits(&self) -> Result<bool> {
        Ok(self.top.prepared(self.dense_head(), &*self.backend)?.is_some())
    }

    /// Some logits of one hidden state `h` (`[1, hidden]`): the `count` largest and those of the tokens `also`, each as
    /// [`Decoder::logits`] gives it. `None` where all of them are computed as fast: the mode is [`HeadMode::Full`],
    /// or the head is small, or ternary, or holds what is not finite.
    ///
    /// # Errors
    /// [`crate::InferenceError::Core`] if shapes do not fit, and those of [`Decoder::prepare_top_logits`] and
    /// [`Decoder::check_files`].
    pub fn top_logits(
        &self,
        h: &BitNetTensor,
        count: usize,
        also: &[u32],
    ) -> Result<Option<TopLogits>> {
        let Some(answer) = self.top.for_question(self.dense_head(), &*self.backend)? else {
            return Ok(None);
        };
        let x = self.norm(h, &self.output_norm)?;
        let top = answer.top(&x, count, also, &*self.backend, &self.pool)?;
        self.check_files()?;
        Ok(Some(top))
    }

    /// The rows of the head, unless they are ternary.
    fn dense_head(&self) -> Option<&Arc<dyn DenseRows>> {
        match &self.head {
            Head::Own(Linear::Ternary(..)) => None,
            Head::Own(Linear::Dense(rows)) => Some(rows),
            Head::Tied => Some(&self.embedding),
        }
    }

    fn attention(
        &self,
        attention: &Attention,
        x: BitNetTensor,
        slots: &mut [Slot<'_>],
        positions: &[usize],
        rope: &RopeTable,
        tap: &mut Tap<'_, '_>,
    ) -> Result<BitNetTensor> {
        let c = &self.config;
        let [mut q, mut k, v] = self.project(&x, &attention.qkv, QKV, tap)?;
        if let Some([q_norm, k_norm]) = &attention.head_norms {
            q = self.norm(&q, q_norm)?;
            k = self.norm(&k, k_norm)?;
        }
        self.backend.rope(&mut q, c.head_dim, positions, rope, c.rope_order)?;
        self.backend.rope(&mut k, c.head_dim, positions, rope, c.rope_order)?;
        let mut row = 0;
        for slot in &mut *slots {
            let rows = row..row + slot.tokens;
            row = rows.end;
            let (k, v) = (k.narrow(0, rows.clone())?, v.narrow(0, rows)?);
            self.backend.store(&k, &v, slot.cache, tap.layer, slot.first)?;
        }
        let spans: Few<_> = slots
            .iter()
            .map(|slot| KvSpan {
                cache: slot.cache,
                layer: tap.layer,
                first: slot.first,
                tokens: slot.tokens,
            })
            .collect();

        let shape = AttentionShape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
        };
        let mut o = self.tensor(q.shape()[0], q.shape()[1])?;
        self.backend.attention(&q, &spans, shape, &mut o)?;
        if let Some(sub_norm) = &attention.sub_norm {
            o = self.norm(&o, sub_norm)?;
        }
        let [out] = self.project(&o, std::array::from_ref(&attention.output), OUTPUT, tap)?;
        Ok(out)
    }

    fn feed_forward(
        &self,
        feed_forward: &FeedForward,
        x: BitNetTensor,
        tap: &mut Tap<'_, '_>,
    ) -> Result<BitNetTensor> {
        let mut u = self.gate_up(&x, &feed_forward.gate_up, tap)?;
        if let Some(sub_norm) = &feed_forward.sub_norm {
            u = self.norm(&u, sub_norm)?;
        }
        let [out] = self.project(&u, std::array::from_ref(&feed_forward.down), DOWN, tap)?;
        Ok(out)
    }

    /// `activation(L_gate(x)) * L_up(x)`.
    fn gate_up(
        &self,
        x: &BitNetTensor,
        projections: &[Projection; 2],
        tap: &mut Tap<'_, '_>,
    ) -> Result<BitNetTensor> {
        let activation = self.config.activation;
        let [gate, up] = projections;
        if let (Linear::Ternary(g, precision), Linear::Ternary(u, other)) =
            (&gate.weight, &up.weight)
            && precision == other
            && gate.input_norm.is_none()
            && up.input_norm.is_none()
        {
            tap.show(GATE_UP.name(0, gate), x)?;
            let mut out = self.tensor(x.shape()[0], g.rows())?;
            let mut scratch = self.tensor(x.shape()[0], u.rows())?;
            self.backend.gate_up(
                x,
                *precision,
                activation,
                [&**g, &**u],
                &mut out,
                &mut scratch,
            )?;
            return Ok(out);
        }
        let [mut out, up] = self.project(x, projections, GATE_UP, tap)?;
        self.backend.gate(activation, &mut out, &up)?;
        Ok(out)
    }

    /// Projections of one input. Ternary ones without input norms go to the back end together, so that the input
    /// is quantised once.
    fn project<const N: usize>(
        &self,
        x: &BitNetTensor,
        projections: &[Projection; N],
        site: Site,
        tap: &mut Tap<'_, '_>,
    ) -> Result<[BitNetTensor; N]> {
        let mut outputs = Vec::with_capacity(N);
        for p in projections {
            outputs.push(self.tensor(x.shape()[0], p.weight.rows())?);
        }
        let mut together = SmallVec::<[_; 3]>::new();
        let (mut shared, mut shown) = (None, None);
        for (index, (p, out)) in projections.iter().zip(&mut outputs).enumerate() {
            let normed = match &p.input_norm {
                Some((weight, eps)) => Some(self.norm_with(x, weight, *eps)?),
                None => None,
            };
            let name = site.name(index, p);
            if shown != Some(name) {
                tap.show(name, normed.as_ref().unwrap_or(x))?;
                shown = Some(name);
            }
            match (&p.weight, normed) {
                (Linear::Dense(weight), normed) => {
                    self.backend.linear(normed.as_ref().unwrap_or(x), &**weight, None, out)?;
                }
                (Linear::Ternary(weight, precision), Some(x)) => {
                    self.backend.bit_linear(&x, *precision, &[&**weight], &mut [out])?;
                }
                (Linear::Ternary(weight, precision), None)
                    if shared.is_none_or(|s| s == *precision) =>
                {
                    shared = Some(*precision);
                    together.push((&**weight, out));
                }
                (Linear::Ternary(weight, precision), None) => {
                    self.backend.bit_linear(x, *precision, &[&**weight], &mut [out])?;
                }
            }
        }
        let (weights, mut outs): (SmallVec<[_; 3]>, SmallVec<[_; 3]>) =
            together.into_iter().unzip();
        if let Some(precision) = shared {
            self.backend.bit_linear(x, precision, &weights, &mut outs)?;
        }
        drop(outs);
        let count = outputs.len();
        outputs.try_into().map_err(|_| {
            bitnet_core::Error::OutOfRange { op: "project", index: count, len: N }.into()
        })
    }

    fn norm(&self, x: &BitNetTensor, weight: &[f32]) -> Result<BitNetTensor> {
        self.norm_with(x, weight, self.config.norm_eps)
    }

    fn norm_with(&self, x: &BitNetTensor, weight: &[f32], eps: f32) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], x.shape()[1])?;
        self.backend.rms_norm(x, weight, eps, &mut out)?;
        Ok(out)
    }

    fn dense(&self, x: &BitNetTensor, weight: &dyn DenseRows) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], weight.rows())?;
        self.backend.linear(x, weight, None, &mut out)?;
        Ok(out)
    }

    fn ternary(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weight: &dyn TernaryWeight,
    ) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], weight.rows())?;
        self.backend.bit_linear(x, precision, &[weight], &mut [&mut out])?;
        Ok(out)
    }

    fn tensor(&self, rows: usize, cols: usize) -> Result<BitNetTensor> {
        Ok(BitNetTensor::scratch(&[rows, cols], &self.pool)?)
    }
}
