//! The capabilities of a device, detected at run time.

use std::sync::OnceLock;

use super::bandwidth::bytes_beyond;
use super::topology::{self, Cache, CacheKind, CoreKind, NumaNode};
use super::{Device, Environment, HugePages, MemoryBandwidth, TransparentHugePages, pages};
use crate::os::cgroup::Limits;
use crate::os::cpuinfo::CpuInfo;
use crate::os::files::{Files, kibibytes, system_file};
use crate::simd::IsaLevel;

/// The capabilities of a device. Values that the system does not report are
/// `None` or empty: on Linux few, elsewhere most.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeviceCapabilities {
    /// The processor's name, as reported by the system.
    pub name: Option<String>,
    /// Threads that this process can run at once: affinity and control groups are respected.
    pub logical_cores: usize,
    /// The logical processors that it may use, by number.
    pub cpus: Option<Vec<usize>>,
    /// Physical cores among them.
    pub physical_cores: Option<usize>,
    /// The processor time that control groups allow: 1.5 is one and a half processors; `None` is no limit.
    pub processor_quota: Option<f64>,
    /// The kinds of cores, if there are several.
    pub core_kinds: Vec<CoreKind>,
    /// Instruction set levels that the processor reports, best last. Reported is not proven: the CPU back end tests
    /// each level before it uses it.
    pub isa_levels: Vec<IsaLevel>,
    /// Features that the processor reports, as the system names them.
    pub reported_features: Vec<String>,
    /// Caches of each level and kind.
    pub caches: Vec<Cache>,
    /// Bytes of one first-level data, one second-level and one third-level cache.
    pub cache_bytes: [Option<usize>; 3],
    /// Bytes of a line of the first-level data cache.
    pub cache_line_bytes: Option<usize>,
    /// Bytes of a memory page.
    pub page_bytes: Option<usize>,
    /// Huge pages of each size.
    pub huge_pages: Vec<HugePages>,
    /// When the system makes huge pages by itself.
    pub transparent_huge_pages: Option<TransparentHugePages>,
    /// Number of NUMA nodes.
    pub numa_nodes: Option<usize>,
    /// The NUMA nodes with their processors and memory.
    pub numa: Vec<NumaNode>,
    /// Memory of the machine, in bytes; of a limited device, its limit.
    pub total_memory: Option<u64>,
    /// Memory that can be allocated without swapping and within all limits, in bytes.
    pub available_memory: Option<u64>,
    /// The most memory that control groups or the device itself allow, in bytes; `None` is no limit.
    pub memory_limit: Option<u64>,
    /// The most address space of this process, in bytes; `None` is no limit.
    pub address_space_limit: Option<u64>,
    /// Whether there is a Metal device.
    pub supports_metal: bool,
    /// Sustained read bandwidth with all logical processors, in GB/s (10⁹ bytes); zero if it was not measured.
    pub memory_bandwidth_gbps: f64,
    /// The measured bandwidths; `None` if they were not measured.
    pub memory_bandwidth: Option<MemoryBandwidth>,
    /// The environment of the process.
    pub environment: Environment,
}

impl MemoryBandwidth {
    /// The figures of this machine, measured on the first call with all logical processors; as
    /// [`MemoryBandwidth::with_threads`].
    pub fn of_this_machine() -> Option<Self> {
        static MEASURED: OnceLock<Option<MemoryBandwidth>> = OnceLock::new();
        *MEASURED.get_or_init(|| {
            Self::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
        })
    }

    /// Measures with up to `threads` threads, for one to three seconds, in arrays of four times the caches and at least
    /// 256 MiB, but at most a quarter of the available memory. `None` if memory or threads are refused.
    pub fn with_threads(threads: usize) -> Option<Self> {
        let machine = DeviceCapabilities::without_bandwidth(&Device::Cpu);
        Self::measure(threads, bytes_beyond(machine.outer_cache_bytes(), machine.available_memory))
    }
}

