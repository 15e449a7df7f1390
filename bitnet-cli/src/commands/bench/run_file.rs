//! Run files: all measurements of one run as JSON, for reports and other programs.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::statistics::median;
use crate::input_text;
use crate::output_file::OutputFile;

/// The format version.
pub(crate) const SCHEMA: u32 = 1;

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// The start time in UTC.
    pub(crate) created: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Whether the run was interrupted.
    pub(crate) interrupted: bool,
    /// Requested repetitions.
    pub(crate) repetitions: usize,
    pub(crate) program: Program,
    pub(crate) machine: Machine,
    pub(crate) limits: Vec<Limits>,
    pub(crate) participants: Vec<Participant>,
    pub(crate) series: Vec<Series>,
}

/// The build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) version: String,
    /// `release` or `debug`.
    pub(crate) profile: String,
    /// Architecture and system.
    pub(crate) target: String,
}

/// The machine. Unknown properties are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: Option<String>,
    pub(crate) logical_cores: usize,
    pub(crate) physical_cores: Option<usize>,
    /// Sizes in bytes of the L1 data, L2 and last-level cache.
    pub(crate) cache_bytes: [Option<usize>; 3],
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) numa_nodes: Option<usize>,
    /// The instruction set level of the kernels.
    pub(crate) isa: String,
    /// The operating system's kernel.
    pub(crate) kernel: Option<String>,
    /// The load average over the minute before the run.
    pub(crate) load_average: Option<f64>,
}

/// The machine's limits for a thread count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) threads: usize,
    /// Read bandwidth in bytes per second, the best round of each measurement. Empty if memory was exhausted.
    pub(crate) read_bytes_per_second: Vec<f64>,
    /// The same, the median round of each measurement. Empty in files that older versions wrote.
    #[serde(default)]
    pub(crate) sustained_read_bytes_per_second: Vec<f64>,
    /// Bytes of the buffers that were read, all threads together.
    #[serde(default)]
    pub(crate) read_buffer_bytes: Option<usize>,
    /// Integer multiply-adds per second, the best round of each measurement. Empty if the level has none.
    pub(crate) integer_macs_per_second: Vec<f64>,
    /// The same, the median round of each measurement.
    #[serde(default)]
    pub(crate) sustained_integer_macs_per_second: Vec<f64>,
    /// The multiply-add instructions.
    pub(crate) integer_instructions: Option<String>,
}

/// A measured program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Participant {
    pub(crate) name: String,
    /// The program and its arguments, without those of the tests.
    pub(crate) command: Vec<String>,
    /// Its version, as reported by itself.
    pub(crate) build: String,
    pub(crate) model_filename: String,
    pub(crate) model_type: String,
    /// Bytes of the model's tensors.
    pub(crate) model_size: u64,
    pub(crate) model_n_params: u64,
}

/// A test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Test {
    /// Prompt tokens.
    pub(crate) n_prompt: usize,
    /// Generated tokens.
    pub(crate) n_gen: usize,
    /// Untimed tokens of context before the test.
    pub(crate) n_depth: usize,
}

/// The samples of one participant in one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) participant: String,
    #[serde(flatten)]
    pub(crate) test: Test,
    pub(crate) threads: usize,
    /// Tokens per second of each repetition.
    pub(crate) samples_ts: Vec<f64>,
    /// Peak resident memory of the process in bytes.
    pub(crate) peak_bytes: Vec<u64>,
    /// The cost per step; for this program only.
    pub(crate) cost: Option<Cost>,
}

/// The mean cost per step of a test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Bytes of ternary layers read per step, counted by the back end, or their total size.
    pub(crate) ternary_bytes: f64,
    /// Whether the back end counted the bytes.
    pub(crate) counted: bool,
    /// The share of up-projection rows skipped because their gate was zero; absent if not counted.
    pub(crate) gated_rows_skipped: Option<f64>,
    /// The share of input columns skipped because the quantised input was zero; absent if not counted.
    pub(crate) sparse_columns_skipped: Option<f64>,
    /// Bytes of the head read per step.
    pub(crate) head_bytes: f64,
    /// Bytes of keys and values read per step.
    pub(crate) kv_bytes: f64,
    /// Total bytes read per step.
    pub(crate) bytes: f64,
    /// Multiply-adds of the ternary layers per token.
    pub(crate) integer_macs: f64,
}

impl Test {
    /// Returns llama-bench's name of the test.
    pub(crate) fn name(self) -> String {
        let what = match (self.n_prompt, self.n_gen) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, written) => format!("tg{written}"),
            (prompt, written) => format!("pp{prompt}+tg{written}"),
        };
        if self.n_depth > 0 { format!("{what} @ d{}", self.n_depth) } else { what }
    }

    /// Returns the number of timed tokens.
    pub(crate) fn tokens(self) -> usize {
        self.n_prompt + self.n_gen
    }
}

