//! A measuring child process with llama-bench's JSON output, and its peak memory.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wait4::Wait4;

use super::run_file::Test;
use crate::interrupt::Listener;

/// Poll interval for Ctrl-C while a process runs.
const LOOK: Duration = Duration::from_millis(20);

/// Number of lines shown of a failed program's output.
const LAST_LINES: usize = 5;

/// The output and the peak memory of a process.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    /// Peak resident memory; `None` if unknown.
    pub(crate) peak_bytes: Option<u64>,
}

/// One sample of a program in a test.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Tokens per second.
    pub(crate) rate: f64,
    pub(crate) peak_bytes: Option<u64>,
    /// The program's JSON record of the test.
    pub(crate) record: Value,
}

/// Returns llama-bench's arguments for one repetition of a test.
pub(crate) fn arguments(test: Test, threads: usize) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    let both = test.n_prompt > 0 && test.n_gen > 0;
    add("-p", if both { 0 } else { test.n_prompt }.to_string());
    add("-n", if both { 0 } else { test.n_gen }.to_string());
    if both {
        add("-pg", format!("{},{}", test.n_prompt, test.n_gen));
    }
    if test.n_depth > 0 {
        add("-d", test.n_depth.to_string());
    }
    add("-t", threads.to_string());
    add("-r", "1".into());
    add("-o", "json".into());
    args
}

/// Runs a command for one repetition of a test; `None` if the user stopped it.
///
/// # Errors
/// If the program can't be started, fails, or does not print llama-bench's JSON.
pub(crate) fn sample(
    name: &str,
    command: &[String],
    test: Test,
    listener: &Listener,
) -> Result<Option<Sample>> {
    let Some(finished) = run(name, command, listener)? else { return Ok(None) };
    let record = record_of(&finished.stdout, test).with_context(|| {
        format!("{name} did not print llama-bench's JSON ({})", command.join(" "))
    })?;
    let rate = rate_of(&record, test)
        .with_context(|| format!("{name}: no samples in its record of {}", test.name()))?;
    Ok(Some(Sample { rate, peak_bytes: finished.peak_bytes, record }))
}

/// Runs a program to its end; `None` if the user stopped it.
///
/// # Errors
/// If it can't be started or fails.
pub(crate) fn run(name: &str, command: &[String], listener: &Listener) -> Result<Option<Finished>> {
    let (program, args) = command.split_first().context("there is no program")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {name} ({program})"))?;
    let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (said, saying) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stdout) = &mut stdout {
            // The caller judges partial output.
            let _ = stdout.read_to_end(&mut bytes);
        }
        // The receiver is gone if the user stopped it.
        let _ = said.send(bytes);
    });
    let complaints = std::thread::spawn(move || stderr.map_or_else(Vec::new, last_lines));
    let stdout = loop {
        match saying.recv_timeout(LOOK) {
            Ok(bytes) => break bytes,
            Err(mpsc::RecvTimeoutError::Disconnected) => break Vec::new(),
            Err(mpsc::RecvTimeoutError::Timeout) if listener.asked() => {
                child.kill().with_context(|| format!("can't stop {name}"))?;
                child.wait().with_context(|| format!("can't wait for {name}"))?;
                return Ok(None);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    };
    let end = child.wait4().with_context(|| format!("can't wait for {name}"))?;
    if listener.asked() {
        return Ok(None);
    }
    let complaints = complaints.join().unwrap_or_default();
    if !end.status.success() {
        bail!("{name} failed ({}): {}", end.status, complaints.join(" / "));
    }
    let peak_bytes = Some(end.rusage.maxrss).filter(|&bytes| bytes > 0);
    Ok(Some(Finished { stdout: String::from_utf8_lossy(&stdout).into_owned(), peak_bytes }))
}

/// Returns the last non-empty lines.
fn last_lines(source: impl Read) -> Vec<String> {
    let mut last = std::collections::VecDeque::new();
    for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() {
            last.push_back(line);
        }
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }
    last.into()
}

/// Parses the record of a test from a program's output: JSON from the first line that opens an array.
fn record_of(stdout: &str, test: Test) -> Result<Value> {
    let start = stdout
        .lines()
        .find(|line| line.trim_start().starts_with('['))
        .and_then(|line| stdout.find(line))
        .context("it printed no JSON array")?;
    let mut values = serde_json::Deserializer::from_str(&stdout[start..]).into_iter::<Value>();
    let value = values.next().context("it printed no JSON array")??;
    let count = |record: &Value, field: &str| record[field].as_u64().unwrap_or(0) as usize;
    value
        .as_array()
        .into_iter()
        .flatten()
        .find(|record| {
            count(record, "n_prompt") == test.n_prompt && count(record, "n_gen") == test.n_gen
        })
        .cloned()
        .with_context(|| format!("it has no record of {}", test.name()))
}

/// Returns the tokens per second of the only repetition.
fn rate_of(record: &Value, test: Test) -> Option<f64> {
    let nanoseconds = record["samples_ns"][0].as_f64().or_else(|| record["avg_ns"].as_f64());
    let rate = match nanoseconds {
        Some(ns) if ns > 0.0 => Some(test.tokens() as f64 * 1e9 / ns),
        _ => record["samples_ts"][0].as_f64().or_else(|| record["avg_ts"].as_f64()),
    };
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TG: Test = Test { n_prompt: 0, n_gen: 128, n_depth: 0 };

    #[test]
    fn arguments_are_those_of_llama_bench() {
        assert_eq!(arguments(TG, 2).join(" "), "-p 0 -n 128 -t 2 -r 1 -o json");
        let both = Test { n_prompt: 5, n_gen: 3, n_depth: 7 };
        assert_eq!(arguments(both, 1).join(" "), "-p 0 -n 0 -pg 5,3 -d 7 -t 1 -r 1 -o json");
    }

    #[test]
    fn records_are_found_among_other_words() {
        let text = "loading ...\n[\n {\"n_prompt\": 0, \"n_gen\": 128, \"samples_ns\": [ 4000000000 ]}\n]\nbye\n";
        let record = record_of(text, TG).unwrap();
        assert_eq!(rate_of(&record, TG), Some(32.0));
        assert!(record_of(text, Test { n_gen: 1, ..TG }).is_err());
        for wrong in ["", "no JSON", "[", "[{]", "{}"] {
            assert!(record_of(wrong, TG).is_err(), "{wrong}");
        }
        assert_eq!(rate_of(&serde_json::json!({ "samples_ts": [5.0] }), TG), Some(5.0));
        assert_eq!(rate_of(&serde_json::json!({ "samples_ns": [0] }), TG), None);
    }
}
