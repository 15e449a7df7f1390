//! The memory report: `--memory-report`, and at the end of a training run.

use std::path::Path;

use anyhow::Result;
use bitnet_core::memory::report::{KnownFiles, MemoryReport};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, TrackingConfig, TrackingLevel};
use bitnet_inference::{ModelSource, PreparedCache};
use serde_json::{Value, json};

use crate::output::{Output, bytes};

/// Returns a pool that records every allocation, as a report requires.
pub(crate) fn recorded_pool() -> Result<HybridMemoryPool> {
    let tracking = TrackingConfig {
        level: TrackingLevel::Detailed,
        enable_pressure_detection: false,
        ..TrackingConfig::default()
    };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..MemoryPoolConfig::unbounded()
    };
    Ok(HybridMemoryPool::with_config(config)?)
}

/// Returns the files with separate lines in the report: those of the model, and the cache.
pub(crate) fn files_of(source: ModelSource<'_>) -> KnownFiles {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let model = match source {
        ModelSource::Embedded => Vec::new(),
        ModelSource::Path(path) => {
            // A model may have several files in one folder, which may be links.
            let folder = if path.is_dir() { Some(path) } else { path.parent() };
            let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
            let entries = entries.into_iter().flatten().flatten();
            let same = |other: &Path| path.is_dir() || other.extension() == path.extension();
            let paths = entries.map(|entry| entry.path()).filter(|other| same(other));
            paths.chain([path.to_owned()]).filter_map(|path| whole(&path)).collect()
        }
    };
    KnownFiles { model, cache: PreparedCache::default_folder().and_then(|path| whole(&path)) }
}

/// A memory report, or the reason why there is none.
#[derive(Debug)]
pub(crate) struct Used(bitnet_core::Result<MemoryReport>);

impl Used {
    /// Takes a report now.
    pub(crate) fn now(pool: &HybridMemoryPool, files: &KnownFiles) -> Self {
        Self(MemoryReport::take(pool, files))
    }

    /// Returns the report as JSON.
    pub(crate) fn to_json(&self) -> Value {
        match &self.0 {
            Ok(report) => json_of(report),
            Err(error) => json!({ "unavailable": error.to_string() }),
        }
    }

    /// Prints the report as a table on standard error.
    pub(crate) fn print(&self, output: &mut Output) {
        match &self.0 {
            Ok(report) => table(report).iter().for_each(|line| output.note(line)),
            Err(error) => output.note(&format!("memory: unavailable: {error}")),
        }
    }
}

fn json_of(report: &MemoryReport) -> Value {
    let purposes: serde_json::Map<_, _> = report
        .purposes
        .iter()
        .map(|line| {
            let value = json!({ "live": line.live, "peak": line.peak, "resident": line.resident });
            (line.purpose.to_string(), value)
        })
        .collect();
    let places: serde_json::Map<_, _> = report
        .places
        .iter()
        .map(|line| {
            let value = json!({ "mapped": line.mapped, "resident": line.resident });
            (line.place.name().to_owned(), value)
        })
        .collect();
    let pool = report.pool;
    json!({
        "purposes": purposes,
        "pool": {
            "live": pool.live,
            "peak": pool.peak,
            "mapped": pool.mapped,
            "kept_resident": pool.kept_resident,
            "resident": pool.resident,
            "resident_by_system": pool.resident_by_system,
            "books": pool.books,
        },
        "outside": places,
        "sum": report.sum,
        "resident_set": report.resident_set,
    })
}

/// Returns the lines of the table.
fn table(report: &MemoryReport) -> Vec<String> {
    let line = |name: &str, cells: [String; 3]| {
        let [a, b, c] = cells;
        format!("{name:<28}{a:>12}{b:>12}{c:>12}").trim_end().to_owned()
    };
    let or_dash = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
    let mut lines = vec![line("memory", ["live", "peak", "resident"].map(str::to_owned))];
    for used in report.purposes.iter().filter(|used| used.live > 0 || used.peak > Some(0)) {
        let cells = [bytes(used.live), or_dash(used.peak), or_dash(used.resident)];
        lines.push(line(&used.purpose.to_string(), cells));
    }
    let pool = &report.pool;
    let none = String::new;
    lines.push(line("free blocks and rounding", [none(), none(), bytes(pool.kept_resident)]));
    lines.push(line("pool in all", [bytes(pool.live), bytes(pool.peak), bytes(pool.resident)]));
    lines.push(format!(
        "  its mappings as reported by the OS {}, difference {}",
        bytes(pool.resident_by_system),
        off(pool.resident, pool.resident_by_system)
    ));
    for place in report.places.iter().filter(|place| place.resident > 0) {
        lines.push(line(place.place.name(), [none(), none(), bytes(place.resident)]));
    }
    lines.push(format!("  of the heap, books and records of the pool {}", bytes(pool.books)));
    let outside: u64 = report.places.iter().map(|place| place.resident).sum();
    let sum = pool.resident + outside;
    lines.push(line("sum", [none(), none(), bytes(sum)]));
    lines.push(format!(
        "  resident set reported by the OS {}, difference {}",
        bytes(report.resident_set),
        off(sum, report.resident_set)
    ));
    lines
}

/// Returns the difference between a number and its expected value.
fn off(found: u64, expected: u64) -> String {
    let difference = found.abs_diff(expected);
    let percent = difference as f64 * 100.0 / expected.max(1) as f64;
    format!("{} ({percent:.2} %)", bytes(difference))
}