impl DeviceCapabilities {
    /// Detects the capabilities of `device`. The first call of a process measures the memory bandwidth
    /// ([`MemoryBandwidth::of_this_machine`]), which takes one to three seconds and up to a quarter of the available
    /// memory.
    pub fn for_device(device: &Device) -> Self {
        let mut found = Self::without_bandwidth(device);
        found.memory_bandwidth = MemoryBandwidth::of_this_machine();
        found.memory_bandwidth_gbps = found.memory_bandwidth.map_or(0.0, |b| b.read / 1e9);
        found
    }

    /// Detects the capabilities of `device` without measuring the bandwidth.
    pub fn without_bandwidth(device: &Device) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let found = Self {
            isa_levels: IsaLevel::available(),
            page_bytes: pages::page_bytes(),
            environment: Environment::detect(),
            ..Self::described_by(&system_file, threads)
        };
        match device {
            Device::Cpu => found,
            Device::LimitedCpu(limited) => {
                found.limited_to(limited.threads(), limited.memory_limit() as u64)
            }
        }
    }

    /// Bytes of all caches from the second level on that this process may use, as the system reports them: those of a
    /// virtual machine's host, it may be. Zero if it reports none.
    pub fn outer_cache_bytes(&self) -> usize {
        let outer = self.caches.iter().filter(|c| c.level > 1 && c.kind != CacheKind::Instruction);
        outer.map(|cache| cache.bytes.saturating_mul(cache.instances)).sum()
    }

    /// Capabilities by files alone, without queries of this processor or process.
    pub(super) fn described_by(files: Files<'_>, threads: usize) -> Self {
        let info = CpuInfo::parse(&files("/proc/cpuinfo").unwrap_or_default());
        let known_cpus = topology::usable_cpus(files);
        let cpus = known_cpus.clone().unwrap_or_default();
        let caches = topology::caches(files, &cpus);
        let numa = topology::numa_nodes(files);
        let limits = Limits::of(files);
        let meminfo = files("/proc/meminfo").unwrap_or_default();
        let available = kibibytes(&meminfo, "MemAvailable:");
        Self {
            logical_cores: threads,
            physical_cores: topology::physical_cores(files, &cpus, &info),
            cpus: known_cpus,
            processor_quota: limits.processors,
            core_kinds: topology::core_kinds(files, &cpus, &info),
            isa_levels: Vec::new(),
            cache_bytes: [1, 2, 3].map(|level| data_cache(&caches, level).map(|c| c.bytes)),
            cache_line_bytes: data_cache(&caches, 1).and_then(|c| c.line_bytes),
            caches,
            page_bytes: None,
            huge_pages: pages::huge_pages(files),
            transparent_huge_pages: TransparentHugePages::of(files),
            numa_nodes: (!numa.is_empty()).then_some(numa.len()),
            numa,
            total_memory: kibibytes(&meminfo, "MemTotal:"),
            available_memory: [available, limits.memory_left].into_iter().flatten().min(),
            memory_limit: limits.memory,
            address_space_limit: address_space(&files("/proc/self/limits").unwrap_or_default()),
            supports_metal: false,
            memory_bandwidth_gbps: 0.0,
            memory_bandwidth: None,
            environment: Environment::default(),
            name: info.name,
            reported_features: info.features.into_iter().collect(),
        }
    }

    fn limited_to(mut self, threads: usize, memory: u64) -> Self {
        let least = |known: Option<u64>| Some(known.map_or(memory, |bytes| bytes.min(memory)));
        self.logical_cores = self.logical_cores.min(threads);
        self.physical_cores = self.physical_cores.map(|cores| cores.min(threads));
        self.total_memory = least(self.total_memory);
        self.available_memory = least(self.available_memory);
        self.memory_limit = least(self.memory_limit);
        self
    }
}

/// The data or unified cache of a level; the largest, where cores differ.
fn data_cache(caches: &[Cache], level: u32) -> Option<&Cache> {
    let of_level = caches.iter().filter(|c| c.level == level && c.kind != CacheKind::Instruction);
    of_level.max_by_key(|cache| cache.bytes)
}

/// The soft limit of the address space in `/proc/self/limits`.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}
