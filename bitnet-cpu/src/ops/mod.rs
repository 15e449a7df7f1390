//! The operations of [`bitnet_core::backend::Backend`], one file each, in the order of that list.

mod add;
mod attention;
mod bit_linear;
mod dot;
mod embed;
mod exp;
mod gate;
mod gate_up;
mod linear;
mod rms_norm;
mod rope;
mod store;
mod top_logits;

pub(crate) use add::add;
pub(crate) use attention::attention;
pub(crate) use bit_linear::{CpuWeight, PARTS_LAYOUT, bit_linear, bit_linear_integers, block_sums};
pub(crate) use embed::embed;
pub(crate) use gate::gate;
pub(crate) use gate_up::{relu2, takes};
pub(crate) use linear::linear;
pub(crate) use rms_norm::rms_norm;
pub(crate) use rope::rope;
pub(crate) use store::store;
pub(crate) use top_logits::{head_from_parts, prepare_head, top_logits};

use bitnet_core::memory::HybridMemoryPool;

use crate::isa::AnyIsa;
use crate::threads::Threads;
use crate::traffic::TrafficCounters;

/// What every operation runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine<'a> {
    pub(crate) isa: AnyIsa,
    pub(crate) threads: &'a Threads,
    pub(crate) traffic: &'a TrafficCounters,
    /// For what kernels note on the side.
    pub(crate) pool: &'a HybridMemoryPool,
}
