//! The topology of processors, cores, caches and memory nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::os::cpuinfo::CpuInfo;
use crate::os::files::{Files, kibibytes, number, number_list};

/// A kind of cores, of a processor that has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreKind {
    /// The system's name: `core` and `atom` on x86, the part number on Arm.
    pub name: String,
    /// Logical processors of this kind.
    pub cpus: Vec<usize>,
}

/// The content of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// Data.
    Data,
    /// Instructions.
    Instruction,
    /// Both.
    Unified,
}

/// Caches of one level and size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// Its content.
    pub kind: CacheKind,
    /// Bytes of one of them.
    pub bytes: usize,
    /// Bytes of a line.
    pub line_bytes: Option<usize>,
    /// Ways of associativity.
    pub ways: Option<usize>,
    /// Logical processors that share one of them.
    pub shared_by: usize,
    /// The number of them that the usable processors have.
    pub instances: usize,
}

/// A node of memory with its processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// The system's number.
    pub index: usize,
    /// Its logical processors; none for a node of memory alone.
    pub cpus: Vec<usize>,
    /// Its memory in bytes.
    pub total_memory: Option<u64>,
    /// Its unused memory in bytes.
    pub free_memory: Option<u64>,
}

/// Logical processors that are online and that the calling thread may run on.
pub(super) fn usable_cpus(files: Files<'_>) -> Option<Vec<usize>> {
    let status = files("/proc/thread-self/status").or_else(|| files("/proc/self/status"))?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cpus = number_list(allowed)?;
    if let Some(online) = files("/sys/devices/system/cpu/online").and_then(|t| number_list(&t)) {
        cpus.retain(|cpu| online.contains(cpu));
    }
    (!cpus.is_empty()).then_some(cpus)
}

pub(super) fn physical_cores(files: Files<'_>, cpus: &[usize], info: &CpuInfo) -> Option<usize> {
    let siblings = |cpu: &usize| {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        files(&format!("{folder}/core_cpus_list"))
            .or_else(|| files(&format!("{folder}/thread_siblings_list")))
            .and_then(|text| number_list(&text))
    };
    if let Some(cores) = cpus.iter().map(siblings).collect::<Option<BTreeSet<_>>>() {
        return (!cores.is_empty()).then_some(cores.len());
    }
    let listed = info.processors.iter().filter(|p| cpus.is_empty() || cpus.contains(&p.index));
    let cores: BTreeSet<_> = listed.filter(|p| p.core.1.is_some()).map(|p| p.core).collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// The kinds of cores among `cpus`, if there are several.
pub(super) fn core_kinds(files: Files<'_>, cpus: &[usize], info: &CpuInfo) -> Vec<CoreKind> {
    let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for name in ["core", "lowpower", "atom"] {
        let list = files(&format!("/sys/devices/cpu_{name}/cpus"));
        if let Some(of_kind) = list.and_then(|text| number_list(&text)) {
            kinds.insert(name.into(), of_kind);
        }
    }
    if kinds.is_empty() {
        for processor in &info.processors {
            if let Some((_, part)) = &processor.part {
                kinds.entry(part.clone()).or_default().push(processor.index);
            }
        }
    }
    for of_kind in kinds.values_mut() {
        of_kind.retain(|cpu| cpus.contains(cpu));
    }
    kinds.retain(|_, of_kind| !of_kind.is_empty());
    if kinds.len() < 2 {
        return Vec::new();
    }
    kinds.into_iter().map(|(name, cpus)| CoreKind { name, cpus }).collect()
}

/// The caches of `cpus`, by level and kind.
pub(super) fn caches(files: Files<'_>, cpus: &[usize]) -> Vec<Cache> {
    /// The most caches that are read for a processor.
    const MOST_PER_CPU: usize = 16;
    let mut seen: BTreeMap<Cache, BTreeSet<Vec<usize>>> = BTreeMap::new();
    for cpu in cpus {
        for index in 0..MOST_PER_CPU {
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            let Some(level) = number(files, &format!("{folder}/level")) else { break };
            if let Some((cache, sharers)) = cache(files, &folder, level, *cpu) {
                seen.entry(cache).or_default().insert(sharers);
            }
        }
    }
    seen.into_iter().map(|(cache, at)| Cache { instances: at.len(), ..cache }).collect()
}

fn cache(files: Files<'_>, folder: &str, level: u32, cpu: usize) -> Option<(Cache, Vec<usize>)> {
    let read = |name: &str| files(&format!("{folder}/{name}"));
    let kind = match read("type")?.trim() {
        "Data" => CacheKind::Data,
        "Instruction" => CacheKind::Instruction,
        "Unified" => CacheKind::Unified,
        _ => return None,
    };
    let sharers = read("shared_cpu_list").and_then(|text| number_list(&text));
    let sharers = sharers.unwrap_or_else(|| vec![cpu]);
    let cache = Cache {
        level,
        kind,
        bytes: size(read("size")?.trim())?,
        line_bytes: number(files, &format!("{folder}/coherency_line_size")).filter(|&n| n > 0),
        ways: number(files, &format!("{folder}/ways_of_associativity")).filter(|&n| n > 0),
        shared_by: sharers.len(),
        instances: 0,
    };
    Some((cache, sharers))
}

/// Bytes of `32K`, `2M` or `512`.
fn size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// Returns the nodes that are online; none where the system does not list them.
pub(super) fn numa_nodes(files: Files<'_>) -> Vec<NumaNode> {
    let online = files("/sys/devices/system/node/online").and_then(|text| number_list(&text));
    let node = |index: usize| {
        let folder = format!("/sys/devices/system/node/node{index}");
        let cpus = files(&format!("{folder}/cpulist")).and_then(|text| number_list(&text))?;
        let meminfo = files(&format!("{folder}/meminfo")).unwrap_or_default();
        let memory = |key: &str| kibibytes(&meminfo, &format!("Node {index} {key}:"));
        let (total_memory, free_memory) = (memory("MemTotal"), memory("MemFree"));
        Some(NumaNode { index, cpus, total_memory, free_memory })
    };
    online.unwrap_or_default().into_iter().filter_map(node).collect()
}
