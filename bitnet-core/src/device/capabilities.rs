//! What a device can do, asked from the system at run time.

use std::sync::OnceLock;

use super::{Device, measure_read_bandwidth};
use crate::simd::IsaLevel;

/// What a device can do. Values that the system does not tell are `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceCapabilities {
    /// The processor's name, as the system gives it.
    pub name: Option<String>,
    /// Logical processors that this process may use.
    pub logical_cores: usize,
    /// Physical cores, where the system tells.
    pub physical_cores: Option<usize>,
    /// Instruction set levels that the processor reports, best last.
    pub isa_levels: Vec<IsaLevel>,
    /// Bytes of the first-level data, second-level and last-level cache.
    pub cache_bytes: [Option<usize>; 3],
    /// Bytes of a memory page.
    pub page_bytes: Option<usize>,
    /// Number of NUMA nodes.
    pub numa_nodes: Option<usize>,
    /// Memory of the machine, in bytes.
    pub total_memory: Option<u64>,
    /// Memory available without swapping, in bytes.
    pub available_memory: Option<u64>,
    /// Whether a Metal device is there.
    pub supports_metal: bool,
    /// Measured read bandwidth with all logical processors, in GB/s (10⁹ bytes); measured once per process.
    pub memory_bandwidth_gbps: f64,
}

impl DeviceCapabilities {
    /// Asks the system about `device`. The first call measures the memory bandwidth (less than a second).
    pub fn for_device(device: &Device) -> Self {
        static BANDWIDTH: OnceLock<f64> = OnceLock::new();
        let Device::Cpu = device;
        let logical_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let bandwidth =
            *BANDWIDTH.get_or_init(|| measure_read_bandwidth(logical_cores, 10).unwrap_or(0.0));
        Self {
            name: cpu_name(),
            logical_cores,
            physical_cores: physical_cores(),
            isa_levels: IsaLevel::available(),
            cache_bytes: [cache_bytes(1), cache_bytes(2), cache_bytes(3)],
            page_bytes: page_bytes(),
            numa_nodes: numa_nodes(),
            total_memory: meminfo("MemTotal:"),
            available_memory: meminfo("MemAvailable:"),
            supports_metal: false,
            memory_bandwidth_gbps: bandwidth / 1e9,
        }
    }
}

/// Physical cores that this process may use: pairs of (package, core) in `/proc/cpuinfo`, where it tells them.
pub(crate) fn physical_cores() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut cores = std::collections::BTreeSet::new();
    let mut package = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "physical id" => package = Some(value.trim().to_owned()),
            "core id" => {
                cores.insert((package.clone(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name") || l.starts_with("Model"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn cache_bytes(level: u32) -> Option<usize> {
    for index in 0..6 {
        let folder = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).ok();
        if read("level")?.trim() != level.to_string() || read("type")?.trim() == "Instruction" {
            continue;
        }
        let size = read("size")?;
        return size.trim().strip_suffix('K')?.parse::<usize>().ok().map(|k| k << 10);
    }
    None
}

/// The page size, from the auxiliary vector's `AT_PAGESZ` (6) entry.
fn page_bytes() -> Option<usize> {
    let auxv = std::fs::read("/proc/self/auxv").ok()?;
    let word = size_of::<usize>();
    auxv.chunks_exact(2 * word).find_map(|pair| {
        let key = usize::from_ne_bytes(pair[..word].try_into().ok()?);
        let value = usize::from_ne_bytes(pair[word..].try_into().ok()?);
        (key == 6).then_some(value)
    })
}

fn numa_nodes() -> Option<usize> {
    let entries = std::fs::read_dir("/sys/devices/system/node").ok()?;
    let nodes = entries
        .flatten()
        .filter(|e| {
            let name = e.file_name();
            let digits = name.to_str().and_then(|n| n.strip_prefix("node"));
            digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        })
        .count();
    (nodes > 0).then_some(nodes)
}

fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_capabilities_are_those_of_the_machine() {
        let caps = DeviceCapabilities::for_device(&crate::device::auto_select_device());
        assert!(caps.logical_cores >= 1);
        assert!(caps.isa_levels.contains(&IsaLevel::Scalar));
        assert!(caps.memory_bandwidth_gbps > 0.0);
        assert!(!caps.supports_metal);
        if cfg!(target_os = "linux") {
            assert!(caps.total_memory.unwrap() >= caps.available_memory.unwrap());
            assert!(caps.page_bytes.unwrap().is_power_of_two());
        }
    }
}
