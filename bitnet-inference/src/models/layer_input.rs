//! The inputs of a model's linear layers: who may look at them, and the ranges that calibration found for them.

use std::fmt;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_quant::activations::{ActivationBits, ActivationRange};
use bitnet_quant::calibration::Calibration;

use super::decoder::{Decoder, Layer, Linear, Projection};
use crate::{InferenceError, Result};

/// What linear layers read: one of these for all projections that share it.
///
/// Written as `blk.3.attn_qkv`: the layer, and which projections. Projections with norms of their own read different numbers
/// and have names of their own, `blk.3.attn_q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerInput {
    /// The layer, from 0 on.
    pub layer: usize,
    /// The projections: `attn_qkv`, `attn_output`, `ffn_gate_up`, `ffn_down`, or a single one of them.
    pub name: &'static str,
    /// Numbers of a token.
    pub features: usize,
}

impl fmt::Display for LayerInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name_of(self.layer, self.name))
    }
}

fn name_of(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Projections that read one input: what it is called, and what it is called where each has a norm of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    shared: &'static str,
    own: &'static [&'static str],
}

pub(super) const QKV: Site = Site { shared: "attn_qkv", own: &["attn_q", "attn_k", "attn_v"] };
pub(super) const OUTPUT: Site = Site { shared: "attn_output", own: &["attn_output"] };
pub(super) const GATE_UP: Site = Site { shared: "ffn_gate_up", own: &["ffn_gate", "ffn_up"] };
pub(super) const DOWN: Site = Site { shared: "ffn_down", own: &["ffn_down"] };

impl Site {
    /// The name of what the projection at `index` reads.
    pub(super) fn name(self, index: usize, projection: &Projection) -> &'static str {
        match projection.input_norm {
            Some(_) => self.own[index],
            None => self.shared,
        }
    }
}

/// Is shown the input of each linear layer, `[tokens, features]`, before the layer is computed.
pub type Observe<'a> = dyn FnMut(LayerInput, &[f32]) -> Result<()> + 'a;

/// One layer's way to whoever looks at inputs.
pub(super) struct Tap<'a, 'b> {
    pub(super) layer: usize,
    pub(super) observe: Option<&'a mut Observe<'b>>,
}

impl Tap<'_, '_> {
    pub(super) fn show(&mut self, name: &'static str, x: &BitNetTensor) -> Result<()> {
        match &mut self.observe {
            Some(observe) => {
                let features = x.shape().last().copied().unwrap_or(0);
                observe(LayerInput { layer: self.layer, name, features }, x.f32()?)
            }
            None => Ok(()),
        }
    }
}

/// The projections of a layer with the names of what they read.
fn projections(layer: &mut Layer) -> impl Iterator<Item = (&'static str, &mut Projection)> {
    let Layer { attention, feed_forward, .. } = layer;
    let all: [(Site, &mut [Projection]); 4] = [
        (QKV, &mut attention.qkv),
        (OUTPUT, std::slice::from_mut(&mut attention.output)),
        (GATE_UP, &mut feed_forward.gate_up),
        (DOWN, std::slice::from_mut(&mut feed_forward.down)),
    ];
    all.into_iter().flat_map(|(site, projections)| {
        let named = projections.iter_mut().enumerate();
        named.map(move |(index, projection)| (site.name(index, projection), projection))
    })
}

impl Decoder {
    /// Quantises the inputs of ternary layers within the ranges of `calibration`, where they were quantised by each token's
    /// largest magnitude. Layers that read f32 stay as they are.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] for ranges of 4 bits, [`InferenceError::Calibration`] if it names other
    /// inputs than this model has or lacks one of them. The model is unchanged then.
    pub fn calibrate(&mut self, calibration: &Calibration) -> Result<()> {
        if calibration.bits() != ActivationBits::Int8 {
            return Err(InferenceError::UnsupportedOperation {
                what: "running a model with activations of 4 bits".into(),
                instead: "calibrate for 8 bits; 4 bits can be measured with `bitnet calibrate`"
                    .into(),
            });
        }
        let mut known = std::collections::BTreeSet::new();
        for (layer, weights) in self.layers.iter_mut().enumerate() {
            for (name, projection) in projections(weights) {
                let input = name_of(layer, name);
                let needed = matches!(&projection.weight, Linear::Ternary(_, precision) if *precision != ActivationPrecision::Float);
                if needed && calibration.layer(&input).is_none() {
                    return Err(InferenceError::Calibration {
                        input,
                        problem: "has no range in it",
                    });
                }
                known.insert(input);
            }
        }
        if let Some(other) = calibration.layers().iter().find(|layer| !known.contains(&layer.name))
        {
            let input = other.name.clone();
            return Err(InferenceError::Calibration { input, problem: "is not in the model" });
        }
        for (layer, weights) in self.layers.iter_mut().enumerate() {
            for (name, projection) in projections(weights) {
                let found = calibration.layer(&name_of(layer, name));
                if let (Some(found), Linear::Ternary(_, precision)) =
                    (found, &mut projection.weight)
                    && let ActivationRange::Static(largest) = found.activation_range()
                    && *precision != ActivationPrecision::Float
                {
                    *precision = ActivationPrecision::Int8Within(largest);
                }
            }
        }
        Ok(())
    }
}
