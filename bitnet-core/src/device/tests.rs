//! Capabilities of several sampled machines, and of this one.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;

use super::capabilities::DeviceCapabilities;
use super::topology::{self, Cache, CacheKind, CoreKind};
use super::*;
use crate::os::cpuinfo::CpuInfo;
use crate::os::files;
use crate::simd::IsaLevel;

#[derive(Default)]
struct Sample(BTreeMap<String, String>);

impl Sample {
    fn with(mut self, path: &str, text: &str) -> Self {
        self.0.insert(path.into(), text.into());
        self
    }

    fn read(&self, path: &str) -> Option<String> {
        self.0.get(path).cloned()
    }

    fn described(&self) -> DeviceCapabilities {
        DeviceCapabilities::described_by(&|path| self.read(path), 1)
    }

    /// A cache of each of `cpus`, where each group of `share` neighbours shares one.
    fn cache(
        self,
        cpus: std::ops::Range<usize>,
        share: usize,
        index: usize,
        cache: [&str; 4],
    ) -> Self {
        let first = cpus.start;
        cpus.fold(self, |sample, cpu| {
            let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            let start = first + (cpu - first) / share * share;
            let names = ["level", "type", "size", "ways_of_associativity"];
            let list =
                if share == 1 { cpu.to_string() } else { format!("{start}-{}", start + share - 1) };
            let named = names.iter().zip(cache);
            let sample =
                named.fold(sample, |s, (name, text)| s.with(&format!("{folder}/{name}"), text));
            sample
                .with(&format!("{folder}/shared_cpu_list"), &format!("{list}\n"))
                .with(&format!("{folder}/coherency_line_size"), "64\n")
        })
    }

    fn cores(self, cpus: std::ops::Range<usize>, share: usize) -> Self {
        let first = cpus.start;
        cpus.fold(self, |sample, cpu| {
            let start = first + (cpu - first) / share * share;
            let list =
                if share == 1 { cpu.to_string() } else { format!("{start}-{}", start + share - 1) };
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list");
            sample.with(&path, &format!("{list}\n"))
        })
    }

    fn allowed(self, online: &str, allowed: &str) -> Self {
        let status = format!(
            "Name:\tbitnet\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\nMems_allowed:\t1\n"
        );
        self.with("/sys/devices/system/cpu/online", &format!("{online}\n"))
            .with("/proc/thread-self/status", &status)
    }
}

/// A virtual machine of two cores.
const X86: &str = "\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: 2445.434
cache size\t: 512 KB
physical id\t: 0
siblings\t: 2
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu vme de pse tsc msr sse sse2 ht syscall nx lm pni fma avx f16c hypervisor lahf_lm avx2 bmi2 vaes
bugs\t\t: sysret_ss_attrs null_seg
address sizes\t: 48 bits physical, 48 bits virtual
power management:

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu vme de pse tsc msr sse sse2 ht syscall nx lm pni fma avx f16c hypervisor lahf_lm avx2 bmi2 vaes
power management:
";

/// One entry of a 64-bit Arm machine.
fn arm_processor(index: usize, part: &str) -> String {
    format!(
        "processor\t: {index}\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd evtstrm aes crc32 atomics asimdhp asimddp\n\
         CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x2\nCPU part\t: {part}\nCPU revision\t: 0\n\n"
    )
}

#[test]
fn x86_cpuinfo_is_parsed() {
    let info = CpuInfo::parse(X86);
    assert_eq!(info.name.as_deref(), Some("AMD EPYC"));
    assert_eq!(info.processors.len(), 2);
    assert!(info.features.contains("avx2") && !info.features.contains("avx512f"));
    assert_eq!(info.hypervisor(), Some(true));
    assert_eq!(CpuInfo::parse(&X86.replace(" hypervisor", "")).hypervisor(), Some(false));
    let sample = Sample::default().with("/proc/cpuinfo", X86).allowed("0-1", "0-1");
    assert_eq!(
        sample.described().physical_cores,
        Some(2),
        "from cpuinfo, where there is no topology"
    );
    let bound = Sample::default().with("/proc/cpuinfo", X86).allowed("0-1", "1").described();
    assert_eq!((bound.physical_cores, bound.cpus), (Some(1), Some(vec![1])));
}

