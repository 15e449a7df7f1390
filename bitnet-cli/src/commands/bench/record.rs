//! The record of one test, with llama-bench's fields and additional ones.

use std::time::Duration;

use anyhow::Result;
use bitnet_inference::{Inspection, LoadOptions, ModelSource, PREFILL_CHUNK};
use serde_json::{Map, Value, json};

use super::machine;
use super::run_file::{Cost, Limits, Machine, Participant, Series, Test};
use super::statistics::Summary;
use crate::output::{self, or_unavailable};

/// The model's fields of every record.
#[derive(Debug, Clone)]
pub(crate) struct ModelName {
    pub(crate) filename: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
    pub(crate) parameters: u64,
}

impl ModelName {
    /// Reads the header of a model with `parameters` parameters.
    ///
    /// # Errors
    /// If the model can't be read.
    pub(crate) fn of(
        source: ModelSource<'_>,
        options: &LoadOptions,
        parameters: usize,
    ) -> Result<Self> {
        let inspection = Inspection::of(source, options)?;
        let types = inspection.bytes_by_type();
        let size: u64 = types.iter().map(|(_, _, bytes)| bytes).sum();
        // Norms and scales are not part of a model's name.
        let large: Vec<&str> = types
            .iter()
            .filter(|(_, _, bytes)| *bytes >= size / 20)
            .map(|(name, _, _)| name.as_str())
            .collect();
        let facts = &inspection.facts;
        let kind =
            format!("{} {} {}", facts.architecture, quantity(parameters as u64), large.join("+"));
        Ok(Self { filename: facts.file.clone(), kind, size, parameters: parameters as u64 })
    }
}

/// The record of one test.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) model: &'a ModelName,
    pub(crate) machine: &'a Machine,
    pub(crate) limits: Option<&'a Limits>,
    pub(crate) backend: String,
    pub(crate) threads: usize,
    pub(crate) batch_size: usize,
    pub(crate) test: Test,
    pub(crate) test_time: String,
    pub(crate) times: Vec<Duration>,
    pub(crate) cost: Cost,
    pub(crate) load: Duration,
    /// Peak resident memory since before the model was loaded.
    pub(crate) peak_bytes: Option<u64>,
}

impl Record<'_> {
    /// Tokens per second of each repetition.
    pub(crate) fn rates(&self) -> Vec<f64> {
        let tokens = self.test.tokens() as f64;
        self.times.iter().map(|t| tokens / t.as_secs_f64().max(1e-9)).collect()
    }

    /// Returns the share of the machine's limit at the median rate.
    pub(crate) fn share(&self) -> Option<f64> {
        let rate = super::statistics::median(&self.rates())?;
        self.limits?.share(self.test, &self.cost, rate)
    }

    /// Returns the record for a run file.
    pub(crate) fn series(&self) -> Series {
        Series {
            participant: super::OURS.into(),
            test: self.test,
            threads: self.threads,
            samples_ts: self.rates(),
            peak_bytes: self.peak_bytes.into_iter().collect(),
            cost: Some(self.cost),
        }
    }

    /// Returns llama-bench's fields in its order, then additional ones.
    pub(crate) fn to_json(&self) -> Value {
        let nanoseconds: Vec<f64> = self.times.iter().map(|t| t.as_nanos() as f64).collect();
        let rates = self.rates();
        let (time, rate) = (Summary::of(&nanoseconds), Summary::of(&rates));
        let mut value = json!({
            "build_commit": build(),
            "build_number": 0,
            "cpu_info": self.machine.cpu.as_deref().unwrap_or("unavailable"),
            "gpu_info": "",
            "backends": self.backend,
            "model_filename": self.model.filename,
            "model_type": self.model.kind,
            "model_size": self.model.size,
            "model_n_params": self.model.parameters,
            "n_batch": self.batch_size,
            "n_ubatch": PREFILL_CHUNK,
            "n_threads": self.threads,
            "n_prompt": self.test.n_prompt,
            "n_gen": self.test.n_gen,
            "n_depth": self.test.n_depth,
            "test_time": self.test_time,
            "avg_ns": time.map(|t| t.mean.round() as u64),
            "stddev_ns": time.map(|t| t.deviation.round() as u64),
            "avg_ts": rate.map(|r| r.mean),
            "stddev_ts": rate.map(|r| r.deviation),
            "samples_ns": self.times.iter().map(|t| t.as_nanos() as u64).collect::<Vec<_>>(),
            "samples_ts": rates,
        });
        if let Some(fields) = value.as_object_mut() {
            self.add_own_fields(fields, rate);
        }
        value
    }

    fn add_own_fields(&self, fields: &mut Map<String, Value>, rate: Option<Summary>) {
        let median = rate.map(|r| r.median);
        let own = json!({
            "test": self.test.name(),
            "median_ts": median,
            "lower_quartile_ts": rate.map(|r| r.lower),
            "upper_quartile_ts": rate.map(|r| r.upper),
            "min_ts": rate.map(|r| r.min),
            "max_ts": rate.map(|r| r.max),
            "cost": self.cost,
            "gated_rows_skipped": self.cost.gated_rows_skipped,
            "sparse_columns_skipped": self.cost.sparse_columns_skipped,
            "bytes_per_second": median.filter(|_| self.test.n_prompt == 0).map(|m| m * self.cost.bytes),
            "integer_macs_per_second":
                median.filter(|_| self.test.n_gen == 0).map(|m| m * self.cost.integer_macs),
            "limits": self.limits,
            "share_of_limit": self.share(),
            "load_ns": self.load.as_nanos() as u64,
            "peak_bytes": self.peak_bytes,
            "machine": self.machine,
            "program": machine::program(),
        });
        if let Value::Object(own) = own {
            fields.extend(own);
        }
    }

    /// Returns this program as a participant of a run file.
    pub(crate) fn participant(&self, command: Vec<String>) -> Participant {
        Participant {
            name: super::OURS.into(),
            command,
            build: build(),
            model_filename: self.model.filename.clone(),
            model_type: self.model.kind.clone(),
            model_size: self.model.size,
            model_n_params: self.model.parameters,
        }
    }
}

/// Returns the version as one word.
fn build() -> String {
    let program = machine::program();
    format!("{}-{}", program.version, program.profile)
}

/// Formats a count of parameters: `2.41 B`.
pub(crate) fn quantity(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.0} K", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

/// Formats the hardware rate of a test at `tokens` per second: bytes or multiply-adds per second.
pub(crate) fn rate(test: Test, cost: &Cost, tokens: f64) -> String {
    match (test.n_prompt, test.n_gen) {
        (0, _) => format!("{:.2} GB/s", tokens * cost.bytes / 1e9),
        (_, 0) => format!("{:.1} GMAC/s", tokens * cost.integer_macs / 1e9),
        _ => String::new(),
    }
}

/// Formats a share: `87 %`, or a placeholder.
pub(crate) fn percent(share: Option<f64>) -> String {
    or_unavailable(share.map(|s| format!("{:.0} %", 100.0 * s)))
}

/// Formats peak memory in mebibytes, or a placeholder.
pub(crate) fn peak(bytes: Option<u64>) -> String {
    or_unavailable(bytes.map(output::bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(quantity(2_412_820_480), "2.41 B");
        assert_eq!(quantity(2_600_000), "2.6 M");
        assert_eq!(quantity(12_345), "12 K");
        assert_eq!(percent(Some(0.874)), "87 %");
        assert_eq!(percent(None), "unavailable");
    }
}
