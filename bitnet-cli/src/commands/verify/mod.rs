//! `bitnet verify`: comparison of a model's arithmetic with the scalar reference.
//!
//! First, every stored number is checked: a model with a NaN, infinite or out-of-range weight fails at once.
//!
//! Then the model is loaded once, on a [`DifferentialBackend`]: the scalar reference, and the CPU back end at every
//! instruction set level of this processor.
//!
//! 1. While loading, every member multiplies each ternary matrix with one fixed input: quantised activations, their
//!    scales and the integer dot products must equal the reference's bit for bit.
//! 2. The reference runs some tokens, and every member gets the same inputs: integers must be equal bit for bit,
//!    outputs of every operation must be within [`differential::OPERATION_BOUND`].
//! 3. Each member runs the tokens independently, and its logits must be within [`LOGIT_BOUND`] of the reference's.
//!
//! A sentence that the model finds no likelier than chance is noted: such weights are untrained, damaged or rotated. Of a
//! model whose inputs are not quantised, the deviation is printed that inputs of 8 bits would bring.

mod differential;
mod int8_inputs;
mod likelihood;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::proven_levels;
use bitnet_inference::models::Sequence;
use bitnet_inference::{Inspection, Model, ModelFacts, sampler};
use serde_json::{Value, json};

use super::Outcome;
use super::inspect::{assumptions, fact_rows, facts_json};
use super::weights::{self, Weights};
use crate::args::{Cli, VerifyArgs};
use crate::load;
use crate::output::{self, Output, row};
use differential::{DifferentialBackend, Findings};
use int8_inputs::Deviation;
use likelihood::Likelihood;

/// The tolerance of logits: root mean square of the difference, relative to that of the reference's centred logits.
/// Floating-point sums in another order may round an activation to an adjacent int8, which propagates through the
/// layers; an incorrect operation gives a difference of the order of 1.
const LOGIT_BOUND: f64 = 0.02;

/// The test text.
const TEXT: &str =
    "Once upon a time there was a small robot who wanted to learn how to count the stars.";

/// The result of a member's independent run.
#[derive(Debug)]
struct EndToEnd {
    member: String,
    /// Relative root mean square difference of all logits.
    difference: f64,
    /// Positions with the reference's top token.
    same_best: usize,
    positions: usize,
}

/// Verifies the model.
pub(crate) fn run(cli: &Cli, args: &VerifyArgs, output: &mut Output) -> Result<Outcome> {
    let levels = levels(output)?;
    let backend = Arc::new(DifferentialBackend::new(&levels, cli.general.threads)?);
    let source = load::source(cli, args.path.as_deref())?;
    let options = load::options(cli)?;
    let weights = Weights::read(cli, source, &options, output)?;
    if !weights.sound() {
        let facts = Inspection::of(source, &options)?.facts;
        unsound(&facts, &weights, output)?;
        return Ok(Outcome::CheckFailed);
    }
    let mut progress = output.progress("loading and checking layer");
    let model = Model::load_with(source, &options, backend.clone(), &mut |done, all| {
        progress.update(done, all);
    })?;
    drop(progress);
    let mut notes = weights::notes(model.facts(), Some(&weights));

    let tokens = tokens(&model, args.tokens)?;
    let mut runs = Vec::new();
    let steps = backend.names.len();
    let mut progress = output.progress("running member");
    progress.update(0, steps);
    backend.drive(0, true);
    let expected = logits(&model, &tokens)?;
    for member in 1..steps {
        progress.update(member, steps);
        backend.drive(member, false);
        let got = logits(&model, &tokens)?;
        runs.push(compare(backend.names[member].clone(), &expected, &got));
    }
    drop(progress);
    // On the last member that was compared: the reference is slow.
    let likelihood = Likelihood::of(&model)?;
    let deviation = Deviation::of(&model, source, &options, cli, output)?;
    let is_rotated = model.config().rotations.is_some();
    notes.extend(likelihood.and_then(|likelihood| likelihood.note(is_rotated)));

    let findings = backend.findings();
    let passed = findings.mismatches.is_empty()
        && findings.operations.values().all(|d| *d <= differential::OPERATION_BOUND)
        && runs.iter().all(|r| r.difference <= LOGIT_BOUND);
    if output.json {
        let mut value = to_json(&model, &findings, &runs, tokens.len(), passed);
        value["weights"] = weights.to_json();
        value["notes"] = json!(notes);
        value["int8_inputs"] = json!(deviation.map(Deviation::to_json));
        value["text_nats_per_token"] = json!(likelihood.map(|likelihood| likelihood.nats));
        output.json(&value)?;
    } else {
        show_facts(model.facts(), &weights, output)?;
        row(output, "end tokens", &end_tokens(&model))?;
        assumptions(output, model.facts())?;
        output.section("Notes", &notes)?;
        report(&findings, &runs, subject(&model), output)?;
        if let Some(deviation) = deviation {
            row(output, "int8 inputs", &deviation.line())?;
        }
        let ran = output::count(tokens.len(), "token");
        verdict(&runs, &ran, subject(&model), (notes.len(), passed), output)?;
    }
    Ok(if passed { Outcome::Done } else { Outcome::CheckFailed })
}

