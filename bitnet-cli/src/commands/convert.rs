//! `bitnet convert`: conversion of a model, with verification and error report.

use anyhow::{Context, Result};
use bitnet_convert::{Budget, ConvertOptions, Fidelity, Progress, Report, Stage, TensorReport};
use bitnet_inference::{DraftSource, LoadOptions};
use serde_json::{Value, json};

use super::Outcome;
use crate::args::{Cli, ConvertArgs};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output, without_controls};

/// Converts a model, or prints the plan.
pub(crate) fn run(cli: &Cli, args: &ConvertArgs, output: &mut Output) -> Result<Outcome> {
    let listener = Listener::new();
    let options = ConvertOptions {
        target: args.to,
        linear: args.linear,
        embedding: args.embedding_type,
        head: args.head_type,
        overrides: args.tensor.clone(),
        quantize: args.quantize,
        architecture: args.arch.clone(),
        budget: args.max_size.map(Budget::Bytes).or(args.min_sqnr.map(Budget::Decibels)),
        adapters: args.lora.clone(),
        split: args.split_max_size,
        load: LoadOptions { draft: DraftSource::Own, ..load::options(cli)? },
        threads: cli.general.threads,
        verify: !args.no_verify,
        resume: !args.no_resume,
        overwrite: args.overwrite,
        interrupted: Some(listener.flag()),
    };
    let (mut converting, mut proving) = (None, None);
    let mut on_progress = |Progress { stage, done, total }: Progress| {
        let bar = match stage {
            Stage::Converting => converting.get_or_insert_with(|| output.progress("converting")),
            Stage::Proving => {
                converting = None;
                proving.get_or_insert_with(|| output.progress("reading back"))
            }
        };
        bar.update_bytes(done, total);
        !listener.asked()
    };
    let result = if args.dry_run {
        bitnet_convert::inspect(&args.input, &args.output, &options)
    } else {
        bitnet_convert::convert(&args.input, &args.output, &options, &mut on_progress)
    };
    drop((converting, proving));
    match result {
        Ok(report) => {
            show(&report, args, output)?;
            Ok(Outcome::Done)
        }
        Err(bitnet_convert::Error::Interrupted) if args.dry_run => Ok(Outcome::Interrupted),
        Err(error) if args.dry_run => Err(error.into()),
        Err(
            error @ (bitnet_convert::Error::Stopped { .. } | bitnet_convert::Error::Interrupted),
        ) => {
            output.note(&error.to_string());
            Ok(Outcome::Interrupted)
        }
        Err(error) => {
            Err(error).with_context(|| format!("{} was not converted", args.input.display()))
        }
    }
}

fn show(report: &Report, args: &ConvertArgs, output: &mut Output) -> Result<()> {
    if output.json {
        return output.json(&to_json(report, args));
    }
    for remark in &report.remarks {
        for line in output::wrap(&without_controls(remark), 96) {
            output.note(&line);
        }
    }
    if args.tensors || output.verbose {
        for tensor in &report.tensors {
            let [rows, cols] = tensor.shape;
            let quality = match tensor.fidelity {
                None => String::new(),
                Some(Fidelity::Exact) => "exact".into(),
                Some(Fidelity::Lossy(loss)) => {
                    format!("{:6.2} dB, cosine {:.4}", loss.sqnr_db, loss.cosine)
                }
            };
            output.line(&format!(
                "  {:>6} -> {:<6} {:<12} {quality:<24} {}",
                tensor.from,
                tensor.to,
                format!("{rows}x{cols}"),
                without_controls(&tensor.name)
            ))?;
        }
    }
    for group in groups(report) {
        output.line(&group)?;
    }
    let path = args.output.display().to_string();
    let path = without_controls(&path);
    if args.dry_run {
        output.line(&format!("{path} would have {}", output::bytes(report.bytes)))?;
        return Ok(());
    }
    let title = output.style.bold(&path).into_owned();
    let files = match report.files.len() {
        1 => String::new(),
        many => format!(" in {many} files, the first {}", without_controls(&report.files[0])),
    };
    output.line(&format!("{title}: {}{files}", output::bytes(report.bytes)))?;
    let seconds = report.converting.as_secs_f64();
    let rate = report.source_bytes as f64 / seconds.max(1e-9);
    if report.resumed == 0 {
        output.note(&format!(
            "[{} in {seconds:.1} s, {}/s]",
            output::bytes(report.source_bytes),
            output::bytes(rate as u64)
        ));
    } else {
        output.note(&format!(
            "[resumed after {} of {} steps; {seconds:.1} s for the rest]",
            report.resumed, report.steps
        ));
    }
    let proof = match report.proving {
        Some(time) => format!(
            "verified in {:.1} s: every trit, scale and byte is correct",
            time.as_secs_f64()
        ),
        None => "not verified".into(),
    };
    let proof = output.style.good(&proof).into_owned();
    output.line(&proof)
}

