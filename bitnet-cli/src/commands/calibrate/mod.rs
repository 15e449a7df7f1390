//! `bitnet calibrate`: input statistics of a model's layers, static ranges, and their quantisation error.
//!
//! The model processes the text twice: first to determine the ranges, then to measure their error and that of per-token
//! ranges. Layers are listed by error, the most sensitive first.

pub(crate) mod args;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bitnet_core::simd::largest_magnitude;
use bitnet_inference::Model;
use bitnet_inference::models::LayerInput;
use bitnet_quant::activations::{ActivationBits, ActivationQuantizer, ActivationRange};
use bitnet_quant::calibration::{Calibration, LayerCalibration, Observer};
use bitnet_quant::loss::{Loss, LossMeter};
use serde_json::{Value, json};

use self::args::CalibrateArgs;
use super::Outcome;
use super::windows::{Tokens, WINDOW, Window, longest, read_text, windows};
use crate::args::Cli;
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};
use crate::output_file::OutputFile;

/// Outliers are this many times the root mean square.
const OUTLIER: f64 = 6.0;

/// Default number of listed layers.
const LISTED: usize = 12;

/// Calibrates a model on a text.
pub(crate) fn run(cli: &Cli, args: &CalibrateArgs, output: &mut Output) -> Result<Outcome> {
    if cli.model.calibration.is_some() {
        bail!("--calibration is what this command writes; name the new one with --out");
    }
    if let Some(path) = &args.out {
        ranges(path).check()?;
    }
    let text = read_text(&args.file)?;
    let model = load::model(cli, output)?;
    let tokens = Tokens::of(&model, &text)?;
    let size = args.ctx_window.unwrap_or_else(|| WINDOW.min(model.config().context));
    let mut windows = windows(tokens.len(), size.min(tokens.len()), None, true)?;
    windows.truncate(args.windows.unwrap_or(usize::MAX));
    load::warn_beyond_training(&model, longest(&windows), output);
    let reading = Reading { model: &model, tokens: &tokens, windows: &windows };

    let mut observer = Observer::new();
    let went_on = reading.run(output, "finding ranges, window", &mut |input, x| {
        ensure!(
            largest_magnitude(x).is_finite(),
            "{}: the input of {input} contains NaN or infinity, so it has no range; `bitnet verify` lists non-finite weights",
            model.facts().file
        );
        observer.observe(&input.to_string(), x);
        Ok(())
    })?;
    if !went_on {
        return Ok(Outcome::Interrupted);
    }
    let calibration = observer.calibrate(args.method, args.bits)?;
    let mut meters = BTreeMap::new();
    let went_on = reading.run(output, "measuring, window", &mut |input, x| {
        let name = input.to_string();
        let layer = calibration.layer(&name).context("a layer is missing from the calibration")?;
        if !meters.contains_key(&name) {
            meters.insert(name.clone(), Meters::new(&calibration, layer)?);
        }
        match meters.get_mut(&name) {
            Some(meters) => meters.push(x, input.features),
            None => Ok(()),
        }
    })?;
    if !went_on {
        return Ok(Outcome::Interrupted);
    }
    if let Some(path) = &args.out {
        ranges(path).write(calibration.to_json()?.as_bytes())?;
    }
    report(args, &reading, &calibration, &observer, &meters, output)?;
    Ok(Outcome::Done)
}

/// Returns the output file of the ranges.
fn ranges(path: &Path) -> OutputFile<'_> {
    let is_one = |bytes: &[u8]| {
        std::str::from_utf8(bytes).is_ok_and(|text| Calibration::from_json(text).is_ok())
    };
    OutputFile { path, what: "a file of ranges of `bitnet calibrate`", is_one }
}

/// The text and its windows.
struct Reading<'a> {
    model: &'a Model,
    tokens: &'a Tokens,
    windows: &'a [Window],
}