#[test]
fn arm_cpuinfo_is_parsed() {
    let text: String = (0..4).map(|index| arm_processor(index, "0xd0c")).collect();
    let info = CpuInfo::parse(&text);
    assert_eq!(info.name.as_deref(), Some("part 0xd0c of implementer 0x41"));
    assert_eq!(info.processors.len(), 4);
    assert!(info.features.contains("asimddp"));
    assert_eq!(info.hypervisor(), None, "Arm processors do not tell");
    let sample = Sample::default().with("/proc/cpuinfo", &text).allowed("0-3", "0-3");
    assert_eq!(sample.described().physical_cores, None, "the topology is unknown");
    assert_eq!(sample.cores(0..4, 1).described().physical_cores, Some(4));
    let named = format!("{text}Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n");
    assert_eq!(CpuInfo::parse(&named).name.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
}

#[test]
fn core_kinds_are_told_apart() {
    let big_little: String =
        (0..8).map(|i| arm_processor(i, if i < 4 { "0xd05" } else { "0xd0b" })).collect();
    let arm =
        Sample::default().with("/proc/cpuinfo", &big_little).allowed("0-7", "2-7").described();
    let kind = |name: &str, cpus: &[usize]| CoreKind { name: name.into(), cpus: cpus.to_vec() };
    assert_eq!(arm.core_kinds, [kind("0xd05", &[2, 3]), kind("0xd0b", &[4, 5, 6, 7])]);

    // Two cores with two threads each, and four small ones that share a cache.
    let hybrid = Sample::default()
        .allowed("0-7", "0-7")
        .with("/sys/devices/cpu_core/cpus", "0-3\n")
        .with("/sys/devices/cpu_atom/cpus", "4-7\n")
        .cores(0..4, 2)
        .cores(4..8, 1)
        .cache(0..4, 2, 0, ["1", "Data", "48K", "12"])
        .cache(4..8, 1, 0, ["1", "Data", "32K", "8"])
        .cache(0..4, 2, 1, ["1", "Instruction", "32K", "8"])
        .cache(4..8, 1, 1, ["1", "Instruction", "64K", "8"])
        .cache(0..4, 2, 2, ["2", "Unified", "1280K", "10"])
        .cache(4..8, 4, 2, ["2", "Unified", "2048K", "16"])
        .cache(0..8, 8, 3, ["3", "Unified", "12288K", "12"])
        .described();
    assert_eq!(hybrid.core_kinds, [kind("atom", &[4, 5, 6, 7]), kind("core", &[0, 1, 2, 3])]);
    assert_eq!(hybrid.physical_cores, Some(6));
    assert_eq!(hybrid.cache_bytes, [Some(48 << 10), Some(2 << 20), Some(12 << 20)]);
    let data: Vec<_> = hybrid.caches.iter().filter(|c| c.kind == CacheKind::Data).collect();
    let l1 = |bytes, ways, shared_by, instances| Cache {
        level: 1,
        kind: CacheKind::Data,
        bytes,
        line_bytes: Some(64),
        ways: Some(ways),
        shared_by,
        instances,
    };
    assert_eq!(data, [&l1(32 << 10, 8, 1, 4), &l1(48 << 10, 12, 2, 2)]);
    assert_eq!(hybrid.caches.last().map(|c| (c.bytes, c.instances)), Some((12 << 20, 1)));
    // A process that is bound to the small cores.
    let sample =
        Sample::default().allowed("0-7", "4-5").with("/sys/devices/cpu_core/cpus", "0-3\n");
    let bound = sample.with("/sys/devices/cpu_atom/cpus", "4-7\n").cores(4..8, 1).described();
    assert_eq!((bound.core_kinds, bound.physical_cores), (vec![], Some(2)));
}

#[test]
fn numa_nodes_of_two_sockets_are_listed() {
    let node = |sample: Sample, index: usize, cpus: &str, total: u64| {
        let folder = format!("/sys/devices/system/node/node{index}");
        let meminfo = format!(
            "Node {index} MemTotal:       {total} kB\nNode {index} MemFree:        {} kB\nNode {index} MemUsed: 1 kB\n",
            total / 2
        );
        sample.with(&format!("{folder}/cpulist"), cpus).with(&format!("{folder}/meminfo"), &meminfo)
    };
    let sample = Sample::default()
        .allowed("0-7", "0-7")
        .cores(0..8, 2)
        .cache(0..8, 4, 0, ["3", "Unified", "16384K", "16"])
        .with("/sys/devices/system/node/online", "0-1,3\n");
    let sample = node(node(node(sample, 0, "0-3\n", 65536), 1, "4-7\n", 131_072), 3, "\n", 1024);
    let found = sample.described();
    assert_eq!(found.numa_nodes, Some(3));
    assert_eq!(found.numa[1].cpus, [4, 5, 6, 7]);
    assert_eq!(found.numa[1].total_memory, Some(128 << 20));
    assert_eq!(found.numa[0].free_memory, Some(32 << 20));
    assert_eq!(
        (found.numa[2].index, found.numa[2].cpus.len()),
        (3, 0),
        "memory without processors"
    );
    assert_eq!(found.physical_cores, Some(4));
    assert_eq!(found.caches.last().map(|c| (c.bytes, c.instances)), Some((16 << 20, 2)));
    assert_eq!(Sample::default().described().numa_nodes, None);
}

#[test]
fn control_groups_bound_the_memory() {
    let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let found = Sample::default()
        .with("/proc/self/cgroup", "0::/app.slice\n")
        .with("/proc/self/mountinfo", mounts)
        .with("/sys/fs/cgroup/app.slice/memory.max", "1073741824\n")
        .with("/sys/fs/cgroup/app.slice/memory.current", "536870912\n")
        .with("/proc/meminfo", "MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable:  8388608 kB\n")
        .described();
    assert_eq!(found.total_memory, Some(16 << 30));
    assert_eq!((found.memory_limit, found.available_memory), (Some(1 << 30), Some(512 << 20)));
}

#[test]
fn huge_pages_and_address_space_limits_are_parsed() {
    let found = Sample::default()
        .with("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "128\n")
        .with("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n")
        .with("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n")
        .with("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
        .with(
            "/proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max cpu time              unlimited            unlimited            seconds   \n\
             Max address space         4294967296           unlimited            bytes     \n",
        )
        .described();
    let sizes: Vec<_> = found.huge_pages.iter().map(|p| (p.bytes, p.reserved, p.free)).collect();
    assert_eq!(sizes, [(2 << 20, 128, Some(100)), (1 << 30, 0, None)]);
    assert_eq!(found.transparent_huge_pages, Some(TransparentHugePages::Always));
    assert_eq!(found.address_space_limit, Some(4 << 30));
}

#[test]
fn environments_are_detected() {
    let variables = |set: &'static [(&str, &str)]| {
        move |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    };
    let of = |set, sample: Sample, info: &CpuInfo| {
        Environment::of(&variables(set), &|path| sample.read(path), info)
    };
    let (x86, bare) = (CpuInfo::parse(X86), CpuInfo::parse(&X86.replace(" hypervisor", "")));
    let arm = CpuInfo::parse(&arm_processor(0, "0xd0c"));
    let plain = of(&[], Sample::default(), &bare);
    assert_eq!(plain, Environment { virtual_machine: Some(false), ..Environment::default() });
    let action = of(&[("CI", "true"), ("GITHUB_ACTIONS", "true")], Sample::default(), &x86);
    assert_eq!(
        (action.ci.as_deref(), action.virtual_machine),
        (Some("GitHub Actions"), Some(true))
    );
    assert_eq!(of(&[("CI", "1")], Sample::default(), &bare).ci.as_deref(), Some("CI"));
    assert_eq!(of(&[("CI", "false")], Sample::default(), &bare).ci, None);
    let docker = Sample::default().with("/.dockerenv", "");
    assert_eq!(of(&[], docker, &bare).container.as_deref(), Some("docker"));
    let pod = Sample::default()
        .with("/proc/self/cgroup", "0::/kubepods.slice/kubepods-pod1.slice/cri-4f\n");
    assert_eq!(of(&[], pod, &bare).container.as_deref(), Some("kubernetes"));
    assert_eq!(
        of(&[("container", "lxc")], Sample::default(), &bare).container.as_deref(),
        Some("lxc")
    );
    let qemu = || {
        let sample = Sample::default().with("/sys/class/dmi/id/sys_vendor", "QEMU\n");
        sample.with("/proc/sys/kernel/osrelease", "6.12.0\n")
    };
    let guest = of(&[], qemu(), &arm);
    assert_eq!((guest.virtual_machine, guest.hypervisor.as_deref()), (Some(true), Some("QEMU")));
    assert_eq!(of(&[], qemu(), &bare).hypervisor, None, "the processor reports none");
    assert_eq!(of(&[], Sample::default(), &arm).virtual_machine, None);
}

#[test]
fn a_limited_device_reports_its_limits() {
    let limited = LimitedCpu::new(1 << 20, 1);
    let caps = DeviceCapabilities::without_bandwidth(&Device::from(limited));
    let limit = Some(1 << 20);
    assert_eq!(
        (caps.total_memory, caps.available_memory, caps.memory_limit),
        (limit, limit, limit)
    );
    assert_eq!(caps.logical_cores, 1);
}

/// Writes to the error stream, which is not captured, that a comparison is skipped.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what} is not there to compare with");
}

/// Returns what a program prints; `None`, with a message, if it is absent or fails.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().ok();
    let good = output.filter(|output| output.status.success());
    let text = good.and_then(|output| String::from_utf8(output.stdout).ok());
    if text.is_none() {
        skipped(program);
    }
    text
}

