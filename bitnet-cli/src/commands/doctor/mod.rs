//! `bitnet doctor`: checks of this machine, and the speed that its limits predict for a model.

mod speed;

use std::time::Instant;

use anyhow::{Result, bail};
use bitnet_core::device::{Device, DeviceCapabilities, auto_select_device};
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions, proven_levels};
use bitnet_inference::{EMBEDDED, LoadOptions, Model, ModelSource, backend_by_name, sampler};
use serde_json::{Value, json};

use self::speed::Speed;
use super::Outcome;
use super::bench::machine::{self, cache_sizes, cores};
use super::bench::run_file::Limits;
use crate::args::Cli;
use crate::output::{self, Output, or_unavailable, without_controls};
use crate::{interrupt, load};

/// Memory below which even small models may not fit.
const LITTLE_MEMORY: u64 = 512 << 20;

/// The verdict of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the report.
#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
    /// The JSON value of the check.
    data: Value,
}

fn check(name: &'static str, verdict: Verdict, text: impl Into<String>, data: Value) -> Check {
    Check { name, verdict, text: text.into(), data }
}

/// Checks this machine.
///
/// # Errors
/// If the model of `--model` can't be loaded.
pub(crate) fn run(cli: &Cli, output: &mut Output) -> Result<Outcome> {
    let chosen = match &cli.model.model {
        Some(path) => Some((path.display().to_string(), load::model(cli, output)?)),
        None => None,
    };
    let device = auto_select_device();
    let caps = DeviceCapabilities::without_bandwidth(&device);
    let threads = cli.general.threads;
    let backend = CpuBackend::new(CpuOptions { threads, isa: None });
    let limits = backend.as_ref().ok().and_then(|b| machine::limits(b.threads()).ok());
    let limits = limits.as_ref();
    let mut checks = vec![
        processor(&caps),
        caches(&caps),
        instruction_sets(),
        kernels(&backend),
        memory(&caps),
        bandwidth(&caps, limits),
        integer_peak(limits),
        pages(&caps),
        numa(&caps),
        devices(&device),
        embedded_model(threads, &caps),
    ];
    checks.extend(chosen.map(|(name, chosen)| model(&name, &chosen, &caps, limits)));
    if interrupt::asked() {
        return Ok(Outcome::Interrupted);
    }
    if output.json {
        output.json(&to_json(&checks))?;
    } else {
        for check in &checks {
            print(check, output)?;
        }
        summary(&checks, output)?;
    }
    let failed = checks.iter().any(|c| c.verdict == Verdict::Fail);
    Ok(if failed { Outcome::CheckFailed } else { Outcome::Done })
}

fn processor(caps: &DeviceCapabilities) -> Check {
    let name = caps.name.clone();
    let cores = cores(caps.physical_cores, caps.logical_cores);
    let text = format!("{} ({}); {cores}", or_unavailable(name.as_deref()), std::env::consts::ARCH);
    let data = json!({
        "name": name,
        "architecture": std::env::consts::ARCH,
        "system": std::env::consts::OS,
        "logical_cores": caps.logical_cores,
        "physical_cores": caps.physical_cores,
    });
    check("processor", Verdict::Ok, text, data)
}

fn caches(caps: &DeviceCapabilities) -> Check {
    let [l1, l2, l3] = caps.cache_bytes;
    let data = json!({ "l1_data": l1, "l2": l2, "l3": l3 });
    check("caches", Verdict::Ok, cache_sizes(caps.cache_bytes), data)
}

/// Returns the detected levels that pass their self-test.
fn instruction_sets() -> Check {
    let proven = proven_levels();
    let names = |wanted: Option<bool>| -> Vec<&'static str> {
        proven
            .iter()
            .filter(|(_, ok)| wanted.is_none_or(|w| w == *ok))
            .map(|(level, _)| level.name())
            .collect()
    };
    let (good, broken) = (names(Some(true)), names(Some(false)));
    let (verdict, text) = if broken.is_empty() {
        (Verdict::Ok, format!("{}: detected, all pass their self-tests", good.join(", ")))
    } else {
        let broken = broken.join(", ");
        (
            Verdict::Warn,
            format!(
                "{broken} detected, but fails its self-test and is never used; correct: {}",
                good.join(", ")
            ),
        )
    };
    let data = json!({ "detected": names(None), "proven": good, "broken": broken });
    check("instructions", verdict, text, data)
}

