//! Root-mean-square normalisation. The squares are summed in f64, so a result differs from the reference's by one
//! rounding of the mean at most.

use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::rms_factor;

/// `out = weight * (x / sqrt(mean(x²) + eps))`. See [`bitnet_core::backend::Operations::rms_norm`].
pub(crate) fn rms_norm(
    x: &BitNetTensor,
    weight: &BitNetTensor,
    eps: f32,
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::rms_norm(x, weight, out)?;
    let (x, weight) = (x.f32()?, weight.f32()?);
    let n = weight.len();
    exec.for_each_rows(out.f32_mut()?, n, n, &|range, out| {
        let x = &x[range.start * n..range.end * n];
        exec.isa.run_shared(RmsNorm { x, weight, eps, out });
        Ok(())
    })
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let n = self.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let mean = sum_of_squares(x) / n as f64;
            let factor = rms_factor(mean as f32, self.eps);
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(self.weight) {
                *out = w * (x * factor);
            }
        }
    }
}

/// Returns `Σ x²` in f64.
#[inline(always)]
pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            // The square is exact, so fusing changes nothing.
            *lane = f64::from(x).mul_add(f64::from(x), *lane);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}
