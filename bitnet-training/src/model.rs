//! Forward and backward pass of the model over a batch of stories.
//!
//! ```text
//! a = RMS(h)   qkv = W·Q(a)   o = attention(rope(qkv))   h += W·Q(RMS(o))
//! b = RMS(h)   gate, up = W·Q(b)   u = relu(gate)²·up    h += W·Q(RMS(u))
//! logits = E · RMS(h)
//! ```
//! `Q` is the int8 fake quantiser, `W` an already fake-quantised matrix, `E` the tied embedding.
use std::ops::Range;

use bitnet_core::memory::{HybridMemoryPool, Purpose};

use crate::{
    config::ModelConfig,
    error::Result,
    layers::{
        AttentionShape, RotaryTable, attention_backward, attention_forward, cross_entropy,
        fake_quantize_rows, gate_backward, gate_forward, linear_backward_input,
        linear_backward_weight, linear_forward, rms_norm_backward, rms_norm_forward,
    },
    parameters::{LayerLayout, Layout},
    pool_vec::PoolVec,
};

/// Concatenated texts; attention never crosses text boundaries.
#[derive(Debug)]
pub struct Batch {
    /// Input tokens of all texts.
    pub inputs: PoolVec<u32>,
    /// The next token of every input token.
    pub targets: PoolVec<u32>,
    /// The row range of each text.
    pub segments: Vec<Range<usize>>,
}

impl Batch {
    /// Creates an empty batch in `pool`, under [`Purpose::Data`].
    #[must_use]
    pub fn new(pool: &HybridMemoryPool) -> Self {
        let pool = pool.for_purpose(Purpose::Data);
        Self { inputs: PoolVec::new(&pool), targets: PoolVec::new(&pool), segments: Vec::new() }
    }

    /// Appends one text, truncated to `context` inputs. Texts of fewer than
    /// two tokens have no predictions and are skipped.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if memory is exhausted.
    pub fn push(&mut self, tokens: &[u32], context: usize) -> Result<()> {
        let n = tokens.len().saturating_sub(1).min(context);
        if n == 0 {
            return Ok(());
        }
        let start = self.inputs.len();
        self.inputs.extend_from_slice(&tokens[..n])?;
        self.targets.extend_from_slice(&tokens[1..=n])?;
        self.segments.push(start..start + n);
        Ok(())
    }

    /// Clears the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.targets.clear();
        self.segments.clear();
    }

    /// Returns the number of predictions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Returns whether there are no predictions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }
}

/// The fixed part of a model: sizes, layout and rotary table.
#[derive(Debug, Clone)]
pub struct Model {
    /// Sizes.
    pub config: ModelConfig,
    /// The parameter layout.
    pub layout: Layout,
    rotary: RotaryTable,
}

/// Activations of one layer stored for the backward pass.
#[derive(Debug)]
struct LayerState {
    input: PoolVec<f32>,
    attn_in: PoolVec<f32>,
    attn_r: PoolVec<f32>,
    qkv: PoolVec<f32>,
    probabilities: PoolVec<f32>,
    attended: PoolVec<f32>,
    sub_in: PoolVec<f32>,
    sub_r: PoolVec<f32>,
    middle: PoolVec<f32>,
    ffn_in: PoolVec<f32>,
    ffn_r: PoolVec<f32>,
    gate_up: PoolVec<f32>,
    gated: PoolVec<f32>,
    down_in: PoolVec<f32>,
    down_r: PoolVec<f32>,
}

/// The workspace of one shard: activations and scratch gradients, with the capacity of the largest batch.
#[derive(Debug)]
pub struct Workspace {
    layers: Vec<LayerState>,
    stream: PoolVec<f32>,
    normed: PoolVec<f32>,
    output_r: PoolVec<f32>,
    logits: PoolVec<f32>,
    d_stream: PoolVec<f32>,
    d_wide: PoolVec<f32>,
    d_narrow: PoolVec<f32>,
    activations: HybridMemoryPool,
}

impl LayerState {
    fn new(pool: &HybridMemoryPool) -> Self {
        let empty = || PoolVec::new(pool);
        Self {
            input: empty(),
            attn_in: empty(),
            attn_r: empty(),
            qkv: empty(),
            probabilities: empty(),
            attended: empty(),
            sub_in: empty(),
            sub_r: empty(),
            middle: empty(),
            ffn_in: empty(),
            ffn_r: empty(),
            gate_up: empty(),
            gated: empty(),
            down_in: empty(),
            down_r: empty(),
        }
    }
}

