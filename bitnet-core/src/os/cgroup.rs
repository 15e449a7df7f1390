//! The limits of control groups, versions 1 and 2: memory and processor time.

use super::files::{Files, digits, number};

/// What the groups of this process allow; `None` is no limit, or none that is visible.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Limits {
    /// The most memory, in bytes.
    pub(crate) memory: Option<u64>,
    /// The memory still available, in bytes; inactive file cache counts as free.
    pub(crate) memory_left: Option<u64>,
    /// The most processor time: 1.5 is one and a half processors.
    pub(crate) processors: Option<f64>,
}

/// Version 1 writes "no limit" as the largest multiple of a page; no machine has an exbibyte.
const NO_LIMIT: u64 = 1 << 60;

impl Limits {
    /// Returns the tightest limits of the groups of this process and of those above them.
    pub(crate) fn of(files: Files<'_>) -> Self {
        let groups = files("/proc/self/cgroup").unwrap_or_default();
        let mounts = files("/proc/self/mountinfo").unwrap_or_default();
        let mut limits = Self::default();
        for folder in folders(&groups, &mounts, "memory") {
            limits.apply_memory(files, &folder);
        }
        for folder in folders(&groups, &mounts, "cpu") {
            let quota = quota(files, &folder);
            limits.processors = least(limits.processors, quota, f64::min);
        }
        limits
    }

    fn apply_memory(&mut self, files: Files<'_>, folder: &str) {
        let read = |name: &str| number::<u64>(files, &format!("{folder}/{name}"));
        let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        let Some(limit) = limit.filter(|&bytes| bytes < NO_LIMIT) else { return };
        self.memory = least(self.memory, Some(limit), u64::min);
        let used = read("memory.current").or_else(|| read("memory.usage_in_bytes"));
        let Some(used) = used else { return };
        let stat = files(&format!("{folder}/memory.stat")).unwrap_or_default();
        let inactive =
            field(&stat, "total_inactive_file").or_else(|| field(&stat, "inactive_file"));
        let left = limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0)));
        self.memory_left = least(self.memory_left, Some(left), u64::min);
    }
}

fn least<T>(a: Option<T>, b: Option<T>, min: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}

/// Processor time in `cpu.max` (`50000 100000`), or in `cpu.cfs_quota_us` and its period.
fn quota(files: Files<'_>, folder: &str) -> Option<f64> {
    let (quota, period) = match files(&format!("{folder}/cpu.max")) {
        Some(text) => {
            let mut fields = text.split_whitespace();
            (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?)
        }
        None => (
            number::<u64>(files, &format!("{folder}/cpu.cfs_quota_us"))?,
            number::<u64>(files, &format!("{folder}/cpu.cfs_period_us"))?,
        ),
    };
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// Returns the value of `name` in lines of a name and a number.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        if key == name { digits(value.trim()) } else { None }
    })
}

/// Returns the path of the group of this process in version 2, the line `0::path` of `/proc/self/cgroup`.
pub(super) fn unified_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The folders of the group of this process for `controller`, and of the groups above it.
fn folders(groups: &str, mounts: &str, controller: &str) -> Vec<String> {
    /// The deepest groups that are read.
    const DEEPEST: usize = 64;
    let of_version_1 = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let (path, mount) = match of_version_1 {
        Some(path) => (Some(path), mount_of(mounts, Some(controller))),
        None => (unified_path(groups), mount_of(mounts, None)),
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

/// A path with octal escapes such as `\040` replaced by their characters.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, text)| path.replace(code, text))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Sample(BTreeMap<String, String>);

    impl Sample {
        fn with(mut self, path: &str, text: &str) -> Self {
            self.0.insert(path.into(), text.into());
            self
        }

        fn limits(&self) -> Limits {
            Limits::of(&|path| self.0.get(path).cloned())
        }
    }

    #[test]
    fn limits_of_version_2_groups() {
        let sample = Sample::default()
            .with("/proc/self/cgroup", "0::/app.slice/bitnet.service\n")
            .with(
                "/proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            )
            .with("/sys/fs/cgroup/app.slice/bitnet.service/memory.max", "max\n")
            .with("/sys/fs/cgroup/app.slice/bitnet.service/cpu.max", "150000 100000\n")
            .with("/sys/fs/cgroup/app.slice/memory.max", "1073741824\n")
            .with("/sys/fs/cgroup/app.slice/memory.current", "805306368\n")
            .with(
                "/sys/fs/cgroup/app.slice/memory.stat",
                "anon 1\ninactive_file 268435456\nactive_file 5\n",
            )
            .with("/sys/fs/cgroup/app.slice/cpu.max", "max 100000\n");
        let limits = sample.limits();
        assert_eq!(limits.memory, Some(1 << 30), "the group above limits too");
        assert_eq!(limits.memory_left, Some(512 << 20), "pages of files count as free");
        assert_eq!(limits.processors, Some(1.5));
    }

    #[test]
    fn limits_of_version_1_groups() {
        let sample = Sample::default()
            .with("/proc/self/cgroup", "5:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f\n0::/\n")
            .with(
                "/proc/self/mountinfo",
                "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755\n\
                 35 31 0:32 /docker/4f /sys/fs/cgroup/memory ro,nosuid master:17 - cgroup cgroup rw,memory\n\
                 36 31 0:33 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
            )
            .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")
            .with("/sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n")
            .with("/sys/fs/cgroup/memory/memory.stat", "cache 9\ninactive_file 1\ntotal_inactive_file 4194304\n")
            .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
            .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        let limits = sample.limits();
        assert_eq!((limits.memory, limits.processors), (Some(512 << 20), Some(0.5)));
        assert_eq!(limits.memory_left, Some((512 - 100 + 4) << 20));
        let unlimited = sample
            .with("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
            .with("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        assert_eq!(unlimited.limits(), Limits::default());
    }

    #[test]
    fn malformed_groups_limit_nothing() {
        let mount = "30 23 0:26 /a /sys/fs/cgroup\\040x rw - cgroup2 cgroup2 rw\n";
        let limited = |group: &str, mounts: &str| {
            let sample = Sample::default()
                .with("/proc/self/cgroup", group)
                .with("/proc/self/mountinfo", mounts);
            sample.with("/sys/fs/cgroup x/memory.max", "4096\n").limits().memory
        };
        assert_eq!(limited("0::/a\n", mount), Some(4096), "an escaped mount point");
        assert_eq!(
            limited("0::/../..\n", mount),
            Some(4096),
            "outside the namespace: the mount itself"
        );
        assert_eq!(limited("0::/ab\n", mount), Some(4096), "no part of /a");
        for (group, mounts) in
            [("", mount), ("0::", ""), ("x", mount), ("0::/a", "30 23 -"), ("0::/a", " - cgroup2")]
        {
            assert_eq!(limited(group, mounts), None, "{group:?} {mounts:?}");
        }
    }
}
