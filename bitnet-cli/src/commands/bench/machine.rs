//! The machine and the limits of its memory and its multiply units.

use anyhow::{Context, Result, bail};
use bitnet_core::device::{DeviceCapabilities, MemoryBandwidth, auto_select_device};
use bitnet_cpu::{CpuBackend, CpuOptions};
use serde_json::json;

use super::run_file::{Limits, Machine, Program};
use crate::output::{self, Output, or_unavailable};

/// Load average above which a machine is not idle.
const BUSY: f64 = 0.5;

/// Returns the build of this program.
pub(crate) fn program() -> Program {
    Program {
        version: env!("CARGO_PKG_VERSION").into(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    }
}

/// Returns the description of this machine.
///
/// # Errors
/// If no back end is available.
pub(crate) fn machine() -> Result<Machine> {
    let caps = DeviceCapabilities::without_bandwidth(&auto_select_device());
    let backend = CpuBackend::new(CpuOptions { threads: Some(1), isa: None })?;
    Ok(Machine {
        cpu: caps.name,
        logical_cores: caps.logical_cores,
        physical_cores: caps.physical_cores,
        cache_bytes: caps.cache_bytes,
        memory_bytes: caps.total_memory,
        numa_nodes: caps.numa_nodes,
        isa: backend.level().name().into(),
        kernel: kernel(),
        load_average: load_average(),
    })
}

/// Returns the default thread count: one per physical core.
///
/// # Errors
/// If no back end is available.
pub(crate) fn default_threads() -> Result<usize> {
    Ok(CpuBackend::new(CpuOptions::default())?.threads())
}

/// Measures the limits for a thread count.
///
/// # Errors
/// If no back end is available.
pub(crate) fn limits(threads: usize) -> Result<Limits> {
    let backend = CpuBackend::new(CpuOptions { threads: Some(threads), isa: None })?;
    let peak = backend.measure_integer_peak();
    let memory = MemoryBandwidth::with_threads(threads);
    Ok(Limits {
        threads,
        read_bytes_per_second: memory.iter().map(|m| m.best_read).collect(),
        sustained_read_bytes_per_second: memory.iter().map(|m| m.read).collect(),
        read_buffer_bytes: memory.map(|m| m.working_set),
        integer_macs_per_second: peak.iter().map(|p| p.best_macs_per_second).collect(),
        sustained_integer_macs_per_second: peak.iter().map(|p| p.macs_per_second).collect(),
        integer_instructions: peak.map(|p| p.instructions.into()),
    })
}

/// Runs `bitnet bench --limits`: prints the machine and its limits.
///
/// # Errors
/// If no back end is available or the output is closed.
pub(crate) fn print_limits(threads: &[usize], json: bool, output: &mut Output) -> Result<()> {
    let machine = machine()?;
    let limits = threads.iter().map(|&t| limits(t)).collect::<Result<Vec<_>>>()?;
    if json {
        let value = json!({ "program": program(), "machine": machine, "limits": limits });
        return output.json(&value);
    }
    print(&machine, &limits, output)
}

/// Prints the machine and its limits, a line each.
pub(crate) fn print(machine: &Machine, limits: &[Limits], output: &mut Output) -> Result<()> {
    output.line(&describe(machine))?;
    limits.iter().try_for_each(|l| output.line(&describe_limits(l)))
}

/// Parses the `--limits` output of another process of this program.
///
/// # Errors
/// If it is not the output of this version.
pub(crate) fn read_limits(text: &str) -> Result<(Machine, Vec<Limits>)> {
    let mut value: serde_json::Value =
        serde_json::from_str(text).context("`bitnet bench --limits` printed no JSON")?;
    let Some(fields) = value.as_object_mut() else {
        bail!("`bitnet bench --limits` printed no object");
    };
    let mut take = |name: &str| fields.remove(name).unwrap_or_default();
    Ok((serde_json::from_value(take("machine"))?, serde_json::from_value(take("limits"))?))
}

/// Describes the machine in one line.
pub(crate) fn describe(machine: &Machine) -> String {
    format!(
        "{}; {}; {}; memory {}; {} kernels; kernel {}; load average before: {}",
        or_unavailable(machine.cpu.as_deref()),
        cores(machine.physical_cores, machine.logical_cores),
        cache_sizes(machine.cache_bytes),
        or_unavailable(machine.memory_bytes.map(output::bytes)),
        machine.isa,
        or_unavailable(machine.kernel.as_deref()),
        or_unavailable(machine.load_average.map(|load| format!("{load:.2}"))),
    )
}

/// Returns a warning if other programs used the processor.
pub(crate) fn disturbance(machine: &Machine) -> Option<String> {
    let load = machine.load_average.filter(|&load| load > BUSY)?;
    Some(format!(
        "other programs were running (load average {load:.2} before the run): figures vary, and limits are too low; \
         repeat it on an idle machine"
    ))
}

/// Describes limits in one line.
pub(crate) fn describe_limits(limits: &Limits) -> String {
    format!(
        "{}: read bandwidth {}; integer multiply-add peak {}",
        output::count(limits.threads, "thread"),
        or_unavailable(describe_bandwidth(limits)),
        or_unavailable(describe_peak(limits))
    )
}

/// Describes the read bandwidth and the size of the buffers that were read.
pub(crate) fn describe_bandwidth(limits: &Limits) -> Option<String> {
    let written = |rate: f64| format!("{:.1} GB/s", rate / 1e9);
    let rate = with_best(limits.bandwidth()?, &limits.read_bytes_per_second, written);
    Some(match limits.read_buffer_bytes {
        Some(bytes) => format!("{rate} in {}", output::bytes(bytes as u64)),
        None => rate,
    })
}

/// Describes the integer peak and its instructions.
pub(crate) fn describe_peak(limits: &Limits) -> Option<String> {
    let written = |rate: f64| format!("{:.0} GMAC/s", rate / 1e9);
    let rate = with_best(limits.integer_peak()?, &limits.integer_macs_per_second, written);
    let instructions = or_unavailable(limits.integer_instructions.as_deref());
    Some(format!("{rate} ({instructions})"))
}

/// Describes a limit, and the best round where that is more.
fn with_best(limit: f64, best: &[f64], written: impl Fn(f64) -> String) -> String {
    let best = best.iter().copied().fold(limit, f64::max);
    let of_best = if best > limit { format!(" (best {})", written(best)) } else { String::new() };
    written(limit) + &of_best
}

fn kernel() -> Option<String> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        Some(text.trim().to_owned())
    };
    Some(format!("{} {}", read("ostype")?, read("osrelease")?))
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Describes the cores of a machine.
pub(crate) fn cores(physical: Option<usize>, logical: usize) -> String {
    match physical {
        Some(physical) => format!("{}, {logical} logical", output::count(physical, "core")),
        None => output::count(logical, "logical core"),
    }
}

/// Describes the L1 data, L2 and last-level cache of a machine.
pub(crate) fn cache_sizes(bytes: [Option<usize>; 3]) -> String {
    let [l1, l2, l3] = bytes.map(|size| or_unavailable(size.map(|b| output::bytes(b as u64))));
    format!("L1 data {l1}, L2 {l2}, L3 {l3}")
}