impl Workspace {
    /// Creates an empty workspace in `pool`: activations as
    /// [`Purpose::Activations`], their gradients as [`Purpose::Gradients`].
    #[must_use]
    pub fn new(pool: &HybridMemoryPool) -> Self {
        let activations = pool.for_purpose(Purpose::Activations);
        let gradients = pool.for_purpose(Purpose::Gradients);
        Self {
            layers: Vec::new(),
            stream: PoolVec::new(&activations),
            normed: PoolVec::new(&activations),
            output_r: PoolVec::new(&activations),
            logits: PoolVec::new(&activations),
            d_stream: PoolVec::new(&gradients),
            d_wide: PoolVec::new(&gradients),
            d_narrow: PoolVec::new(&gradients),
            activations,
        }
    }

    /// Returns the logits of the last [`Model::forward`], `[tokens, vocab]`.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Returns the logits mutably; only the backward pass reads them afterwards.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits
    }
}

/// Normalises rows of the gain's width and fake-quantises them; resizes `normed` and `r` to fit.
fn quantized_norm(
    normed: &mut PoolVec<f32>,
    r: &mut PoolVec<f32>,
    rows: &[f32],
    gain: &[f32],
    eps: f32,
) -> Result<()> {
    let width = gain.len();
    rms_norm_forward(normed.resize(rows.len())?, r.resize(rows.len() / width)?, rows, gain, eps);
    fake_quantize_rows(normed, width);
    Ok(())
}

impl Model {
    /// Prepares a model of valid sizes.
    #[must_use]
    pub fn new(config: ModelConfig) -> Self {
        let layout = Layout::new(&config);
        let rotary = RotaryTable::new(config.context_length, config.head_dim(), config.rope_base);
        Self { config, layout, rotary }
    }

    fn attention_shape(&self) -> AttentionShape {
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        AttentionShape { heads, kv_heads, head_dim: self.config.head_dim() }
    }

    /// Computes the logits of a batch; `weights` are the effective ones of [`Layout::quantize`].
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if memory is exhausted.
    ///
    /// # Panics
    /// If a token is not below `vocab_size` or a segment is longer than the context.
    pub fn forward(&self, weights: &[f32], batch: &Batch, work: &mut Workspace) -> Result<()> {
        let (t, h) = (batch.len(), self.config.hidden_size);
        let Workspace { layers, activations, .. } = &mut *work;
        layers.resize_with(self.config.layers, || LayerState::new(activations));
        work.stream.resize(t * h)?;
        let embedding = &weights[self.layout.embedding.clone()];
        for (row, &token) in work.stream.chunks_exact_mut(h).zip(&*batch.inputs) {
            row.copy_from_slice(&embedding[token as usize * h..][..h]);
        }
        for (layer, state) in self.layout.layers.iter().zip(&mut work.layers) {
            self.attention_block(weights, layer, state, &mut work.stream, &batch.segments)?;
            self.feed_forward_block(weights, layer, state, &mut work.stream)?;
        }
        let gain = &weights[self.layout.output_norm.clone()];
        rms_norm_forward(
            work.normed.resize(t * h)?,
            work.output_r.resize(t)?,
            &work.stream,
            gain,
            self.config.rms_eps,
        );
        let vocab = self.config.vocab_size;
        linear_forward(
            work.logits.resize(t * vocab)?,
            &work.normed,
            embedding,
            [t, vocab, h],
            false,
        );
        Ok(())
    }

