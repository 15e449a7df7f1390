//! Vectors of plain numbers: norms, rates of decay, biases and the factors of RoPE, in the form of the target.

use bitnet_core::dense::DenseRows;
use bitnet_formats::names::Role;
use bitnet_inference::loader::{from_hf_form, has_own_form, to_hf_form};
use bitnet_inference::models::RopeScaling;
use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
use bitnet_quant::loss::LossMeter;

use crate::encode::{Encoded, Encoder, Piece, Proof};
use crate::options::Target;
use crate::tensors::ModelTensor;
use crate::{Error, Result};

impl Encoder<'_> {
    /// Encodes a vector as part `part` of the result. The error is that of the numbers that layers compute with.
    pub(crate) fn vector(
        &self,
        tensor: &ModelTensor,
        part: usize,
        dense: DenseType,
    ) -> Result<Encoded> {
        let computed = self.computed(tensor)?;
        let table = self.files.config().architecture.table();
        let norms = self.plan.target.norms();
        let is_own = self.plan.target != Target::Gguf && has_own_form(table, tensor.name, norms);
        let mut numbers = computed.clone();
        if is_own {
            to_hf_form(table, tensor.name, norms, &mut numbers).map_err(|index| {
                let problem = format!(
                    "number {index} is {}, and folders hold the logarithm of its magnitude: only negative numbers have one",
                    computed[index]
                );
                Error::refused(format!("tensor {}", tensor.stem()), problem)
            })?;
        }
        let mut lost = LossMeter::new();
        let bytes = self.encoded_rows(part, dense, 0..1, tensor.cols, &mut lost, |_, out| {
            out.copy_from_slice(&numbers);
            Ok(())
        })?;
        if is_own {
            let name = &self.plan.parts[part].name;
            let failed = |source| Error::tensor(name, dense.name(), source);
            let stored = DenseMatrix::new(dense, 1, tensor.cols, &bytes[..]).map_err(failed)?;
            stored.decode_row(0, &mut numbers)?;
            from_hf_form(table, tensor.name, norms, &mut numbers);
            lost = LossMeter::new();
            lost.push(&computed, &numbers).map_err(failed)?;
        }
        let pieces = vec![Piece { part, at: 0, bytes }];
        Ok(Encoded { pieces, proof: Proof { weights: None, lost } })
    }

    /// Returns the numbers that layers compute with, in the order of the result.
    fn computed(&self, tensor: &ModelTensor) -> Result<Vec<f32>> {
        let (stem, config) = (tensor.stem(), self.files.config());
        let found = match (tensor.name.role, &config.rope_scaling) {
            (Role::RopeFrequencies, _) => {
                config.frequency_factors().map(|factors| factors.to_vec())
            }
            (Role::RopeShortFactors, RopeScaling::LongRope(long)) => {
                Some(long.short_factors.to_vec())
            }
            (Role::RopeLongFactors, RopeScaling::LongRope(long)) => {
                long.long_factors.as_ref().map(|factors| factors.to_vec())
            }
            _ => self.files.vector(&stem, tensor.cols)?,
        };
        let mut numbers = found.ok_or_else(|| self.files.missing(&stem))?;
        if let Some(order) = self.order(tensor) {
            order.move_cols(&mut numbers, &mut vec![0.0; tensor.cols]);
        }
        Ok(numbers)
    }
}
