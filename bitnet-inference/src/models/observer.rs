//! The inputs of a model's linear layers, shown to an observer as they are computed.

use std::fmt;

use bitnet_core::memory::tensor::BitNetTensor;

use super::compute::Compute;
use crate::Result;

/// What linear layers read: one of these for all projections that share it.
///
/// Written as `blk.3.attn_qkv`: the layer, and which projections. Projections with norms of their own read different
/// numbers and have names of their own, `blk.3.attn_q`.
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

pub(super) fn name_of(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Projections that read one input: what it is called, and what it is called where each has a norm of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputSite {
    shared: &'static str,
    own: &'static [&'static str],
}

pub(super) const QKV: InputSite =
    InputSite { shared: "attn_qkv", own: &["attn_q", "attn_k", "attn_v"] };
pub(super) const OUTPUT: InputSite = InputSite { shared: "attn_output", own: &["attn_output"] };
pub(super) const DELTA_QKV: InputSite =
    InputSite { shared: "attn_qkv_gate", own: &["attn_qkv", "attn_gate"] };
pub(super) const DELTA_GATES: InputSite =
    InputSite { shared: "ssm_alpha_beta", own: &["ssm_alpha", "ssm_beta"] };
pub(super) const DELTA_OUTPUT: InputSite = InputSite { shared: "ssm_out", own: &["ssm_out"] };
pub(super) const DRAFT_JOIN: InputSite =
    InputSite { shared: "nextn.eh_proj", own: &["nextn.eh_proj"] };
pub(super) const GATE_UP: InputSite =
    InputSite { shared: "ffn_gate_up", own: &["ffn_gate", "ffn_up"] };
pub(super) const DOWN: InputSite = InputSite { shared: "ffn_down", own: &["ffn_down"] };

impl InputSite {
    /// Returns the name of what the projection at `index` reads, which is its own if it has an input norm.
    pub(super) fn name(self, index: usize, has_norm: bool) -> &'static str {
        if has_norm { self.own[index] } else { self.shared }
    }
}

/// Receives the input of each linear layer, `[tokens, features]`, before the layer is computed.
pub type ObserveFn<'a> = dyn FnMut(LayerInput, &[f32]) -> Result<()> + 'a;

/// Shows the inputs of one layer to a function, if there is one.
pub(super) struct InputObserver<'a, 'b> {
    layer: usize,
    observe: Option<&'a mut ObserveFn<'b>>,
    last: Option<&'static str>,
}

impl<'a, 'b> InputObserver<'a, 'b> {
    pub(super) fn new(layer: usize, observe: Option<&'a mut ObserveFn<'b>>) -> Self {
        Self { layer, observe, last: None }
    }

    /// Shows what the projection at `index` of `site` reads, once for neighbours that read the same.
    pub(super) fn show(
        &mut self,
        site: InputSite,
        index: usize,
        has_norm: bool,
        x: &BitNetTensor,
        compute: &Compute,
    ) -> Result<()> {
        let Some(observe) = &mut self.observe else { return Ok(()) };
        let name = site.name(index, has_norm);
        if self.last.replace(name) == Some(name) {
            return Ok(());
        }
        let features = x.shape().last().copied().unwrap_or(0);
        observe(
            LayerInput { layer: self.layer, name, features },
            compute.to_host(x.clone())?.f32()?,
        )
    }
}