    fn attention_block(
        &self,
        w: &[f32],
        layer: &LayerLayout,
        s: &mut LayerState,
        stream: &mut [f32],
        segments: &[Range<usize>],
    ) -> Result<()> {
        let (h, eps, shape) =
            (self.config.hidden_size, self.config.rms_eps, self.attention_shape());
        let (t, fused) = (stream.len() / h, shape.fused());
        s.input.resize(t * h)?.copy_from_slice(stream);
        quantized_norm(&mut s.attn_in, &mut s.attn_r, stream, &w[layer.attn_norm.clone()], eps)?;
        linear_forward(s.qkv.resize(t * fused)?, &s.attn_in, &w[layer.qkv()], [t, fused, h], false);
        self.rotate(&mut s.qkv, segments, false);
        let area: usize = segments.iter().map(|r| r.len() * r.len() * shape.heads).sum();
        let mut probabilities = s.probabilities.resize(area)?;
        s.attended.resize(t * h)?;
        for r in segments {
            let (mine, rest) = probabilities.split_at_mut(r.len() * r.len() * shape.heads);
            probabilities = rest;
            let output = &mut s.attended[r.start * h..r.end * h];
            attention_forward(output, mine, &s.qkv[r.start * fused..r.end * fused], r.len(), shape);
        }
        quantized_norm(
            &mut s.sub_in,
            &mut s.sub_r,
            &s.attended,
            &w[layer.attn_sub_norm.clone()],
            eps,
        )?;
        linear_forward(stream, &s.sub_in, &w[layer.o.clone()], [t, h, h], true);
        Ok(())
    }

    fn feed_forward_block(
        &self,
        w: &[f32],
        layer: &LayerLayout,
        s: &mut LayerState,
        stream: &mut [f32],
    ) -> Result<()> {
        let (h, f, eps) = (self.config.hidden_size, self.config.feed_forward, self.config.rms_eps);
        let t = stream.len() / h;
        s.middle.resize(t * h)?.copy_from_slice(stream);
        quantized_norm(&mut s.ffn_in, &mut s.ffn_r, stream, &w[layer.ffn_norm.clone()], eps)?;
        linear_forward(
            s.gate_up.resize(t * 2 * f)?,
            &s.ffn_in,
            &w[layer.gate_up()],
            [t, 2 * f, h],
            false,
        );
        gate_forward(s.gated.resize(t * f)?, &s.gate_up, f);
        quantized_norm(
            &mut s.down_in,
            &mut s.down_r,
            &s.gated,
            &w[layer.ffn_sub_norm.clone()],
            eps,
        )?;
        linear_forward(stream, &s.down_in, &w[layer.down.clone()], [t, h, f], true);
        Ok(())
    }

    fn rotate(&self, qkv: &mut [f32], segments: &[Range<usize>], inverse: bool) {
        let shape = self.attention_shape();
        let rotated = (shape.heads + shape.kv_heads) * shape.head_dim;
        for r in segments {
            for (position, row) in qkv[r.start * shape.fused()..r.end * shape.fused()]
                .chunks_exact_mut(shape.fused())
                .enumerate()
            {
                for head in row[..rotated].chunks_exact_mut(shape.head_dim) {
                    self.rotary.rotate(head, position, inverse);
                }
            }
        }
    }

    /// Adds the gradient of `scale · summed loss` to `gradients` and returns the summed loss in nats.
    ///
    /// # Errors
    /// Same as [`Model::forward`].
    ///
    /// # Panics
    /// Like [`Model::forward`].
    pub fn loss_and_gradients(
        &self,
        weights: &[f32],
        batch: &Batch,
        scale: f32,
        work: &mut Workspace,
        gradients: &mut [f32],
    ) -> Result<f64> {
        self.forward(weights, batch, work)?;
        let (t, h, vocab) = (batch.len(), self.config.hidden_size, self.config.vocab_size);
        let loss = cross_entropy(&mut work.logits, &batch.targets, vocab, scale);
        let embedding = self.layout.embedding.clone();
        linear_backward_weight(
            &mut gradients[embedding.clone()],
            &work.logits,
            &work.normed,
            [t, vocab, h],
        );
        linear_backward_input(
            work.d_narrow.resize(t * h)?,
            &work.logits,
            &weights[embedding.clone()],
            [t, vocab, h],
        );
        let norm = self.layout.output_norm.clone();
        let (gain, d_gain) = (&weights[norm.clone()], &mut gradients[norm]);
        rms_norm_backward(
            work.d_stream.resize(t * h)?,
            d_gain,
            &work.d_narrow,
            &work.stream,
            gain,
            &work.output_r,
            false,
        );
        for index in (0..self.layout.layers.len()).rev() {
            self.feed_forward_backward(weights, index, work, gradients)?;
            self.attention_block_backward(weights, index, work, gradients, &batch.segments)?;
        }
        let d_embedding = &mut gradients[embedding];
        for (row, &token) in work.d_stream.chunks_exact(h).zip(&*batch.inputs) {
            for (d, g) in d_embedding[token as usize * h..][..h].iter_mut().zip(row) {
                *d += g;
            }
        }
        Ok(loss)
    }