impl RunFile {
    /// Reads a run file.
    ///
    /// # Errors
    /// If it can't be read, is not a run file, or has another version.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = input_text::read(path, input_text::LONGEST_SETTINGS)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{shown} is not a run file of `bitnet bench --save`"))?;
        if value["schema"] != SCHEMA {
            bail!(
                "{shown} is no run file that this version reads (its schema is {}, not {SCHEMA}); \
                 write one with `bitnet bench --save`",
                value["schema"]
            );
        }
        serde_json::from_value(value)
            .with_context(|| format!("{shown} is not a run file of `bitnet bench --save`"))
    }

    /// Writes it atomically.
    ///
    /// # Errors
    /// If it can't be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Self::at(path).write(&text)
    }

    /// Returns the output file of a run; a run file of any version is replaced.
    pub(crate) fn at(path: &Path) -> OutputFile<'_> {
        let is_one = |bytes: &[u8]| {
            let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
            value.is_some_and(|value| !value["schema"].is_null() && value["series"].is_array())
        };
        OutputFile { path, what: "a run file of `bitnet bench --save`", is_one }
    }

    /// Returns the samples and costs of a participant in a test, if it ran.
    pub(crate) fn series(&self, participant: &str, test: Test, threads: usize) -> Option<&Series> {
        self.series
            .iter()
            .find(|s| s.participant == participant && s.test == test && s.threads == threads)
    }

    /// Returns the tests with their thread counts, in the order of first runs.
    pub(crate) fn tests(&self) -> Vec<(Test, usize)> {
        let mut tests = Vec::new();
        for series in &self.series {
            if !tests.contains(&(series.test, series.threads)) {
                tests.push((series.test, series.threads));
            }
        }
        tests
    }

    /// Returns the limits for a thread count.
    pub(crate) fn limits(&self, threads: usize) -> Option<&Limits> {
        self.limits.iter().find(|l| l.threads == threads)
    }
}

impl Limits {
    /// Returns the read bandwidth in bytes per second: the median of the sustained figures; of a file without them, the
    /// best round.
    pub(crate) fn bandwidth(&self) -> Option<f64> {
        sustained(&self.sustained_read_bytes_per_second, &self.read_bytes_per_second)
    }

    /// Returns the rate of integer multiply-adds, likewise.
    pub(crate) fn integer_peak(&self) -> Option<f64> {
        sustained(&self.sustained_integer_macs_per_second, &self.integer_macs_per_second)
    }

    /// Returns the tokens per second at the limit: at the bandwidth for generation, at the integer peak for prompts.
    /// `None` for a mixture, or if the limit is unknown.
    pub(crate) fn predicted(&self, test: Test, cost: &Cost) -> Option<f64> {
        match (test.n_prompt, test.n_gen) {
            (0, _) => Some(self.bandwidth()? / cost.bytes),
            (_, 0) => Some(self.integer_peak()? / cost.integer_macs),
            _ => None,
        }
    }

    /// Returns the share that `rate` tokens per second are of [`Limits::predicted`].
    pub(crate) fn share(&self, test: Test, cost: &Cost, rate: f64) -> Option<f64> {
        Some(rate / self.predicted(test, cost)?)
    }
}

fn sustained(medians: &[f64], best: &[f64]) -> Option<f64> {
    median(medians).or_else(|| best.iter().copied().reduce(f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_the_names_of_llama_bench() {
        let name = |n_prompt, n_gen, n_depth| Test { n_prompt, n_gen, n_depth }.name();
        assert_eq!(name(512, 0, 0), "pp512");
        assert_eq!(name(0, 128, 0), "tg128");
        assert_eq!(name(512, 128, 0), "pp512+tg128");
        assert_eq!(name(0, 128, 4096), "tg128 @ d4096");
    }

    #[test]
    fn shares_are_of_the_sustained_limit() {
        let mut limits = Limits {
            threads: 1,
            read_bytes_per_second: vec![8e9, 10e9],
            sustained_read_bytes_per_second: vec![],
            read_buffer_bytes: None,
            integer_macs_per_second: vec![],
            sustained_integer_macs_per_second: vec![],
            integer_instructions: None,
        };
        let cost = Cost {
            ternary_bytes: 3e8,
            counted: true,
            gated_rows_skipped: None,
            sparse_columns_skipped: None,
            head_bytes: 2e8,
            kv_bytes: 0.0,
            bytes: 5e8,
            integer_macs: 1e9,
        };
        let test = |n_prompt, n_gen| Test { n_prompt, n_gen, n_depth: 0 };
        assert_eq!(limits.share(test(0, 8), &cost, 10.0), Some(0.5), "of the best, without others");
        assert_eq!(limits.share(test(8, 0), &cost, 10.0), None);
        assert_eq!(limits.share(test(8, 8), &cost, 10.0), None);
        limits.sustained_read_bytes_per_second = vec![1e9, 9e9, 5e9];
        limits.sustained_integer_macs_per_second = vec![4e9];
        assert_eq!(limits.predicted(test(0, 8), &cost), Some(10.0));
        assert_eq!(limits.share(test(0, 8), &cost, 5.0), Some(0.5));
        assert_eq!(limits.share(test(8, 0), &cost, 1.0), Some(0.25));
    }
}
