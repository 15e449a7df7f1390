//! The causal convolution of each channel, with SiLU. The sums are the reference's, bit for bit; SiLU lies within the
//! bound of `gate.rs`.

use super::exp::exp;
use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::kv::StateSpan;
use bitnet_core::memory::PoolBuffer;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::causal_conv`].
pub(crate) fn causal_conv(
    x: &BitNetTensor,
    weight: &BitNetTensor,
    spans: &mut [StateSpan<'_>],
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::causal_conv(x, weight, spans, out)?;
    let (mut x, weight, mut out) = (x.f32()?, weight.f32()?, out.f32_mut()?);
    for span in spans {
        let (first, tokens) = (span.first, span.tokens);
        let mut state = span.layer_state()?;
        let channels = state.shape.channels();
        let (own, rest) = x.split_at(tokens * channels);
        let (result, tail) = out.split_at_mut(own.len());
        (x, out) = (rest, tail);
        let before = state.inputs_before(first);
        let mut rows = PoolBuffer::scratch(before.len() + own.len(), exec.scratch_pool)?;
        rows[..before.len()].copy_from_slice(before);
        rows[before.len()..].copy_from_slice(own);
        state.store_inputs(own, first);
        let work = 16 + state.shape.taps;
        exec.for_each_rows(result, 1, work, &|range, out| {
            exec.isa.run_shared(Conv { rows: &rows, weight, channels, first: range.start, out });
            Ok(())
        })?;
    }
    Ok(())
}

/// Some outputs that follow one another.
struct Conv<'a> {
    /// The rows before the first output's, then those of the outputs.
    rows: &'a [f32],
    weight: &'a [f32],
    channels: usize,
    /// The index of the first output, `token * channels + channel`.
    first: usize,
    out: &'a mut [f32],
}

impl Op for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { rows, weight, channels, first, mut out } = self;
        let mut index = first;
        while !out.is_empty() {
            let channel = index % channels;
            let (own, rest) = out.split_at_mut((channels - channel).min(out.len()));
            out = rest;
            own.fill(0.0);
            for (tap, weight) in weight.chunks_exact(channels).enumerate() {
                let inputs = &rows[index + tap * channels..][..own.len()];
                for ((out, x), w) in own.iter_mut().zip(inputs).zip(&weight[channel..]) {
                    *out += w * x;
                }
            }
            own.iter_mut().for_each(|out| *out /= 1.0 + exp(-*out));
            index += own.len();
        }
    }
}