/// Reports a model with invalid weights, which is not run.
fn unsound(facts: &ModelFacts, weights: &Weights, output: &mut Output) -> Result<()> {
    if output.json {
        return output.json(&json!({
            "passed": false,
            "facts": facts_json(facts),
            "weights": weights.to_json(),
            "notes": weights::notes(facts, Some(weights)),
        }));
    }
    show_facts(facts, weights, output)?;
    output.section("Notes", &weights::notes(facts, Some(weights)))?;
    output.line("")?;
    let text =
        "FAIL: the file contains invalid weights, so it was not run: convert or download it again";
    output.line(&output.style.bad(text))
}

/// Returns the levels of this processor, without those that fail their self-test, which are reported.
fn levels(output: &mut Output) -> Result<Vec<IsaLevel>> {
    let mut levels = Vec::new();
    for (level, proven) in proven_levels() {
        if proven {
            levels.push(level);
        } else {
            output.warning(&format!("{level} fails its self-test on this processor and is never used; see `bitnet doctor`"));
        }
    }
    if levels.is_empty() {
        bail!(
            "no instruction set level of this processor passes its self-test; see `bitnet doctor`"
        );
    }
    Ok(levels)
}

/// Returns the tokens to run: those of a sentence, or evenly spaced ids for a model without a tokenizer.
fn tokens(model: &Model, count: usize) -> Result<Vec<u32>> {
    let vocabulary = model.config().vocab_size;
    let mut tokens = match model.tokenizer() {
        Some(_) => model.encode_prompt(TEXT)?,
        None => Vec::new(),
    };
    let step = (vocabulary / 7).max(1);
    tokens.extend((0..count).map(|i| (i * step % vocabulary) as u32));
    tokens.truncate(count.min(model.config().context));
    Ok(tokens)
}

/// Returns the logits after each token, or the states of a model without a head: all but the last are processed as one
/// prompt, the last one alone, as in generation.
fn logits(model: &Model, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    if !model.config().has_head {
        return states(model, tokens);
    }
    let mut session = model.session(Some(tokens.len()))?;
    let mut rows = Vec::new();
    let (last, prompt) = tokens.split_last().context("no tokens to run")?;
    if !prompt.is_empty() {
        session.extend_with_logits(prompt, |_, row| rows.push(row.to_vec()))?;
    }
    rows.push(session.extend(&[*last])?.logits()?);
    Ok(rows)
}

/// Returns the state after each token, `[hidden]`.
fn states(model: &Model, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    let decoder = model.decoder();
    let mut cache = decoder.new_cache(tokens.len(), model.kv())?;
    let mut rows = Vec::new();
    let (prompt, last) = tokens.split_at(tokens.len().saturating_sub(1));
    for tokens in [prompt, last].into_iter().filter(|tokens| !tokens.is_empty()) {
        let states = decoder.states(&mut [Sequence { tokens, cache: &mut cache }])?;
        rows.extend(states.f32()?.chunks_exact(model.config().hidden).map(<[f32]>::to_vec));
    }
    Ok(rows)
}

/// What is compared of each token.
fn subject(model: &Model) -> &'static str {
    if model.config().has_head { "logits" } else { "states" }
}

fn compare(member: String, expected: &[Vec<f32>], got: &[Vec<f32>]) -> EndToEnd {
    let mut squares = 0.0;
    let mut scale = 0.0;
    let mut same_best = 0;
    for (a, b) in expected.iter().zip(got) {
        let mean = a.iter().map(|&v| f64::from(v)).sum::<f64>() / a.len() as f64;
        squares += a.iter().zip(b).map(|(&x, &y)| f64::from(x - y).powi(2)).sum::<f64>();
        scale += a.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        same_best += usize::from(
            matches!((sampler::greedy(a), sampler::greedy(b)), (Ok(x), Ok(y)) if x == y),
        );
    }
    let difference =
        if squares == 0.0 { 0.0 } else { (squares / scale.max(f64::MIN_POSITIVE)).sqrt() };
    // A NaN difference must not pass.
    let difference = if difference.is_nan() { f64::INFINITY } else { difference };
    EndToEnd { member, difference, same_best, positions: expected.len() }
}

