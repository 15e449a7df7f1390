//! The blocks of one decoding step: sampling a token from the last hidden state, and processing it.

use super::{Slot, Trace, Writer};

/// Widths of a decoder that follow from its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderShape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the queries of all heads.
    pub queries: usize,
    /// Width of the keys of all heads.
    pub keys: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Number of logits if all are computed; `None` with a prepared head.
    pub logits: Option<usize>,
}

impl DecoderShape {
    /// BitNet b1.58 2B4T.
    pub const BITNET_2B: Self = Self {
        layers: 30,
        hidden: 2560,
        queries: 2560,
        keys: 640,
        intermediate: 6912,
        logits: None,
    };

    /// The story model of this project.
    pub const STORIES: Self = Self {
        layers: 4,
        hidden: 256,
        queries: 256,
        keys: 128,
        intermediate: 512,
        logits: Some(1024),
    };
}

/// Returns the allocations of `bitnet_inference::models::Decoder` for one token of one sequence, with ternary
/// projections and both sub-norms, as in BitNet.
pub fn decode_step(shape: &DecoderShape) -> Trace {
    let mut writer = Writer::default();
    let before = writer.take(shape.hidden);
    let prologue = std::mem::take(&mut writer.events);

    let x = writer.take(shape.hidden);
    let logits = shape.logits.map(|width| writer.take(width));
    writer.free([x]);
    if let Some(logits) = logits {
        writer.free([logits]);
    }
    // The hidden state of the previous token is freed when the next token is processed.
    writer.free([before]);
    let _h = writer.take(shape.hidden);
    for _ in 0..shape.layers {
        layer(&mut writer, shape);
    }
    Trace { prologue, slots: writer.taken.len(), events: writer.events }
}

fn layer(writer: &mut Writer, shape: &DecoderShape) {
    let a = writer.take(shape.hidden);
    let attended = attention(writer, shape, a);
    let b = writer.take(shape.hidden);
    let fed = feed_forward(writer, shape, b);
    writer.free([fed, attended]);
}

fn attention(writer: &mut Writer, shape: &DecoderShape, x: Slot) -> Slot {
    let [q, k, v] = [shape.queries, shape.keys, shape.keys].map(|width| writer.take(width));
    let o = writer.take(shape.queries);
    let normed = writer.take(shape.queries);
    writer.free([o]);
    let out = writer.take(shape.hidden);
    writer.free([normed, v, k, q, x]);
    out
}

fn feed_forward(writer: &mut Writer, shape: &DecoderShape, x: Slot) -> Slot {
    let [gated, up] = [shape.intermediate; 2].map(|width| writer.take(width));
    writer.free([up]);
    let normed = writer.take(shape.intermediate);
    writer.free([gated]);
    let out = writer.take(shape.hidden);
    writer.free([normed, x]);
    out
}

#[cfg(test)]
mod tests {
    use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
    use bitnet_inference::sampler::{Sampler, SamplerConfig};
    use bitnet_inference::{LoadOptions, Model, ModelSource, backend_by_name};

    use super::*;

    #[test]
    fn the_trace_is_what_the_decoder_does() {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let options = LoadOptions { pool: Some(pool.clone()), ..LoadOptions::default() };
        let backend = backend_by_name("cpu", Default::default()).unwrap();
        let model =
            Model::load_with(ModelSource::Embedded, &options, backend, &mut |_, _| {}).unwrap();
        let config = model.config();
        let shape = DecoderShape {
            layers: config.layers,
            hidden: config.hidden,
            queries: config.heads * config.head_dim,
            keys: config.kv_heads * config.head_dim,
            intermediate: config.intermediate,
            logits: Some(config.vocab_size),
        };
        assert_eq!(shape, DecoderShape::STORIES);

        let mut session = model.session(Some(16)).unwrap();
        let mut sampler = Sampler::new(SamplerConfig::default(), config.vocab_size).unwrap();
        session.extend(&[1]).unwrap();
        // Without the last hidden state, which the session holds between steps and the trace counts.
        let held = pool.get_metrics().total_allocated - (config.hidden * size_of::<f32>()) as u64;
        let trace = decode_step(&shape);
        for _ in 0..3 {
            let before = pool.get_metrics();
            let token = session.choose(&mut sampler).unwrap();
            session.extend(&[token]).unwrap();
            let after = pool.get_metrics();
            let taken = after.allocations - before.allocations;
            assert_eq!(taken, trace.takes() as u64);
            assert_eq!(after.deallocations - before.deallocations, taken);
            assert_eq!(after.peak_allocated - held, trace.peak() as u64, "order of the drops");
        }
    }
}
