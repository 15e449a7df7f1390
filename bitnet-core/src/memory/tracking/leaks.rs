//! Live allocations older than an age, with the lines that made them.

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use super::live::Record;
use super::threads;
use crate::memory::Purpose;
use crate::memory::units::{bytes, duration};

/// The lines that [`LeakReport`] prints; of others it prints the number.
const LINES: usize = 20;

/// A live allocation older than the age of the report.
#[derive(Debug, Clone)]
pub struct Leak {
    /// The first byte's address.
    pub address: usize,
    /// Bytes requested.
    pub size: usize,
    /// The bytes that it represents: `size` if every allocation is recorded, more if this one is a sample.
    pub estimated_bytes: u64,
    /// The time since it was made.
    pub age: Duration,
    /// The line that made it.
    pub site: &'static Location<'static>,
    /// What it is used for.
    pub purpose: Purpose,
    /// The thread that made it, by name or number.
    pub thread: String,
}

/// The live allocations of one line of a program.
#[derive(Debug, Clone)]
pub struct LeakSite {
    /// The line.
    pub site: &'static Location<'static>,
    /// Recorded allocations.
    pub count: usize,
    /// Bytes requested by the recorded allocations.
    pub bytes: u64,
    /// The bytes that they represent.
    pub estimated_bytes: u64,
    /// The age of the oldest.
    pub oldest: Duration,
}

/// The live allocations older than an age. None that was freed before the report is in it.
#[derive(Debug, Clone, Default)]
pub struct LeakReport {
    /// The age.
    pub older_than: Duration,
    /// Whether allocations are recorded at all; if not, the report is empty.
    pub enabled: bool,
    /// Whether only a sample of the allocations below 4 KiB is recorded:
    /// of s bytes with probability 1 - exp(-s / 4096).
    pub sampled: bool,
    /// The allocations, oldest first.
    pub leaks: Vec<Leak>,
    /// The same by line, the line with the most bytes first.
    pub sites: Vec<LeakSite>,
}

impl LeakReport {
    /// A report on those of `records` that were made at least `older_than` before `now`.
    pub(super) fn new(records: &[Record], older_than: Duration, now: u64, sampled: bool) -> Self {
        let age = |record: &Record| Duration::from_nanos(now.saturating_sub(record.stamp));
        let mut leaks: Vec<Leak> = records
            .iter()
            .filter(|record| age(record) >= older_than)
            .map(|record| Leak {
                address: record.address,
                size: record.size,
                estimated_bytes: record.bytes,
                age: age(record),
                site: record.site,
                purpose: record.purpose,
                thread: threads::name(record.thread),
            })
            .collect();
        leaks.sort_by_key(|leak| (std::cmp::Reverse(leak.age), leak.address));
        let sites = by_site(&leaks);
        Self { older_than, enabled: true, sampled, leaks, sites }
    }

    /// Retains only the allocations for which `keep` returns true.
    pub fn retain(&mut self, keep: impl FnMut(&Leak) -> bool) {
        self.leaks.retain(keep);
        self.sites = by_site(&self.leaks);
    }

    /// The bytes that the recorded allocations represent.
    pub fn bytes(&self) -> u64 {
        self.sites.iter().map(|site| site.estimated_bytes).sum()
    }
}

fn by_site(leaks: &[Leak]) -> Vec<LeakSite> {
    let mut sites: HashMap<&'static Location<'static>, LeakSite> = HashMap::new();
    for leak in leaks {
        let site = sites.entry(leak.site).or_insert(LeakSite {
            site: leak.site,
            count: 0,
            bytes: 0,
            estimated_bytes: 0,
            oldest: Duration::ZERO,
        });
        site.count += 1;
        site.bytes += leak.size as u64;
        site.estimated_bytes += leak.estimated_bytes;
        site.oldest = site.oldest.max(leak.age);
    }
    let mut sites: Vec<_> = sites.into_values().collect();
    sites.sort_by_key(|site| (std::cmp::Reverse(site.estimated_bytes), site.site));
    sites
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            return writeln!(
                f,
                "allocations are not recorded: set `enable_leak_detection` and level Standard"
            );
        }
        let (count, age) = (self.leaks.len(), duration(self.older_than));
        if count == 0 {
            return writeln!(f, "no recorded allocation is older than {age}");
        }
        let kind = if self.sampled { "recorded (a sample)" } else { "recorded" };
        writeln!(f, "{count} {kind} allocations are older than {age}: {}", bytes(self.bytes()))?;
        writeln!(f, "{:>8}  {:>10}  {:>9}  site", "count", "bytes", "oldest")?;
        for site in self.sites.iter().take(LINES) {
            let (size, oldest) = (bytes(site.estimated_bytes), duration(site.oldest));
            writeln!(f, "{:>8}  {size:>10}  {oldest:>9}  {}", site.count, site.site)?;
        }
        more(f, self.sites.len(), "lines")?;
        writeln!(
            f,
            "{:>18}  {:>10}  {:>9}  {:<16}  {:<12}  site",
            "address", "size", "age", "purpose", "thread"
        )?;
        for leak in self.leaks.iter().take(LINES) {
            let (size, age) = (bytes(leak.size as u64), duration(leak.age));
            let (address, purpose) = (leak.address, leak.purpose.to_string());
            writeln!(
                f,
                "{address:#18x}  {size:>10}  {age:>9}  {purpose:<16}  {:<12}  {}",
                leak.thread, leak.site
            )?;
        }
        more(f, count, "allocations")
    }
}

fn more(f: &mut fmt::Formatter<'_>, count: usize, what: &str) -> fmt::Result {
    match count.checked_sub(LINES) {
        Some(rest) if rest > 0 => writeln!(f, "and {rest} more {what}"),
        _ => Ok(()),
    }
}