/// Returns the selected level and the reason.
fn kernels(backend: &bitnet_core::Result<CpuBackend>) -> Check {
    let forced = std::env::var("BITNET_ISA").ok().filter(|name| !name.is_empty());
    match backend {
        Ok(backend) => {
            let level = backend.level();
            let why = match &forced {
                Some(_) => "selected by BITNET_ISA".to_owned(),
                None if level == IsaLevel::best() => "the best detected level".to_owned(),
                None => "the best level that passes its self-test".to_owned(),
            };
            let count = output::count(backend.threads(), "thread");
            let slow = level == IsaLevel::Scalar && forced.is_none();
            let verdict = if slow { Verdict::Warn } else { Verdict::Ok };
            let advice = if slow {
                "; this processor has no supported vector instructions: slow"
            } else {
                ""
            };
            let data = json!({ "level": level.name(), "threads": backend.threads(), "bitnet_isa": forced });
            check("kernels", verdict, format!("{level} ({why}), {count}{advice}"), data)
        }
        Err(error) => {
            check("kernels", Verdict::Fail, error.to_string(), json!({ "bitnet_isa": forced }))
        }
    }
}

fn memory(caps: &DeviceCapabilities) -> Check {
    let size = |bytes: Option<u64>| or_unavailable(bytes.map(output::bytes));
    let little = caps.available_memory.is_some_and(|bytes| bytes < LITTLE_MEMORY);
    let verdict = if little { Verdict::Warn } else { Verdict::Ok };
    let advice = if little { "; close something before loading a model" } else { "" };
    let text =
        format!("{} available of {}{advice}", size(caps.available_memory), size(caps.total_memory));
    check(
        "memory",
        verdict,
        text,
        json!({ "available": caps.available_memory, "total": caps.total_memory }),
    )
}

fn bandwidth(caps: &DeviceCapabilities, limits: Option<&Limits>) -> Check {
    let caches = caps.outer_cache_bytes();
    let text = limits.and_then(machine::describe_bandwidth);
    let few = limits.and_then(|l| l.read_buffer_bytes).is_some_and(|bytes| bytes < 2 * caches);
    let data = json!({
        "gigabytes_per_second": limits.and_then(Limits::bandwidth).map(|rate| rate / 1e9),
        "best_gigabytes_per_second":
            limits.and_then(|l| l.read_bytes_per_second.first()).map(|rate| rate / 1e9),
        "threads": limits.map(|l| l.threads),
        "buffer_bytes": limits.and_then(|l| l.read_buffer_bytes),
        "cache_bytes": caches,
    });
    let (verdict, text) = match (text, limits) {
        (Some(text), Some(limits)) if few => (
            Verdict::Warn,
            format!(
                "{text}, read with {}; may be too high: the caches have {}, and more memory was not available in time",
                output::count(limits.threads, "thread"),
                output::bytes(caches as u64)
            ),
        ),
        (Some(text), Some(limits)) => {
            let threads = output::count(limits.threads, "thread");
            (Verdict::Ok, format!("{text}, read with {threads}"))
        }
        _ => (
            Verdict::Warn,
            "unavailable: memory or kernels to measure it with are missing".to_owned(),
        ),
    };
    check("bandwidth", verdict, text, data)
}

fn integer_peak(limits: Option<&Limits>) -> Check {
    let data = json!({
        "macs_per_second": limits.and_then(Limits::integer_peak),
        "best_macs_per_second": limits.and_then(|l| l.integer_macs_per_second.first()),
        "instructions": limits.and_then(|l| l.integer_instructions.as_deref()),
        "threads": limits.map(|l| l.threads),
    });
    let text = or_unavailable(limits.and_then(machine::describe_peak));
    check("integer peak", Verdict::Ok, text, data)
}

fn pages(caps: &DeviceCapabilities) -> Check {
    let size = or_unavailable(caps.page_bytes.map(|b| output::bytes(b as u64)));
    let huge = caps.transparent_huge_pages.map(|mode| format!("{mode:?}").to_lowercase());
    let text = format!("{size}; transparent huge pages: {}", or_unavailable(huge.as_deref()));
    let data = json!({ "bytes": caps.page_bytes, "transparent_huge_pages": huge });
    check("page size", Verdict::Ok, text, data)
}

fn numa(caps: &DeviceCapabilities) -> Check {
    let data = json!({ "nodes": caps.numa_nodes });
    match caps.numa_nodes {
        Some(nodes) if nodes > 1 => {
            let text = format!(
                "{nodes} nodes; threads are not bound to one: try `numactl -N 0 -m 0 bitnet ...`"
            );
            check("NUMA", Verdict::Warn, text, data)
        }
        nodes => check(
            "NUMA",
            Verdict::Ok,
            nodes.map_or("unavailable".into(), |n| output::count(n, "node")),
            data,
        ),
    }
}

