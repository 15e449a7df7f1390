//! How scarce memory is on the system: pressure stall information, limits of control groups, available memory.
//!
//! Every value is optional: `None` is a file that is absent, unreadable or malformed.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::cgroup::{field, unified_path};
use super::files::{digits, kibibytes};

/// The most bytes of a file that are read.
const LARGEST_FILE: u64 = 64 << 10;
/// The most control groups that are read, from the process's own upwards.
const DEEPEST: usize = 32;

/// The share of the last 10 s in which tasks waited for memory, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stall {
    /// At least one task waited.
    pub some: f64,
    /// All tasks that were not idle waited.
    pub full: f64,
}

/// How often a control group ran into its limits, counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupEvents {
    /// Times that it was throttled for passing `memory.high`.
    pub high: u64,
    /// Times that it was about to pass `memory.max`.
    pub max: u64,
    /// Times that an allocation was about to fail, or a process was killed.
    pub oom: u64,
}

/// A quantity and its bound, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded {
    /// The bytes used.
    pub used: u64,
    /// The bytes available in all; not 0.
    pub limit: u64,
}

/// The state of the system at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SystemReading {
    /// `/proc/pressure/memory`.
    pub stall: Option<Stall>,
    /// `memory.pressure` of the process's control group (version 2).
    pub group_stall: Option<Stall>,
    /// Memory of the control group that is nearest to its `memory.max`, the process's own or one above it. Inactive
    /// file cache is not counted as used: the kernel drops it before it refuses memory.
    pub group: Option<Bounded>,
    /// `memory.events` of the process's control group.
    pub group_events: Option<GroupEvents>,
    /// The machine: all memory, and the used part, `MemTotal - MemAvailable`.
    pub machine: Option<Bounded>,
}

/// A source of readings of the system's memory, and of time.
pub trait SystemMemory: Send + Sync {
    /// Nanoseconds since some start. A coarse clock is sufficient.
    fn nanoseconds(&self) -> u64;
    /// Reads the system now.
    fn reading(&self) -> SystemReading;
}

/// The files of a Linux system; on another system they are absent, and every reading is empty.
#[derive(Debug, Clone)]
pub struct SystemFiles {
    root: PathBuf,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self::under("/")
    }
}

impl SystemFiles {
    /// The files under another root, such as a captured copy.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn text(&self, path: &Path) -> Option<String> {
        let file = File::open(self.root.join(path)).ok()?;
        let mut text = String::new();
        file.take(LARGEST_FILE).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The folders of the process's control group and of those above it, its own first.
    fn groups(&self) -> Vec<PathBuf> {
        let own = self.text(Path::new("proc/self/cgroup"));
        let Some(own) = own.as_deref().and_then(parse_own_group) else { return Vec::new() };
        let own = Path::new("sys/fs/cgroup").join(own);
        own.ancestors()
            .take_while(|folder| folder.starts_with("sys/fs/cgroup"))
            .take(DEEPEST)
            .map(Path::to_path_buf)
            .collect()
    }

    /// Used and allowed bytes of one control group; `None` if it has no limit.
    fn bounded(&self, folder: &Path) -> Option<Bounded> {
        let limit = parse_limit(&self.text(&folder.join("memory.max"))?)?;
        let current = parse_count(&self.text(&folder.join("memory.current"))?)?;
        let inactive = field(&self.text(&folder.join("memory.stat"))?, "inactive_file")?;
        Some(Bounded { used: current.saturating_sub(inactive), limit })
    }
}

impl SystemMemory for SystemFiles {
    fn nanoseconds(&self) -> u64 {
        super::clock::coarse()
    }

    fn reading(&self) -> SystemReading {
        let groups = self.groups();
        let own = |name: &str| groups.first().and_then(|folder| self.text(&folder.join(name)));
        SystemReading {
            stall: self.text(Path::new("proc/pressure/memory")).as_deref().and_then(parse_stall),
            group_stall: own("memory.pressure").as_deref().and_then(parse_stall),
            group: groups
                .iter()
                .filter_map(|folder| self.bounded(folder))
                .max_by(|a, b| ratio(*a).total_cmp(&ratio(*b))),
            group_events: own("memory.events").as_deref().and_then(parse_events),
            machine: self.text(Path::new("proc/meminfo")).as_deref().and_then(parse_machine),
        }
    }
}

/// The used part of the limit, 0 upwards.
pub(crate) fn ratio(bounded: Bounded) -> f64 {
    bounded.used as f64 / bounded.limit.max(1) as f64
}

/// `some avg10=… …` and `full avg10=… …`, in percent.
pub(crate) fn parse_stall(text: &str) -> Option<Stall> {
    let average = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
        value.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent))
    };
    Some(Stall { some: average("some")?, full: average("full")? })
}

/// A count of bytes, alone on its line.
pub(crate) fn parse_count(text: &str) -> Option<u64> {
    digits(text.trim_end())
}

/// `memory.max`: `None` if it is not a number above 0, which is also the case for `max`, no limit.
pub(crate) fn parse_limit(text: &str) -> Option<u64> {
    parse_count(text).filter(|&limit| limit > 0)
}

/// `memory.events`. A kernel may omit `oom_kill`.
pub(crate) fn parse_events(text: &str) -> Option<GroupEvents> {
    let oom = field(text, "oom")?.saturating_add(field(text, "oom_kill").unwrap_or(0));
    Some(GroupEvents { high: field(text, "high")?, max: field(text, "max")?, oom })
}