#[test]
fn capabilities_agree_with_lscpu() {
    let caps = DeviceCapabilities::without_bandwidth(&Device::Cpu);
    let Some(rows) = printed("lscpu", &["-p=CPU,CORE,SOCKET,NODE"]) else { return };
    let Some(cpus) = &caps.cpus else { return skipped("/proc/self/status") };
    let rows: Vec<Vec<&str>> = rows
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').collect())
        .collect();
    let online: Vec<usize> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(cpus.iter().all(|cpu| online.contains(cpu)), "{cpus:?} of {online:?}");
    let usable = rows.iter().filter(|row| cpus.contains(&row[0].parse().unwrap()));
    let cores: std::collections::BTreeSet<_> = usable.map(|row| (row[1], row[2])).collect();
    assert_eq!(caps.physical_cores, Some(cores.len()));
    let nodes: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row[3]).filter(|node| !node.is_empty()).collect();
    if let Some(known) = caps.numa_nodes {
        let with_cpus = caps.numa.iter().filter(|node| !node.cpus.is_empty()).count();
        assert!(with_cpus == nodes.len() && with_cpus <= known, "{nodes:?} {:?}", caps.numa);
    }
    let columns = "-C=NAME,ONE-SIZE,ALL-SIZE,WAYS,COHERENCY-SIZE";
    let Some(table) = printed("lscpu", &["-B", columns]) else { return };
    if cpus.len() < online.len() || !caps.core_kinds.is_empty() {
        return skipped("lscpu for some of the processors");
    }
    let mut lines = table.lines();
    assert!(lines.next().is_some_and(|head| head.contains("ONE-SIZE")));
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, one, all, rest @ ..] = &fields[..] else { panic!("{line}") };
        let kind = match name.as_bytes()[2..] {
            [b'd'] => CacheKind::Data,
            [b'i'] => CacheKind::Instruction,
            _ => CacheKind::Unified,
        };
        let level = u32::from(name.as_bytes()[1] - b'0');
        let ours = caps.caches.iter().find(|c| (c.level, c.kind) == (level, kind)).unwrap();
        assert_eq!(ours.bytes, one.parse::<usize>().unwrap(), "{name}");
        assert_eq!(ours.bytes * ours.instances, all.parse::<usize>().unwrap(), "{name}");
        if let [ways, line] = rest {
            assert_eq!(ours.ways, ways.parse().ok(), "{name}");
            assert_eq!(ours.line_bytes, line.parse().ok(), "{name}");
        }
    }
}

