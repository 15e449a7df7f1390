//! Limits that a control group sets: memory and time of the processor, in versions 1 and 2.

use super::system::{Files, number};

/// What the groups of this process allow; `None` is no limit, or none that can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Limits {
    /// The most memory, in bytes.
    pub(super) memory: Option<u64>,
    /// The memory that may still be taken, in bytes; pages of files that can be dropped count as free.
    pub(super) memory_left: Option<u64>,
    /// The most processors' time: 1.5 is one and a half.
    pub(super) processors: Option<f64>,
}

/// Version 1 says "no limit" with the largest multiple of a page; no machine has an exbibyte.
const NO_LIMIT: u64 = 1 << 60;

impl Limits {
    /// The tightest limits of this process' groups and of those above them.
    pub(super) fn of(files: Files<'_>) -> Self {
        let groups = files("/proc/self/cgroup").unwrap_or_default();
        let mounts = files("/proc/self/mountinfo").unwrap_or_default();
        let mut limits = Self::default();
        for folder in folders(&groups, &mounts, "memory") {
            limits.take_memory(files, &folder);
        }
        for folder in folders(&groups, &mounts, "cpu") {
            let quota = quota(files, &folder);
            limits.processors = least(limits.processors, quota, f64::min);
        }
        limits
    }

    fn take_memory(&mut self, files: Files<'_>, folder: &str) {
        let read = |name: &str| number::<u64>(files, &format!("{folder}/{name}"));
        let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        let Some(limit) = limit.filter(|&bytes| bytes < NO_LIMIT) else { return };
        self.memory = least(self.memory, Some(limit), u64::min);
        let used = read("memory.current").or_else(|| read("memory.usage_in_bytes"));
        let Some(used) = used else { return };
        let stat = files(&format!("{folder}/memory.stat")).unwrap_or_default();
        let of_key = |key: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
            line.trim().parse::<u64>().ok()
        };
        let droppable = of_key("total_inactive_file").or_else(|| of_key("inactive_file"));
        let left = limit.saturating_sub(used.saturating_sub(droppable.unwrap_or(0)));
        self.memory_left = least(self.memory_left, Some(left), u64::min);
    }
}

fn least<T>(a: Option<T>, b: Option<T>, min: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}

/// Processors' time in `cpu.max` (`50000 100000`), or in `cpu.cfs_quota_us` and its period.
fn quota(files: Files<'_>, folder: &str) -> Option<f64> {
    let (quota, period) = match files(&format!("{folder}/cpu.max")) {
        Some(text) => {
            let mut words = text.split_whitespace();
            (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?)
        }
        None => (
            number::<u64>(files, &format!("{folder}/cpu.cfs_quota_us"))?,
            number::<u64>(files, &format!("{folder}/cpu.cfs_period_us"))?,
        ),
    };
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// The folders of the group that `controller` puts this process in, and of the groups above it.
fn folders(groups: &str, mounts: &str, controller: &str) -> Vec<String> {
    /// Deeper groups than any system makes are not followed.
    const DEEPEST: usize = 64;
    let membership = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers) = (fields.next()?, fields.next()?);
            let path = fields.next()?;
            wanted(number, controllers).then(|| path.to_owned())
        })
    };
    let of_version_1 =
        membership(&|_, controllers| controllers.split(',').any(|name| name == controller));
    let (path, mount) = match of_version_1 {
        Some(path) => (Some(path), mount_of(mounts, Some(controller))),
        None => {
            (membership(&|number, names| number == "0" && names.is_empty()), mount_of(mounts, None))
        }
    };
    let (Some(path), Some((root, point))) = (path, mount) else { return Vec::new() };
    let below = path.strip_prefix(root.trim_end_matches('/'));
    let below = below.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or("");
    let names: Vec<&str> = below.split('/').filter(|name| !name.is_empty()).collect();
    if names.len() > DEEPEST || names.contains(&"..") {
        return vec![point];
    }
    (0..=names.len())
        .rev()
        .map(|depth| {
            names[..depth].iter().fold(point.clone(), |path, name| format!("{path}/{name}"))
        })
        .collect()
}

/// Root and mount point of version 1's hierarchy of a controller, or of version 2's.
fn mount_of(mounts: &str, controller: Option<&str>) -> Option<(String, String)> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1).unwrap_or(""));
        let fits = match controller {
            Some(controller) => name == "cgroup" && options.split(',').any(|o| o == controller),
            None => name == "cgroup2",
        };
        fits.then(|| (unescaped(root), unescaped(point)))
    })
}

/// A path with `\040` and the like replaced by what they stand for.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, text)| path.replace(code, text))
}
