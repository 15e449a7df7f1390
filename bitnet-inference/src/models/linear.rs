//! Linear layers: a weight, a norm on its input where there is one, and what multiplies them.

use std::sync::Arc;

use bitnet_core::backend::{ActivationPrecision, Direction, Rotation, TernaryWeight};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;
use smallvec::SmallVec;

use super::compute::Compute;
use super::observer::{InputObserver, InputSite};
use crate::Result;

/// The weight of a linear layer: quantisation is its property, not the model's.
#[derive(Debug)]
pub enum Linear {
    /// Trits, with the treatment of the input that the model was trained for.
    Ternary(Box<dyn TernaryWeight>, ActivationPrecision),
    /// An ordinary matrix.
    Dense(Arc<dyn DenseRows>),
}

impl Linear {
    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Self::Ternary(weight, _) => weight.rows(),
            Self::Dense(weight) => weight.rows(),
        }
    }
}

/// A linear layer, with a bias and with an RMS norm on its input where the checkpoint has them.
#[derive(Debug)]
pub struct Projection {
    /// The weight, `[out_features, in_features]`.
    pub weight: Linear,
    /// The bias, `[1, out_features]` (Qwen2).
    pub bias: Option<BitNetTensor>,
    /// The input norm's weight, `[in_features]`, and its epsilon.
    pub input_norm: Option<(BitNetTensor, f32)>,
    /// What turns the input, after its norm, where the weight is stored rotated.
    pub rotation: Option<Arc<Rotation>>,
}

impl Projection {
    /// The trits of a projection without an input norm, and how its input is quantised.
    fn plain_ternary(&self) -> Option<(&dyn TernaryWeight, ActivationPrecision)> {
        match (&self.weight, &self.input_norm) {
            (Linear::Ternary(weight, precision), None) => Some((&**weight, *precision)),
            _ => None,
        }
    }

    fn rotates_like(&self, other: &Self) -> bool {
        match (&self.rotation, &other.rotation) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }

    /// Returns both weights if one quantised input serves both projections.
    pub(super) fn quantised_together<'a>(
        &'a self,
        other_projection: &'a Self,
    ) -> Option<([&'a dyn TernaryWeight; 2], ActivationPrecision)> {
        let ((a, precision), (b, other)) =
            (self.plain_ternary()?, other_projection.plain_ternary()?);
        (precision == other && self.rotates_like(other_projection)).then_some(([a, b], precision))
    }
}

impl Compute {
    /// Returns `x · weightᵀ`, `[tokens, rows]`.
    pub(super) fn linear(&self, x: &BitNetTensor, weight: &Linear) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], weight.rows())?;
        self.multiply(x, weight, &mut out)?;
        Ok(out)
    }

    /// Returns the rows of `x`, rotated.
    pub(super) fn rotate(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
    ) -> Result<BitNetTensor> {
        let mut out = self.tensor(x.shape()[0], x.shape()[1])?;
        self.backend.hadamard(x, rotation, direction, &mut out)?;
        Ok(out)
    }

    /// Adds `bias` to each row of `out`.
    fn add_bias(&self, out: &mut BitNetTensor, bias: &BitNetTensor) -> Result<()> {
        let rows: SmallVec<[_; 8]> = SmallVec::from_elem((bias, 0), out.shape()[0]);
        Ok(self.backend.add(out, &self.backend.rows(&rows, &self.pool)?)?)
    }

    fn multiply(&self, x: &BitNetTensor, weight: &Linear, out: &mut BitNetTensor) -> Result<()> {
        Ok(match weight {
            Linear::Ternary(weight, precision) => {
                self.backend.bit_linear(x, *precision, &[&**weight], &mut [out])
            }
            Linear::Dense(weight) => self.backend.linear(x, &**weight, out),
        }?)
    }

    /// Returns the outputs `[tokens, rows]` of projections of one input: neighbours that read it quantised alike have
    /// it quantised once and multiplied by each.
    pub(super) fn project<const N: usize>(
        &self,
        x: &BitNetTensor,
        projections: &[Projection; N],
        site: InputSite,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<[BitNetTensor; N]> {
        let mut outputs = Vec::with_capacity(N);
        for projection in projections {
            outputs.push(self.tensor(x.shape()[0], projection.weight.rows())?);
        }
        let mut rest = &mut outputs[..];
        for group in projections.chunk_by(|a, b| a.quantised_together(b).is_some()) {
            let index = N - rest.len();
            let (out, others) = rest.split_at_mut(group.len());
            rest = others;
            let normed = match &group[0].input_norm {
                Some((weight, eps)) => Some(self.norm(x, weight, *eps)?),
                None => None,
            };
            let input = normed.as_ref().unwrap_or(x);
            let turned = group[0]
                .rotation
                .as_ref()
                .map(|rotation| self.rotate(input, rotation, Direction::Forward));
            let turned = turned.transpose()?;
            let input = turned.as_ref().unwrap_or(input);
            observer.show(site, index, normed.is_some(), input, self)?;
            match group[0].plain_ternary() {
                Some((_, precision)) => {
                    let weights = group.iter().filter_map(Projection::plain_ternary);
                    let weights: SmallVec<[_; 3]> = weights.map(|(weight, _)| weight).collect();
                    let mut out: SmallVec<[_; 3]> = out.iter_mut().collect();
                    self.backend.bit_linear(input, precision, &weights, &mut out)?;
                }
                None => self.multiply(input, &group[0].weight, &mut out[0])?,
            }
        }
        for (out, projection) in outputs.iter_mut().zip(projections) {
            if let Some(bias) = &projection.bias {
                self.add_bias(out, bias)?;
            }
        }
        let count = outputs.len();
        outputs.try_into().map_err(|_| {
            bitnet_core::Error::OutOfRange { op: "project", index: count, len: N }.into()
        })
    }
}
