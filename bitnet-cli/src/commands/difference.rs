//! `bitnet inspect --diff A B`: differences of two models, tensor by tensor.

use std::path::Path;

use anyhow::Result;
use bitnet_convert::{Difference, TensorDifference, available_threads, diff};
use bitnet_inference::{ModelFacts, ModelFiles, ModelSource};
use serde_json::{Value, json};

use super::Outcome;
use crate::args::Cli;
use crate::load;
use crate::output::{self, Output, without_controls};

/// Maximum length of a tensor name that is printed in full.
const NAME: usize = 32;

/// Compares two models; the exit code states whether they are equal.
pub(crate) fn run(cli: &Cli, paths: [&Path; 2], output: &mut Output) -> Result<Outcome> {
    let options = load::options(cli)?;
    let open = |path: &Path| ModelFiles::open(ModelSource::Path(path), &options);
    let (first, second) = (open(paths[0])?, open(paths[1])?);
    let facts = facts_that_differ(&first.facts(&options)?, &second.facts(&options)?);
    let constants = first.config() != second.config();
    let threads = cli.general.threads.unwrap_or_else(available_threads);
    let mut progress = output.progress("tensor");
    let tensors = diff(&first, &second, threads, &mut |done, all| progress.update(done, all))?;
    drop(progress);
    let differ = tensors.iter().filter(|tensor| tensor.difference != Difference::Equal).count();
    if output.json {
        output.json(&json!({
            "first": paths[0].display().to_string(),
            "second": paths[1].display().to_string(),
            "constants_equal": !constants,
            "facts": facts.iter().map(|(name, a, b)| json!({"fact": name, "first": a, "second": b})).collect::<Vec<_>>(),
            "tensors": tensors.iter().map(to_json).collect::<Vec<_>>(),
            "tensors_differing": differ,
        }))?;
    } else {
        for (name, a, b) in &facts {
            output.line(&format!("  {name:<14} {}", without_controls(a)))?;
            output.line(&format!("  {:<14} {}", "", without_controls(b)))?;
        }
        for tensor in tensors.iter().filter(|t| t.difference != Difference::Equal) {
            output.line(&line(tensor))?;
        }
        let all = output::count(tensors.len(), "tensor");
        let text = if differ == 0 {
            output.style.good(&format!("{all}, every number equal")).into_owned()
        } else {
            output.style.warn(&format!("{differ} of {all} differ")).into_owned()
        };
        output.line(&text)?;
    }
    Ok(if differ == 0 { Outcome::Done } else { Outcome::CheckFailed })
}

/// Returns (name, first, second) of the facts that affect inference and differ.
fn facts_that_differ(a: &ModelFacts, b: &ModelFacts) -> Vec<(&'static str, String, String)> {
    [
        ("container", &a.container, &b.container),
        ("architecture", &a.architecture, &b.architecture),
        ("activation", &a.activation, &b.activation),
        ("weights", &a.weights, &b.weights),
        ("inputs", &a.inputs, &b.inputs),
        ("RoPE", &a.rope, &b.rope),
        ("tokenizer", &a.tokenizer, &b.tokenizer),
        ("template", &a.template, &b.template),
    ]
    .into_iter()
    .filter(|(_, a, b)| a != b)
    .map(|(name, a, b)| (name, a.clone(), b.clone()))
    .collect()
}

fn types(tensor: &TensorDifference) -> String {
    let [a, b] = &tensor.types;
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
    format!("{} | {}", name(a), name(b))
}

fn line(tensor: &TensorDifference) -> String {
    let name = without_controls(&tensor.name);
    let [rows, cols] = tensor.shape;
    let what = match &tensor.difference {
        Difference::Equal => "equal".into(),
        Difference::OnlyFirst => "in the first model only".into(),
        Difference::OnlySecond => "in the second model only".into(),
        Difference::Shape([other, columns]) => format!("{rows}x{cols}, not {other}x{columns}"),
        Difference::Numbers { loss, trits } => {
            let trits = match trits {
                Some(0) => "the scale only; ".into(),
                Some(trits) => format!("{trits} of {} trits; ", rows * cols),
                None => String::new(),
            };
            format!(
                "{trits}{:.2} dB, cosine {:.4}, largest {:.1e}",
                loss.sqnr_db, loss.cosine, loss.max_error
            )
        }
    };
    format!("  {name:<NAME$} {:<16} {what}", types(tensor))
}

fn to_json(tensor: &TensorDifference) -> Value {
    let (kind, loss, trits) = match &tensor.difference {
        Difference::Equal => ("equal", None, None),
        Difference::OnlyFirst => ("only_first", None, None),
        Difference::OnlySecond => ("only_second", None, None),
        Difference::Shape(_) => ("shape", None, None),
        Difference::Numbers { loss, trits } => ("numbers", Some(loss), *trits),
    };
    json!({
        "name": tensor.name, "shape": tensor.shape, "types": tensor.types, "difference": kind,
        "trits_differing": trits,
        "loss": loss.map(|loss| json!({
            "mse": loss.mse, "sqnr_db": loss.sqnr_db, "cosine": loss.cosine, "max_error": loss.max_error,
        })),
    })
}