/// Describes the conversion of a tensor.
fn change(tensor: &TensorReport) -> String {
    match tensor.fidelity {
        None => String::new(),
        Some(Fidelity::Exact) => "exact".into(),
        Some(Fidelity::Lossy(loss)) => format!(
            "{:.2} dB, cosine {:.4}, MSE {:.1e}, {:.0} % zeros",
            loss.sqnr_db,
            loss.cosine,
            loss.mse,
            100.0 * loss.sparsity
        ),
    }
}

/// Returns a line per role and pair of types.
fn groups(report: &Report) -> Vec<String> {
    let mut groups: Vec<(&TensorReport, Vec<&TensorReport>)> = Vec::new();
    for tensor in &report.tensors {
        let same = |(first, _): &&mut (&TensorReport, _)| {
            (first.role, &first.from, &first.to) == (tensor.role, &tensor.from, &tensor.to)
        };
        match groups.iter_mut().find(same) {
            Some((_, members)) => members.push(tensor),
            None => groups.push((tensor, vec![tensor])),
        }
    }
    let line = |(first, members): (&TensorReport, Vec<&TensorReport>)| {
        let sum = |of: fn(&TensorReport) -> u64| {
            output::bytes(members.iter().map(|tensor| of(tensor)).sum::<u64>())
        };
        format!(
            "  {:<12} {:>6} -> {:<6} {:>9} -> {:<9}  {}",
            output::count(members.len(), first.role),
            first.from,
            first.to,
            sum(|tensor| tensor.source_bytes),
            sum(|tensor| tensor.bytes),
            worst(&members)
        )
    };
    groups.into_iter().map(line).collect()
}

/// Returns the largest error of a group of tensors.
fn worst(members: &[&TensorReport]) -> String {
    let quality = |tensor: &&&TensorReport| match tensor.fidelity {
        Some(Fidelity::Lossy(loss)) => loss.sqnr_db,
        _ => f64::INFINITY,
    };
    let worst = members.iter().min_by(|a, b| quality(a).total_cmp(&quality(b)));
    let text = worst.map(|tensor| change(tensor)).unwrap_or_default();
    if text.contains("dB") && members.len() > 1 { format!("at worst {text}") } else { text }
}

fn to_json(report: &Report, args: &ConvertArgs) -> Value {
    let tensors: Vec<Value> = report
        .tensors
        .iter()
        .map(|tensor| {
            let (exact, loss) = match tensor.fidelity {
                None => (Value::Null, Value::Null),
                Some(Fidelity::Exact) => (true.into(), Value::Null),
                Some(Fidelity::Lossy(loss)) => (
                    false.into(),
                    json!({
                        "mse": loss.mse, "sqnr_db": loss.sqnr_db, "cosine": loss.cosine,
                        "max_error": loss.max_error, "sparsity": loss.sparsity,
                    }),
                ),
            };
            json!({
                "name": tensor.name, "role": tensor.role, "shape": tensor.shape,
                "from": tensor.from, "to": tensor.to,
                "source_bytes": tensor.source_bytes, "bytes": tensor.bytes,
                "exact": exact, "loss": loss,
            })
        })
        .collect();
    json!({
        "source": report.source,
        "output": args.output.display().to_string(),
        "to": report.target,
        "dry_run": args.dry_run,
        "source_bytes": report.source_bytes,
        "bytes": report.bytes,
        "files": report.files,
        "steps": report.steps,
        "steps_resumed": report.resumed,
        "seconds_converting": report.converting.as_secs_f64(),
        "seconds_proving": report.proving.map(|time| time.as_secs_f64()),
        "proven": !args.dry_run && report.proving.is_some(),
        "remarks": report.remarks,
        "tensors": tensors,
    })
}