fn devices(device: &Device) -> Check {
    check("devices", Verdict::Ok, device.to_string(), json!([device.to_string()]))
}

/// Loads the embedded model, generates one token and measures its speed. Neither limit predicts that: it fits the
/// caches, and its products take less time than everything around them.
fn embedded_model(threads: Option<usize>, caps: &DeviceCapabilities) -> Check {
    let measured = write_one_token(threads).and_then(|(model, load, write)| {
        Ok((load, write, speed::measure(&model, None, caps.outer_cache_bytes())?))
    });
    match measured {
        Ok((load, write, speeds)) => {
            let size = output::bytes(EMBEDDED.len() as u64);
            let text =
                format!("{size}, loaded in {load:.1} ms, prompt and one token in {write:.1} ms");
            let data = json!({
                "bytes": EMBEDDED.len(), "load_ms": load, "write_ms": write, "speed": to_list(&speeds),
            });
            check("embedded model", Verdict::Ok, with_speeds(text, &speeds), data)
        }
        Err(error) => check("embedded model", Verdict::Fail, format!("{error:#}"), Value::Null),
    }
}

/// Measures the speed of a loaded model.
fn model(name: &str, model: &Model, caps: &DeviceCapabilities, limits: Option<&Limits>) -> Check {
    match speed::measure(model, limits, caps.outer_cache_bytes()) {
        Ok(speeds) => {
            let data = json!({ "name": name, "speed": to_list(&speeds) });
            check("model", Verdict::Ok, with_speeds(name.to_owned(), &speeds), data)
        }
        Err(error) => check("model", Verdict::Fail, format!("{error:#}"), Value::Null),
    }
}

fn with_speeds(text: String, speeds: &[Speed]) -> String {
    speeds.iter().fold(text, |text, speed| format!("{text}; {}", speed.describe()))
}

fn to_list(speeds: &[Speed]) -> Vec<Value> {
    speeds.iter().map(Speed::to_json).collect()
}

/// Returns the model, and the milliseconds for loading, and for the prompt and one token.
fn write_one_token(threads: Option<usize>) -> Result<(Model, f64, f64)> {
    let start = Instant::now();
    let backend = backend_by_name("cpu", CpuOptions { threads, isa: None })?;
    let model =
        Model::load_with(ModelSource::Embedded, &LoadOptions::default(), backend, &mut |_, _| {})?;
    let load = start.elapsed();
    let start = Instant::now();
    let tokens = model.encode_prompt("Once upon a time")?;
    let logits = model.session(Some(tokens.len() + 1))?.extend(&tokens)?.logits()?;
    if logits.iter().any(|l| !l.is_finite()) {
        bail!("its logits are NaN; run `bitnet verify`");
    }
    sampler::greedy(&logits)?;
    Ok((model, load.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3))
}

fn print(check: &Check, output: &mut Output) -> Result<()> {
    let padded = format!("{:<4}", check.verdict.word());
    let word = match check.verdict {
        Verdict::Ok => output.style.good(&padded),
        Verdict::Warn => output.style.warn(&padded),
        Verdict::Fail => output.style.bad(&padded),
    };
    let mut head = format!("{word}  {:<14}", check.name);
    for line in output::wrap(&without_controls(&check.text), 78) {
        output.line(&format!("{head}  {line}"))?;
        head = " ".repeat(4 + 2 + 14);
    }
    Ok(())
}

fn summary(checks: &[Check], output: &mut Output) -> Result<()> {
    let number = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
    let (warned, failed) = (number(Verdict::Warn), number(Verdict::Fail));
    let warnings = output::count(warned, "warning");
    output.line("")?;
    let line = match (failed, warned) {
        (0, 0) => output.style.good("everything works").into_owned(),
        (0, _) => format!("everything works; {warnings}"),
        (_, 0) => format!("{} failed", output::count(failed, "check")),
        (_, _) => format!("{} failed; {warnings}", output::count(failed, "check")),
    };
    output.line(&line)
}

fn to_json(checks: &[Check]) -> Value {
    let passed = checks.iter().all(|c| c.verdict != Verdict::Fail);
    let checks: Vec<Value> = checks
        .iter()
        .map(|c| json!({ "name": c.name, "verdict": c.verdict.word(), "text": c.text, "data": c.data }))
        .collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "passed": passed, "checks": checks })
}
