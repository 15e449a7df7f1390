//! Vectors that Hugging Face checkpoints hold in another form than layers compute with: norms as their distance from a
//! constant, rates of decay as the logarithm of their magnitude.

use bitnet_formats::architecture::{ArchitectureTable, Role};
use bitnet_formats::names::{Part, TensorName};
use half::bf16;

/// How a folder holds the norms of families whose class in transformers adds a constant to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormForm {
    /// Less the constant, as transformers saves them.
    #[default]
    Offset,
    /// As they multiply, as MLX's programs save them.
    Multiplier,
}

/// The form of a vector's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Less this constant.
    Offset(f32),
    /// The logarithm of the negated number.
    LogOfNegated,
}

fn form(table: &ArchitectureTable, name: TensorName, norms: NormForm) -> Option<Form> {
    let offset = table.hf_norm_offset;
    match name.role {
        _ if name.part == Part::InputNorm => None,
        Role::DeltaRate => Some(Form::LogOfNegated),
        Role::AttentionNorm
        | Role::FeedForwardNorm
        | Role::OutputNorm
        | Role::QueryNorm
        | Role::KeyNorm
        | Role::AttentionPostNorm
        | Role::FeedForwardPostNorm
        | Role::DraftEmbeddingNorm
        | Role::DraftStateNorm
        | Role::DraftOutputNorm
            if offset != 0.0 && norms == NormForm::Offset =>
        {
            Some(Form::Offset(offset))
        }
        _ => None,
    }
}

/// Whether Hugging Face checkpoints of a family hold a vector in another form than layers compute with.
pub fn has_own_form(table: &ArchitectureTable, name: TensorName, norms: NormForm) -> bool {
    form(table, name, norms).is_some()
}

/// Turns a checkpoint's numbers into those that layers compute with.
pub fn from_hf_form(
    table: &ArchitectureTable,
    name: TensorName,
    norms: NormForm,
    numbers: &mut [f32],
) {
    match form(table, name, norms) {
        Some(Form::Offset(offset)) => numbers.iter_mut().for_each(|x| *x += offset),
        Some(Form::LogOfNegated) => numbers.iter_mut().for_each(|x| *x = -x.exp()),
        None => {}
    }
}

/// Turns numbers that layers compute with into a checkpoint's: the nearest that [`from_hf_form`] reads back.
///
/// # Errors
/// The index of a number that no checkpoint can hold: a rate that is not negative.
pub fn to_hf_form(
    table: &ArchitectureTable,
    name: TensorName,
    norms: NormForm,
    numbers: &mut [f32],
) -> Result<(), usize> {
    match form(table, name, norms) {
        Some(Form::Offset(offset)) => numbers.iter_mut().for_each(|x| *x -= offset),
        Some(Form::LogOfNegated) => {
            for (index, number) in numbers.iter_mut().enumerate() {
                *number = logarithm(-*number).ok_or(index)?;
            }
        }
        None => {}
    }
    Ok(())
}

/// Returns the number whose exponential comes nearest to `x`, a short one where several come as near.
fn logarithm(x: f32) -> Option<f32> {
    if !(x.is_finite() && x > 0.0) {
        return None;
    }
    let near = f64::from(x).ln() as f32;
    // Files are trained in bfloat16: its neighbours come first.
    let short = bf16::from_f32(near);
    let steps = [0_i32, 1, -1];
    let short =
        steps.map(|step| bf16::from_bits((i32::from(short.to_bits()) + step) as u16).to_f32());
    let others = [near, near.next_up(), near.next_down()];
    let distance = |candidate: f32| (candidate.exp() - x).abs();
    let nearest = short.into_iter().chain(others).filter(|candidate| candidate.is_finite());
    nearest.fold(None, |best: Option<f32>, candidate| match best {
        Some(best) if distance(best) <= distance(candidate) => Some(best),
        _ => Some(candidate),
    })
}

#[cfg(test)]
mod tests {
    use bitnet_formats::architecture::Architecture;

    use super::*;

    #[test]
    fn forms_are_inverse_for_numbers_of_checkpoints() {
        let table = Architecture::Qwen35.table();
        for (role, stored) in [
            (Role::DeltaRate, [0.0, -3.5, 1.3125, 4.0625, 0.001953125]),
            (Role::AttentionNorm, [0.5, -0.25, 0.0078125, 1.5, 0.0]),
            (Role::DraftStateNorm, [0.5, -0.25, 0.0078125, 1.5, 0.0]),
            (Role::DeltaNorm, [0.5, -0.25, 0.0078125, 1.5, 0.0]),
        ] {
            for norms in [NormForm::Offset, NormForm::Multiplier] {
                let name = TensorName::in_layer(0, role);
                let mut numbers = stored;
                from_hf_form(table, name, norms, &mut numbers);
                let computed = numbers;
                assert_eq!(numbers == stored, !has_own_form(table, name, norms), "{role:?}");
                to_hf_form(table, name, norms, &mut numbers).unwrap();
                assert_eq!(numbers, stored, "{role:?}");
                from_hf_form(table, name, norms, &mut numbers);
                assert_eq!(numbers, computed, "{role:?}");
            }
        }
    }

    #[test]
    fn rates_that_have_no_logarithm_are_named() {
        let table = Architecture::Qwen35.table();
        let name = TensorName::in_layer(0, Role::DeltaRate);
        for wrong in [0.0, 1.0, f32::NAN, f32::NEG_INFINITY] {
            assert_eq!(to_hf_form(table, name, NormForm::Offset, &mut [-1.0, wrong]), Err(1));
        }
        let mut smallest = [-f32::from_bits(1), f32::MIN];
        assert_eq!(to_hf_form(table, name, NormForm::Offset, &mut smallest), Ok(()));
        assert!(smallest.iter().all(|number| number.is_finite()));
    }
}
