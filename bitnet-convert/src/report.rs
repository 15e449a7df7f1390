//! The report of a conversion or of a dry run, tensor by tensor.

use std::time::Duration;

use bitnet_quant::loss::{Loss, LossMeter};

use crate::partial::Record;
use crate::plan::Plan;
use crate::tensors::{Kind, ModelTensor};
use bitnet_inference::ModelFiles;

/// The error of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fidelity {
    /// The conversion is lossless.
    Exact,
    /// The conversion has this error.
    Lossy(Loss),
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// Its name in the result.
    pub name: String,
    /// Its role: `embedding`, `head`, `linear` or `vector`.
    pub role: &'static str,
    /// `[rows, cols]`; a vector has one row.
    pub shape: [usize; 2],
    /// Its type in the source.
    pub from: String,
    /// Its type in the result.
    pub to: String,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes in the result, including separate scales.
    pub bytes: u64,
    /// The error; `None` before the conversion.
    pub fidelity: Option<Fidelity>,
}

/// The report of a conversion or of a dry run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The source.
    pub source: String,
    /// `gguf`, `hf` or `hf-dense`.
    pub target: &'static str,
    /// Every tensor, in the order of the result.
    pub tensors: Vec<TensorReport>,
    /// Warnings about changes of the model or its use.
    pub remarks: Vec<String>,
    /// Bytes of all weights in the source.
    pub source_bytes: u64,
    /// Bytes of all files with weights in the result.
    pub bytes: u64,
    /// Names of those files.
    pub files: Vec<String>,
    /// Steps finished by an earlier, interrupted run.
    pub resumed: usize,
    /// Total steps.
    pub steps: usize,
    /// Conversion time of this run.
    pub converting: Duration,
    /// Verification time; `None` without verification.
    pub proving: Option<Duration>,
}

/// Returns the name of a tensor's type in its file, if the tensor exists.
pub(crate) fn stored_name(files: &ModelFiles, tensor: &ModelTensor) -> Option<String> {
    let stored = files.stored_bytes(&tensor.stem()).ok().flatten()?;
    Some(stored.storage.name().to_owned())
}

/// Builds the report from the plan and the records.
pub(crate) fn tensors(files: &ModelFiles, plan: &Plan, records: &[Record]) -> Vec<TensorReport> {
    let mut out: Vec<(usize, TensorReport, LossMeter, usize)> = Vec::new();
    for (step, work) in plan.works.iter().enumerate() {
        let part = work.recipe.part();
        let record = records.binary_search_by_key(&step, |record| record.step).ok();
        let lost = record.map(|index| records[index].proof.lost);
        if let Some((last, report, meter, missing)) = out.last_mut()
            && *last == part
        {
            report.source_bytes += work.source_bytes;
            match lost {
                Some(lost) => meter.merge(&lost),
                None => *missing += 1,
            }
            continue;
        }
        let from = stored_name(files, &work.tensor).unwrap_or_else(|| "unknown".into());
        let target = &plan.parts[part];
        let report = TensorReport {
            name: target.name.clone(),
            role: match work.tensor.kind {
                Kind::Vector => "vector",
                Kind::Plain => "plain matrix",
                Kind::Linear => "linear",
                Kind::Embedding => "embedding",
                Kind::Head => "head",
            },
            shape: [work.tensor.rows, work.tensor.cols],
            from,
            to: target.part_type.name().to_owned(),
            source_bytes: work.source_bytes,
            bytes: work.recipe.parts().map(|part| plan.parts[part].nbytes).sum(),
            fidelity: None,
        };
        out.push((part, report, lost.unwrap_or_default(), usize::from(lost.is_none())));
    }
    out.into_iter()
        .map(|(_, mut report, meter, missing)| {
            let loss = meter.loss();
            let change = if loss.mse == 0.0 { Fidelity::Exact } else { Fidelity::Lossy(loss) };
            report.fidelity = (missing == 0).then_some(change);
            report
        })
        .collect()
}
