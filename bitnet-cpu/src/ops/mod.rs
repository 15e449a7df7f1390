//! The operations of [`bitnet_core::backend::Backend`], one file each, in the order of that list.

mod add;
mod attention;
mod bit_linear;
mod causal_conv;
mod delta_rule;
mod dot;
mod embed;
mod exp;
mod gate;
mod gate_up;
mod hadamard;
mod linear;
mod pieces;
mod rms_norm;
mod rope;
mod store;
mod top_logits;
mod weighted_sum;

pub(crate) use add::add;
pub(crate) use attention::attention;
pub(crate) use bit_linear::{
    CpuWeight, bit_linear, bit_linear_integers, block_sums, gated, parts_layout, takes_gated,
};
pub(crate) use causal_conv::causal_conv;
pub(crate) use delta_rule::delta_rule;
pub(crate) use embed::embed;
pub(crate) use gate::{clamped_gate, gate};
pub(crate) use gate_up::{relu2, takes};
pub(crate) use hadamard::hadamard;
pub(crate) use linear::linear;
pub(crate) use rms_norm::rms_norm;
pub(crate) use rope::rope;
pub(crate) use store::store;
pub(crate) use top_logits::{head_from_parts, int4_dots, prepare_head, top_logits};
pub(crate) use weighted_sum::weighted_sum;
