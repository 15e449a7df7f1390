//! The buffers of one training step: activations of the forward pass, gradients of the backward pass.

use super::{Slot, Trace, Writer};

/// Sizes of a trained model and of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingShape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the keys of all heads.
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub feed_forward: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Texts of the batch.
    pub texts: usize,
    /// Tokens of each text.
    pub tokens: usize,
}

impl TrainingShape {
    /// One shard of the story model's recipe, with texts of 170 tokens.
    pub const STORIES: Self = Self {
        layers: 4,
        hidden: 256,
        keys: 128,
        heads: 4,
        feed_forward: 512,
        vocabulary: 1024,
        texts: 2,
        tokens: 170,
    };

    /// Tokens of the batch.
    fn rows(&self) -> usize {
        self.texts * self.tokens
    }

    /// Width of queries, keys and values side by side.
    fn fused(&self) -> usize {
        self.hidden + 2 * self.keys
    }

    fn parameters(&self) -> usize {
        let (h, f) = (self.hidden, self.feed_forward);
        let layer = h * (2 * h + 2 * self.keys + 3 * f) + 3 * h + f;
        self.vocabulary * h + h + self.layers * layer
    }
}

/// Activations of a layer stored for the backward pass.
struct SavedActivations {
    input: Slot,
    attn_in: Slot,
    attn_r: Slot,
    qkv: Slot,
    probabilities: Slot,
    attended: Slot,
    sub_in: Slot,
    sub_r: Slot,
    middle: Slot,
    ffn_in: Slot,
    ffn_r: Slot,
    gate_up: Slot,
    gated: Slot,
    down_in: Slot,
    down_r: Slot,
}

/// Returns the buffers of `bitnet_training::model`, each allocated at its first write and freed after its last read.
///
/// `bitnet-training` reuses these buffers between steps; the trace is that of a trainer without a workspace: a hundred
/// blocks of 1 KiB to 10 MB, freed in nearly reverse order.
pub fn training_step(shape: &TrainingShape) -> Trace {
    let mut writer = Writer::default();
    let w = &mut writer;
    let (rows, h) = (shape.rows(), shape.hidden);
    let gradients = w.take(shape.parameters());

    let stream = w.take(rows * h);
    let layers: Vec<SavedActivations> = (0..shape.layers).map(|_| forward(w, shape)).collect();
    let (normed, output_r) = (w.take(rows * h), w.take(rows));
    let logits = w.take(rows * shape.vocabulary);

    let d_normed = w.take(rows * h);
    w.free([logits, normed]);
    let d_stream = w.take(rows * h);
    let scaled = w.take(h);
    w.free([scaled, d_normed, output_r, stream]);
    for saved in layers.into_iter().rev() {
        backward(w, shape, saved);
    }
    w.free([d_stream, gradients]);
    Trace { prologue: Vec::new(), slots: writer.taken.len(), events: writer.events }
}

fn forward(w: &mut Writer, shape: &TrainingShape) -> SavedActivations {
    let (rows, h, f) = (shape.rows(), shape.hidden, shape.feed_forward);
    SavedActivations {
        input: w.take(rows * h),
        attn_in: w.take(rows * h),
        attn_r: w.take(rows),
        qkv: w.take(rows * shape.fused()),
        probabilities: w.take(shape.texts * shape.tokens * shape.tokens * shape.heads),
        attended: w.take(rows * h),
        sub_in: w.take(rows * h),
        sub_r: w.take(rows),
        middle: w.take(rows * h),
        ffn_in: w.take(rows * h),
        ffn_r: w.take(rows),
        gate_up: w.take(rows * 2 * f),
        gated: w.take(rows * f),
        down_in: w.take(rows * f),
        down_r: w.take(rows),
    }
}

fn backward(w: &mut Writer, shape: &TrainingShape, saved: SavedActivations) {
    let (rows, h, f) = (shape.rows(), shape.hidden, shape.feed_forward);
    // Feed-forward block.
    let d_down = w.take(rows * f);
    w.free([saved.down_in]);
    let d_wide = w.take(rows * 2 * f);
    norm_backward(w, f, [saved.gated, saved.down_r]);
    w.free([d_down, saved.gate_up]);
    let d_narrow = w.take(rows * h);
    w.free([d_wide, saved.ffn_in]);
    norm_backward(w, h, [saved.middle, saved.ffn_r]);
    w.free([d_narrow]);
    // Attention.
    let d_narrow = w.take(rows * h);
    w.free([saved.sub_in]);
    let d_wide = w.take(rows * (h + shape.fused()));
    norm_backward(w, h, [saved.attended, saved.sub_r]);
    for _ in 0..shape.texts {
        let d_scores = w.take(shape.tokens * shape.tokens);
        w.free([d_scores]);
    }
    w.free([saved.probabilities, saved.qkv, saved.attn_in, d_wide]);
    norm_backward(w, h, [saved.input, saved.attn_r]);
    w.free([d_narrow]);
}

/// The gradient of a norm needs scratch for one row; its inputs are freed afterwards.
fn norm_backward(w: &mut Writer, width: usize, read: [Slot; 2]) {
    let scaled = w.take(width);
    w.free([scaled]);
    w.free(read);
}
