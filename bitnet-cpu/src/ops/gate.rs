//! The gated activation of a feed-forward layer, with the exponential of `exp.rs`.
//!
//! GELU is written as `x / (1 + exp(-2u))`, which is `x / 2 · (1 + tanh(u))`. A SiLU lies within `5 · 2⁻²⁴` of the size
//! of the exact one, a GELU within `2⁻²⁰ · |x|`.

use super::exp::exp;
use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::Activation;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;

/// `gate = activation(gate) * up`. See [`bitnet_core::backend::Operations::gate`].
pub(crate) fn gate(
    activation: Activation,
    gate: &mut BitNetTensor,
    up: &BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::expect_same("gate", gate, up)?;
    let up = up.f32()?;
    let work = if activation == Activation::Relu2 { 1 } else { 16 };
    exec.for_each_rows(gate.f32_mut()?, 1, work, &|range, gate| {
        exec.isa.run_shared(Gate { activation, gate, up: &up[range] });
        Ok(())
    })
}

/// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`. See
/// [`bitnet_core::backend::Operations::clamped_gate`].
pub(crate) fn clamped_gate(
    limit: f32,
    gate: &mut BitNetTensor,
    up: &BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::clamped_gate(limit, gate, up)?;
    let up = up.f32()?;
    exec.for_each_rows(gate.f32_mut()?, 1, 16, &|range, gate| {
        exec.isa.run_shared(ClampedGate { limit, gate, up: &up[range] });
        Ok(())
    })
}

/// Some elements.
struct ClampedGate<'a> {
    limit: f32,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Op for ClampedGate<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { limit, gate, up } = self;
        for (gate, up) in gate.iter_mut().zip(up) {
            // Not `min`, which would make a number of NaN.
            let bounded = if *gate > limit { limit } else { *gate };
            *gate = bounded / (1.0 + exp(-bounded)) * up.clamp(-limit, limit);
        }
    }
}

/// Some elements.
pub(crate) struct Gate<'a> {
    pub(crate) activation: Activation,
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a [f32],
}

impl Op for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let pairs = self.gate.iter_mut().zip(self.up);
        match self.activation {
            Activation::Relu2 => {
                for (gate, up) in pairs {
                    // Not `max`, which would make 0 of NaN.
                    let positive = if *gate < 0.0 { 0.0 } else { *gate };
                    *gate = positive * positive * up;
                }
            }
            Activation::Silu => {
                for (gate, up) in pairs {
                    *gate = *gate / (1.0 + exp(-*gate)) * up;
                }
            }
            Activation::GeluTanh => {
                for (gate, up) in pairs {
                    let x = *gate;
                    let inner = 0.797_884_6_f32 * (x + 0.044_715 * x * x * x);
                    *gate = x / (1.0 + exp(-2.0 * inner)) * up;
                }
            }
            Activation::Sigmoid => {
                for (gate, up) in pairs {
                    let open = 1.0 / (1.0 + exp(-*gate));
                    *gate = if gate.is_infinite() { f32::NAN } else { open } * up;
                }
            }
        }
    }
}
