//! Weight checks of `inspect` and `verify`: invalid numbers and unused tensors.

use anyhow::Result;
use bitnet_convert::available_threads;
use bitnet_inference::loader::{WeightFault, WeightProblem, WeightScan};
use bitnet_inference::{LoadOptions, ModelFacts, ModelFiles, ModelSource};
use serde_json::{Value, json};

use crate::args::Cli;
use crate::output::{self, Output, row, without_controls};

/// Maximum number of listed faults and names.
const LISTED: usize = 20;

/// The result of reading every weight.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) scan: WeightScan,
    /// The assumptions about layers stored as plain numbers.
    pub(crate) assumptions: Vec<String>,
    /// Rows of the embedding beyond the tokenizer's tokens.
    rows_beyond: usize,
}

impl Weights {
    /// Reads every tensor of the model, showing progress.
    pub(crate) fn read(
        cli: &Cli,
        source: ModelSource<'_>,
        options: &LoadOptions,
        output: &mut Output,
    ) -> Result<Self> {
        let threads = cli.general.threads.unwrap_or_else(available_threads);
        let files = ModelFiles::open(source, options)?;
        let mut progress = output.progress("reading weights");
        let scan = files.scan_weights(threads, &mut |done, all| progress.update(done, all))?;
        drop(progress);
        let rows_beyond = match files.tokenizer(options)? {
            Some(tokenizer) => files.config().vocab_size.saturating_sub(tokenizer.vocab_size()),
            None => 0,
        };
        Ok(Self { scan, assumptions: files.weight_assumptions(threads)?, rows_beyond })
    }

    /// Returns whether every number is valid.
    pub(crate) fn sound(&self) -> bool {
        self.scan.faults.is_empty()
    }

    /// Prints one line with the number of values read, and one per fault.
    pub(crate) fn show(&self, output: &mut Output) -> Result<()> {
        let scan = &self.scan;
        let tensors = output::count(scan.tensors, "tensor");
        let read = format!("{} numbers in {tensors}", scan.numbers);
        if self.sound() {
            return row(output, "weights", &format!("{read}: none NaN, infinite or out of range"));
        }
        let faulty = output::count(scan.faults.len(), "fault");
        row(output, "weights", &format!("{read}: {faulty}"))?;
        for fault in scan.faults.iter().take(LISTED) {
            let word = output.style.bad("FAIL");
            output.line(&format!("  {word}  {}", without_controls(&fault.to_string())))?;
        }
        if let Some(more) = scan.faults.len().checked_sub(LISTED).filter(|more| *more > 0) {
            output.line(&format!("        and {more} more (--json lists all)"))?;
        }
        Ok(())
    }

    /// Returns the result as JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "tensors": self.scan.tensors,
            "numbers": self.scan.numbers,
            "faults": self.scan.faults.iter().map(fault_json).collect::<Vec<_>>(),
            "doubled": self.scan.doubled.iter().map(|(tensor, count)| json!({ "tensor": tensor, "count": count })).collect::<Vec<_>>(),
        })
    }
}

fn fault_json(fault: &WeightFault) -> Value {
    let (kind, place, limit) = match &fault.problem {
        WeightProblem::NonFinite(place) => ("non_finite", Some(place), None),
        WeightProblem::OutOfRange { place, limit } => ("out_of_range", Some(place), Some(*limit)),
        _ => ("undecodable", None, None),
    };
    let mut value = json!({
        "tensor": fault.tensor,
        "problem": kind,
        "message": fault.to_string(),
    });
    if let Some(place) = place {
        value["row"] = json!(place.row);
        value["column"] = json!(place.column);
        // JSON has no NaN and infinity.
        value["value"] = json!(format!("{:?}", place.value));
        value["count"] = json!(place.count);
    }
    if let Some(limit) = limit {
        value["limit"] = json!(limit);
    }
    value
}

/// Returns notes about a valid model: unused tensors, and layers that are quantised at
/// load.
pub(crate) fn notes(facts: &ModelFacts, weights: Option<&Weights>) -> Vec<String> {
    let mut notes = Vec::new();
    let unused = &facts.unused_tensors;
    if !unused.is_empty() {
        let listed = unused.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        let more = match unused.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let tensors = output::count(unused.len(), "tensor");
        notes.push(format!("{tensors} of the file are unused: {listed}{more}"));
    }
    if let Some(head) = unused.iter().find(|name| is_head(name)) {
        notes.push(format!(
            "the head {head} is not used: the settings say that the embedding is the head"
        ));
    }
    let Some(weights) = weights else { return notes };
    if weights.rows_beyond > 0 {
        notes.push(format!(
            "{} of the embedding beyond the tokenizer's tokens: they stand for no text",
            output::count(weights.rows_beyond, "row")
        ));
    }
    notes.extend(doubled(&weights.scan));
    let quantised = weights.assumptions.iter().filter(|text| text.contains("quantised at load"));
    notes.extend(quantised.cloned());
    notes
}

/// Returns a note about weights of twice their scale, if there are any.
fn doubled(scan: &WeightScan) -> Option<String> {
    let (first, _) = scan.doubled.first()?;
    let count: u64 = scan.doubled.iter().map(|(_, count)| count).sum();
    let share = 100.0 * count as f64 / scan.numbers.max(1) as f64;
    let more = match scan.doubled.len() {
        1 => String::new(),
        tensors => format!(" and {} more", output::count(tensors - 1, "tensor")),
    };
    Some(format!(
        "{count} weights ({share:.2} %) are code 3, read as +2: in {}{more}",
        without_controls(first)
    ))
}

/// Returns whether a name is that of an output head.
fn is_head(name: &str) -> bool {
    name == "output.weight" || name == "lm_head.weight" || name.ends_with(".lm_head.weight")
}