    fn feed_forward_backward(
        &self,
        w: &[f32],
        index: usize,
        work: &mut Workspace,
        gradients: &mut [f32],
    ) -> Result<()> {
        let (layer, s) = (&self.layout.layers[index], &work.layers[index]);
        let (h, f) = (self.config.hidden_size, self.config.feed_forward);
        let t = work.d_stream.len() / h;
        linear_backward_weight(
            &mut gradients[layer.down.clone()],
            &work.d_stream,
            &s.down_in,
            [t, h, f],
        );
        let d_narrow = work.d_narrow.resize(t * f)?;
        linear_backward_input(d_narrow, &work.d_stream, &w[layer.down.clone()], [t, h, f]);
        let (d_wide, gain) = (work.d_wide.resize(t * 2 * f)?, &w[layer.ffn_sub_norm.clone()]);
        let d_gated = &mut d_wide[..t * f];
        rms_norm_backward(
            d_gated,
            &mut gradients[layer.ffn_sub_norm.clone()],
            d_narrow,
            &s.gated,
            gain,
            &s.down_r,
            false,
        );
        d_narrow.copy_from_slice(d_gated);
        gate_backward(d_wide, d_narrow, &s.gate_up, f);
        linear_backward_weight(&mut gradients[layer.gate_up()], d_wide, &s.ffn_in, [t, 2 * f, h]);
        let d_narrow = work.d_narrow.resize(t * h)?;
        linear_backward_input(d_narrow, d_wide, &w[layer.gate_up()], [t, 2 * f, h]);
        let gain = &w[layer.ffn_norm.clone()];
        rms_norm_backward(
            &mut work.d_stream,
            &mut gradients[layer.ffn_norm.clone()],
            d_narrow,
            &s.middle,
            gain,
            &s.ffn_r,
            true,
        );
        Ok(())
    }

    fn attention_block_backward(
        &self,
        w: &[f32],
        index: usize,
        work: &mut Workspace,
        gradients: &mut [f32],
        segments: &[Range<usize>],
    ) -> Result<()> {
        let (layer, s) = (&self.layout.layers[index], &work.layers[index]);
        let (h, shape) = (self.config.hidden_size, self.attention_shape());
        let (t, fused) = (work.d_stream.len() / h, shape.fused());
        linear_backward_weight(
            &mut gradients[layer.o.clone()],
            &work.d_stream,
            &s.sub_in,
            [t, h, h],
        );
        let d_narrow = work.d_narrow.resize(t * h)?;
        linear_backward_input(d_narrow, &work.d_stream, &w[layer.o.clone()], [t, h, h]);
        let (d_wide, gain) =
            (work.d_wide.resize(t * (h + fused))?, &w[layer.attn_sub_norm.clone()]);
        let (d_attended, d_qkv) = d_wide.split_at_mut(t * h);
        rms_norm_backward(
            d_attended,
            &mut gradients[layer.attn_sub_norm.clone()],
            d_narrow,
            &s.attended,
            gain,
            &s.sub_r,
            false,
        );
        let mut probabilities = &*s.probabilities;
        for r in segments {
            let (mine, rest) = probabilities.split_at(r.len() * r.len() * shape.heads);
            probabilities = rest;
            let (d_out, rows) =
                (&d_attended[r.start * h..r.end * h], r.start * fused..r.end * fused);
            attention_backward(&mut d_qkv[rows.clone()], d_out, mine, &s.qkv[rows], r.len(), shape);
        }
        self.rotate(d_qkv, segments, true);
        linear_backward_weight(&mut gradients[layer.qkv()], d_qkv, &s.attn_in, [t, fused, h]);
        linear_backward_input(d_narrow, d_qkv, &w[layer.qkv()], [t, fused, h]);
        let gain = &w[layer.attn_norm.clone()];
        rms_norm_backward(
            &mut work.d_stream,
            &mut gradients[layer.attn_norm.clone()],
            d_narrow,
            &s.input,
            gain,
            &s.attn_r,
            true,
        );
        Ok(())
    }
}
