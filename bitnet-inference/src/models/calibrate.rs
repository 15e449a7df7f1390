//! Ranges that calibration found for the inputs of linear layers.

use std::collections::BTreeSet;

use bitnet_core::backend::ActivationPrecision;
use bitnet_quant::activations::{ActivationBits, ActivationRange};
use bitnet_quant::calibration::Calibration;

use super::observer::{
    DELTA_GATES, DELTA_OUTPUT, DELTA_QKV, DOWN, GATE_UP, InputSite, OUTPUT, QKV, name_of,
};
use super::{Decoder, FeedForward, Layer, Linear, Mixer, Projection};
use crate::{InferenceError, Result};

/// The projections of a layer with the names of what they read.
fn projections(layer: &mut Layer) -> impl Iterator<Item = (&'static str, &mut Projection)> {
    let Layer { mixer, feed_forward, .. } = layer;
    let mut all: Vec<(InputSite, &mut [Projection])> = match mixer {
        Mixer::Attention(attention) => {
            vec![(QKV, &mut attention.qkv), (OUTPUT, std::slice::from_mut(&mut attention.output))]
        }
        Mixer::Delta(delta) => vec![
            (DELTA_QKV, &mut delta.qkv_gate),
            (DELTA_GATES, &mut delta.step_write),
            (DELTA_OUTPUT, std::slice::from_mut(&mut delta.output)),
        ],
    };
    // The inputs of experts are not observed.
    if let FeedForward::Dense(unit) = feed_forward {
        all.push((GATE_UP, &mut unit.gate_up));
        all.push((DOWN, std::slice::from_mut(&mut unit.down)));
    }
    all.into_iter().flat_map(|(site, projections)| {
        let named = projections.iter_mut().enumerate();
        named.map(move |(index, projection)| {
            (site.name(index, projection.input_norm.is_some()), projection)
        })
    })
}

impl Decoder {
    /// Quantises the inputs of ternary layers within the ranges of `calibration`, where they were quantised by each
    /// token's largest magnitude. Layers that read f32 stay as they are.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] for ranges of 4 bits, [`InferenceError::Calibration`] if it names other
    /// inputs than this model has or lacks one of them. The model is unchanged then.
    pub fn calibrate(&mut self, calibration: &Calibration) -> Result<()> {
        if calibration.bits() != ActivationBits::Int8 {
            return Err(InferenceError::unsupported(
                "running a model with activations of 4 bits",
                "calibrate for 8 bits; 4 bits can be measured with `bitnet calibrate`",
            ));
        }
        if self.layers.iter().any(|layer| matches!(layer.feed_forward, FeedForward::Mixture(_))) {
            return Err(InferenceError::unsupported(
                "running a mixture of experts within calibrated ranges",
                "run it without --calibration; the inputs of experts are not quantised",
            ));
        }
        let mut known = BTreeSet::new();
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
