//! The machine of the measurements.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use bitnet_inference::chat::strftime;
use serde::{Deserialize, Serialize};

/// A machine and its compiler; unknown facts are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: Option<String>,
    /// The available parallelism.
    pub threads: Option<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Name and version of the kernel.
    pub kernel: Option<String>,
    /// Name and version of the C library.
    pub libc: Option<String>,
    /// The kernel's setting of transparent huge pages.
    pub huge_pages: Option<String>,
    /// The load average over the minute before.
    pub load: Option<f64>,
    /// The compiler.
    pub rustc: Option<String>,
    /// Seconds since 1970 at the start.
    pub unix_seconds: Option<u64>,
}

impl Machine {
    /// Reads the facts of this machine.
    pub fn here() -> Self {
        let load = first_line("/proc/loadavg");
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            threads: available_parallelism().ok().map(usize::from),
            memory: field("/proc/meminfo", "MemTotal").as_deref().and_then(kibibytes),
            kernel: first_line("/proc/version")
                .map(|line| line.split(" (").next().unwrap_or_default().replace(" version", "")),
            libc: said("getconf", &["GNU_LIBC_VERSION"]),
            huge_pages: first_line("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|line| chosen(&line)),
            load: load.and_then(|line| line.split(' ').next()?.parse().ok()),
            rustc: said("rustc", &["--version"]),
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs()),
        }
    }

    /// Returns each fact with its name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let memory =
            self.memory.map(|bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
        [
            ("processor", self.processor.clone()),
            ("threads", self.threads.map(|n| n.to_string())),
            ("memory", memory),
            ("kernel", self.kernel.clone()),
            ("C library", self.libc.clone()),
            ("huge pages", self.huge_pages.clone()),
            ("load before", self.load.map(|load| format!("{load:.2}"))),
            ("compiler", self.rustc.clone()),
            ("date", self.unix_seconds.and_then(date)),
        ]
        .into_iter()
        .map(|(name, fact)| (name, fact.unwrap_or_else(|| "unavailable".to_owned())))
        .collect()
    }
}

fn first_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(str::to_owned)
}

/// Returns the value of the first `name: value`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kibibytes(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the word in brackets.
fn chosen(line: &str) -> Option<String> {
    Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Formats the date of seconds since 1970, in UTC.
fn date(unix_seconds: u64) -> Option<String> {
    strftime("%F", unix_seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_know_leap_years() {
        let days = [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
        ];
        for (seconds, day) in days {
            assert_eq!(date(seconds).as_deref(), Some(day));
        }
    }

    #[test]
    fn the_chosen_word_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(kibibytes("16 kB"), Some(16384));
        assert_eq!(kibibytes("16 MB"), None);
    }
}