/// `/proc/meminfo`; `None` for a kernel without `MemAvailable`.
pub(crate) fn parse_machine(text: &str) -> Option<Bounded> {
    let limit = kibibytes(text, "MemTotal:").filter(|&total| total > 0)?;
    Some(Bounded { used: limit.saturating_sub(kibibytes(text, "MemAvailable:")?), limit })
}

/// The path of the process's own group (version 2), relative to the mount of the groups. A path that leads out of it,
/// as of a process outside its namespace, is the root.
pub(crate) fn parse_own_group(text: &str) -> Option<PathBuf> {
    let path = Path::new(unified_path(text)?.strip_prefix('/')?);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    Some(if inside { path.to_path_buf() } else { PathBuf::new() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const STALL: &str = "some avg10=12.50 avg60=0.10 avg300=0.00 total=42499966\nfull avg10=3.25 avg60=0.00 avg300=0.00 total=15321815\n";
    const EVENTS: &str = "low 0\nhigh 3\nmax 17\noom 1\noom_kill 2\noom_group_kill 0\n";
    const MEMINFO: &str = "MemTotal:       24684092 kB\nMemFree:        20640188 kB\nMemAvailable:   23429232 kB\nBuffers:           19776 kB\n";

    #[test]
    fn captured_texts_are_parsed() {
        assert_eq!(parse_stall(STALL), Some(Stall { some: 12.5, full: 3.25 }));
        assert_eq!(parse_events(EVENTS), Some(GroupEvents { high: 3, max: 17, oom: 3 }));
        let machine = Bounded { used: (24_684_092 - 23_429_232) << 10, limit: 24_684_092 << 10 };
        assert_eq!(parse_machine(MEMINFO), Some(machine));
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(
            parse_own_group("9:name=systemd:/x\n0::/user.slice/app\n"),
            Some("user.slice/app".into())
        );
        assert_eq!(parse_own_group("0::/\n"), Some(PathBuf::new()));
        assert_eq!(parse_own_group("4:memory:/api\n"), None);
    }

    #[test]
    fn malformed_texts_are_none() {
        for text in [
            "",
            "some",
            "some avg10=",
            "some avg10=NaN\nfull avg10=0.00",
            "some avg10=inf\nfull avg10=0.00",
            "some avg10=-1\nfull avg10=0.00",
            "some avg10=100.01\nfull avg10=0.00",
            "something avg10=1.00\nfull avg10=0.00",
            "some avg10=1.00",
        ] {
            assert_eq!(parse_stall(text), None, "{text:?}");
        }
        for text in ["", "0", "-1", "+1", "1 2", "0x10", "18446744073709551616", "1e9", "max"] {
            assert_eq!(parse_limit(text), None, "{text:?}");
        }
        for text in [
            "MemTotal: 10 kB",
            "MemTotal: 0 kB\nMemAvailable: 0 kB",
            "MemTotal: 10 MB\nMemAvailable: 1 kB",
            "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB",
        ] {
            assert_eq!(parse_machine(text), None, "{text:?}");
        }
        assert_eq!(parse_events("high 1\nmax x\noom 0\n"), None);
        assert_eq!(parse_own_group("0::/../../etc\n"), Some(PathBuf::new()));
        assert_eq!(parse_own_group("0::/a/../../../../etc\n"), Some(PathBuf::new()));
        assert_eq!(parse_own_group("0:://etc\n"), Some(PathBuf::new()));
    }

    proptest! {
        #[test]
        fn parsers_accept_any_text(text in "(some|full|MemTotal|0::|oom|max|high|avg10|[ =:/.\n0-9a-z-]){0,60}") {
            let _ = (parse_stall(&text), parse_limit(&text), parse_events(&text), parse_machine(&text));
            if let Some(path) = parse_own_group(&text) {
                prop_assert!(path.is_relative() && !path.components().any(|c| c == Component::ParentDir));
            }
        }
    }

    /// A root with these files, in a folder of its own that is removed afterwards.
    fn with_files<T>(
        name: &str,
        files: &[(&str, &str)],
        test: impl FnOnce(&SystemFiles) -> T,
    ) -> T {
        let root = std::env::temp_dir().join(format!("bitnet-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let result = test(&SystemFiles::under(&root));
        let _ = fs::remove_dir_all(&root);
        result
    }

    #[test]
    fn the_tightest_group_counts_without_inactive_cache() {
        let files = [
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("proc/pressure/memory", STALL),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "500\n"),
            ("sys/fs/cgroup/outer/inner/memory.stat", "anon 5\ninactive_file 100\n"),
            ("sys/fs/cgroup/outer/inner/memory.events", EVENTS),
            ("sys/fs/cgroup/outer/memory.max", "1000\n"),
            ("sys/fs/cgroup/outer/memory.current", "900\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 300\n"),
        ];
        with_files("groups", &files, |system| {
            let reading = system.reading();
            assert_eq!(reading.group, Some(Bounded { used: 600, limit: 1000 }));
            assert_eq!(reading.group_events.unwrap().max, 17);
            assert_eq!(reading.stall.unwrap().some, 12.5);
            assert_eq!((reading.group_stall, reading.machine), (None, None));
        });
    }

    #[test]
    fn absent_files_yield_an_empty_reading() {
        let system = SystemFiles::under("a-folder-that-is-not-there");
        assert_eq!(system.reading(), SystemReading::default());
    }
}