#[test]
fn capabilities_agree_with_getconf() {
    let caps = DeviceCapabilities::without_bandwidth(&Device::Cpu);
    let getconf = |name: &str| printed("getconf", &[name])?.trim().parse::<usize>().ok();
    if let (Some(ours), Some(theirs)) = (caps.page_bytes, getconf("PAGESIZE")) {
        assert_eq!(ours, theirs);
    }
    if let (Some(ours), Some(theirs)) = (&caps.cpus, getconf("_NPROCESSORS_ONLN")) {
        assert!(ours.len() <= theirs);
    }
    if let (Some(total), Some(page), Some(pages)) =
        (caps.total_memory, caps.page_bytes, getconf("_PHYS_PAGES"))
    {
        assert_eq!(total, page as u64 * pages as u64);
    }
    if let (Some(ours), Some(theirs)) = (caps.cache_line_bytes, getconf("LEVEL1_DCACHE_LINESIZE"))
        && theirs > 0
    {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn instruction_set_levels_agree_with_cpuinfo() {
    let caps = DeviceCapabilities::without_bandwidth(&Device::Cpu);
    let reported = |names: &[&str]| {
        names.iter().all(|name| caps.reported_features.iter().any(|feature| feature == name))
    };
    if caps.reported_features.is_empty() {
        return skipped("/proc/cpuinfo");
    }
    let by_flags: &[(IsaLevel, &[&str])] = &[
        (IsaLevel::Neon, &["asimd"]),
        (IsaLevel::NeonDotprod, &["asimd", "asimddp"]),
        (IsaLevel::Avx2, &["avx2", "fma"]),
        (IsaLevel::AvxVnni, &["avx2", "fma", "avx_vnni"]),
        (IsaLevel::Avx512Vnni, &["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"]),
    ];
    for (level, flags) in by_flags {
        assert_eq!(caps.isa_levels.contains(level), reported(flags), "{level}");
    }
    // The system may refuse tiles that the processor has.
    if caps.isa_levels.contains(&IsaLevel::Amx) {
        assert!(reported(&["avx512_vnni", "amx_tile", "amx_int8"]));
    }
}

#[test]
fn capabilities_of_this_machine_are_consistent() {
    let caps = DeviceCapabilities::for_device(&auto_select_device());
    assert!(caps.logical_cores >= 1);
    assert!(caps.isa_levels.contains(&IsaLevel::Scalar));
    assert!(!caps.supports_metal);
    if let Some(cpus) = &caps.cpus {
        assert!(caps.logical_cores <= cpus.len(), "a quota can only take away");
        assert!(caps.physical_cores.is_none_or(|cores| cores <= cpus.len()));
        let listed = topology::usable_cpus(&files::system_file);
        assert_eq!(listed.as_ref(), Some(cpus));
    }
    if cfg!(target_os = "linux") {
        assert!(caps.total_memory.unwrap() >= caps.available_memory.unwrap());
        assert!(caps.page_bytes.unwrap().is_power_of_two());
        assert!(caps.cpus.is_some());
    }
}