impl Reading<'_> {
    /// Runs the text and passes the layer inputs to `observe`; returns false if the user stopped it.
    fn run(
        &self,
        output: &Output,
        what: &'static str,
        observe: &mut dyn FnMut(LayerInput, &[f32]) -> Result<()>,
    ) -> Result<bool> {
        let listener = Listener::new();
        let mut progress = output.progress(what);
        for (index, window) in self.windows.iter().enumerate() {
            progress.update(index, self.windows.len());
            if listener.asked() {
                return Ok(false);
            }
            let read = self.tokens.window(window);
            let mut session = self.model.session(Some(read.len()))?;
            let mut failed = None;
            session.extend_observed(&read, &mut |input, x| {
                if failed.is_none() {
                    failed = observe(input, x).err();
                }
                Ok(())
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(true)
    }

    fn tokens(&self) -> usize {
        self.windows.iter().map(|window| window.tokens.len()).sum()
    }
}

/// The error of an input with per-token ranges, and with one static range.
struct Meters {
    quantizers: [ActivationQuantizer; 2],
    meters: [LossMeter; 2],
}

impl Meters {
    fn new(calibration: &Calibration, layer: &LayerCalibration) -> Result<Self> {
        let with = |range| ActivationQuantizer::new(calibration.bits(), range);
        let quantizers = [with(ActivationRange::Absmax)?, with(layer.activation_range())?];
        Ok(Self { quantizers, meters: [LossMeter::new(); 2] })
    }

    fn push(&mut self, x: &[f32], width: usize) -> Result<()> {
        let (mut q, mut restored) = (vec![0; x.len()], vec![0.0; x.len()]);
        for (quantizer, meter) in self.quantizers.iter().zip(&mut self.meters) {
            let scales = quantizer.quantize(x, width, &mut q)?;
            quantizer.dequantize(&q, &scales, &mut restored)?;
            meter.push(x, &restored)?;
        }
        Ok(())
    }

    fn losses(&self) -> [Loss; 2] {
        self.meters.map(|meter| meter.loss())
    }
}

fn report(
    args: &CalibrateArgs,
    reading: &Reading<'_>,
    calibration: &Calibration,
    observer: &Observer,
    meters: &BTreeMap<String, Meters>,
    output: &mut Output,
) -> Result<()> {
    let mut rows = Vec::new();
    for layer in calibration.layers() {
        let found = meters.get(&layer.name).zip(observer.statistics(&layer.name));
        let (meters, statistics) = found.context("a layer was not measured")?;
        rows.push((layer, meters.losses(), statistics.outliers(OUTLIER)));
    }
    ensure!(!rows.is_empty(), "the model has no linear layers");
    rows.sort_by(|a, b| a.1[1].sqnr_db.total_cmp(&b.1[1].sqnr_db));
    let bits = match args.bits {
        ActivationBits::Int8 => 8,
        ActivationBits::Int4 => 4,
    };
    if output.json {
        let layers: Vec<Value> = rows
            .iter()
            .map(|(layer, [token, calibrated], outliers)| {
                json!({
                    "name": layer.name,
                    "low": layer.low,
                    "high": layer.high,
                    "count": layer.count,
                    "not_finite": layer.not_finite,
                    "mean": layer.mean,
                    "deviation": layer.deviation,
                    "sparsity": layer.sparsity,
                    "outliers": {
                        "threshold": outliers.threshold,
                        "count": outliers.count,
                        "share": outliers.share,
                        "largest_to_99": outliers.largest_to_usual,
                    },
                    "per_token": loss(token),
                    "calibrated": loss(calibrated),
                })
            })
            .collect();
        return output.json(&json!({
            "model": reading.model.facts().file,
            "file": args.file.display().to_string(),
            "tokens": reading.tokens(),
            "method": calibration.method(),
            "bits": bits,
            "out": args.out.as_ref().map(|path| path.display().to_string()),
            "layers": layers,
        }));
    }
    let wide = rows.iter().map(|(layer, ..)| layer.name.len()).max().unwrap_or(0);
    output.line(&format!(
        "{:<wide$}  {:>10}  {:>10}  {:>9}  {:>11}  {:>9}  {:>10}",
        "input", "low", "high", "outliers", "largest/p99", "per token", "calibrated"
    ))?;
    let listed = if args.layers { rows.len() } else { LISTED };
    for (layer, [token, calibrated], outliers) in rows.iter().take(listed) {
        output.line(&format!(
            "{:<wide$}  {:>10.4}  {:>10.4}  {:>7.3} %  {:>11.1}  {:>6.1} dB  {:>7.1} dB",
            layer.name,
            layer.low,
            layer.high,
            100.0 * outliers.share,
            outliers.largest_to_usual,
            token.sqnr_db,
            calibrated.sqnr_db
        ))?;
    }
    if rows.len() > listed {
        output
            .note(&format!("[the {listed} most sensitive of {}; --layers lists all]", rows.len()));
    }
    output.note(&format!(
        "[{} of {}; outliers: beyond {OUTLIER} times the root of the mean square; dB: signal over the error of {bits} bits]",
        output::count(reading.tokens(), "token"),
        args.file.display()
    ));
    if let Some(path) = &args.out {
        output.line(&format!("written to {}", path.display()))?;
    }
    Ok(())
}

fn loss(loss: &Loss) -> Value {
    json!({ "mse": loss.mse, "sqnr_db": loss.sqnr_db, "cosine": loss.cosine })
}