fn show_facts(facts: &ModelFacts, weights: &Weights, output: &mut Output) -> Result<()> {
    output.line(&output.style.bold("Facts that go wrong silently"))?;
    row(output, "file", &facts.file)?;
    for (label, text) in fact_rows(facts) {
        row(output, label, text)?;
    }
    weights.show(output)
}

fn report(
    findings: &Findings,
    runs: &[EndToEnd],
    subject: &str,
    output: &mut Output,
) -> Result<()> {
    output.heading("Checks against the scalar reference")?;
    let equal = findings.mismatches.is_empty();
    check(output, equal, "integers", &integers_line(findings))?;
    for mismatch in findings.mismatches.iter().take(10) {
        row(output, "", mismatch)?;
    }
    for (operation, difference) in &findings.operations {
        let ok = *difference <= differential::OPERATION_BOUND;
        let text = if *difference == 0.0 {
            "no difference".to_owned()
        } else {
            format!(
                "largest difference {difference:.1e}, bound {:.0e}",
                differential::OPERATION_BOUND
            )
        };
        check(output, ok, operation, &text)?;
    }
    for run in runs {
        let best = match subject {
            "logits" => format!("; same top token at {} of {}", run.same_best, run.positions),
            _ => String::new(),
        };
        let text =
            format!("{subject} differ by {:.1e}, bound {LOGIT_BOUND:.0e}{best}", run.difference);
        check(output, run.difference <= LOGIT_BOUND, &run.member, &text)?;
    }
    Ok(())
}

/// Returns the last line.
fn verdict(
    runs: &[EndToEnd],
    ran: &str,
    subject: &str,
    (notes, passed): (usize, bool),
    output: &mut Output,
) -> Result<()> {
    output.line("")?;
    if !passed {
        let text =
            "FAIL: this model must not be trusted on this machine; see the lines marked FAIL";
        return output.line(&output.style.bad(text));
    }
    let members: Vec<&str> = runs.iter().map(|r| r.member.as_str()).collect();
    let members = members.join(", ");
    let with_notes = match notes {
        0 => String::new(),
        notes => format!(" with {}", output::count(notes, "note")),
    };
    let text = format!(
        "PASS{with_notes}: weights valid, integers equal the reference, {subject} within the bound ({members}; {ran})"
    );
    output.line(&output.style.good(&text))
}

fn check(output: &mut Output, ok: bool, label: &str, text: &str) -> Result<()> {
    let word = if ok { output.style.good("ok  ") } else { output.style.bad("FAIL") };
    output.line(&format!("  {word}  {label:<14}  {text}"))
}

fn integers_line(findings: &Findings) -> String {
    format!(
        "{} compared in {}, {} different",
        findings.integers,
        output::count(findings.matrices, "ternary matrix").replace("matrixs", "matrices"),
        findings.mismatches.len()
    )
}

fn end_tokens(model: &Model) -> String {
    if model.end_tokens().is_empty() {
        return "none known: generation stops at the length limit".into();
    }
    let name = |&id: &u32| match model.tokenizer().and_then(|t| t.token_text(id)) {
        Some(text) => format!("{id} {text}"),
        None => id.to_string(),
    };
    model.end_tokens().iter().map(name).collect::<Vec<_>>().join(", ")
}

fn to_json(
    model: &Model,
    findings: &Findings,
    runs: &[EndToEnd],
    tokens: usize,
    passed: bool,
) -> Value {
    let difference = if model.config().has_head { "logit_difference" } else { "state_difference" };
    let runs: Vec<Value> = runs
        .iter()
        .map(|r| {
            json!({
                "backend": r.member,
                (difference): r.difference,
                "bound": LOGIT_BOUND,
                "same_best_token": model.config().has_head.then_some(r.same_best),
                "positions": r.positions,
            })
        })
        .collect();
    json!({
        "passed": passed,
        "facts": facts_json(model.facts()),
        "end_tokens": model.end_tokens(),
        "tokens": tokens,
        "ternary_matrices": findings.matrices,
        "integers_compared": findings.integers,
        "mismatches": findings.mismatches,
        "operations": findings.operations,
        "operation_bound": differential::OPERATION_BOUND,
        "backends": runs,
    })
}
