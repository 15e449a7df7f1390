//! Arguments of `bitnet bench`: llama-bench's flags with their meanings, and a few more.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::run_file::Test;
use crate::args::values::{positive, threads};

/// `bitnet bench`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// The model; may be repeated [default: the built-in story model]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) model: Vec<PathBuf>,
    /// Process a prompt of N tokens; 0 = skip [default: 512]
    #[arg(short = 'p', long, value_name = "N,...", value_parser = counts)]
    pub(crate) n_prompt: Vec<Counts>,
    /// Generate N tokens; 0 = skip [default: 128]
    #[arg(short = 'n', long, value_name = "N,...", value_parser = counts)]
    pub(crate) n_gen: Vec<Counts>,
    /// Process a prompt of P tokens, then generate N (also -pg)
    #[arg(long, value_name = "P,N", value_parser = pair)]
    pub(crate) pg: Vec<(usize, usize)>,
    /// Run each test after N untimed tokens of context [default: 0]
    #[arg(short = 'd', long, value_name = "N,...", value_parser = counts)]
    pub(crate) n_depth: Vec<Counts>,
    /// Batch size of prompt processing in tokens
    #[arg(short, long, value_name = "N", default_value_t = 2048, value_parser = positive)]
    pub(crate) batch_size: usize,
    /// Compute threads, one test per number [default: one per physical core]
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', value_parser = threads, allow_negative_numbers = true)]
    pub(crate) threads: Vec<usize>,
    /// Number of repetitions of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    pub(crate) repetitions: usize,
    /// Output format [default: md, or json with --json]
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
    /// Skip the warm-up
    #[arg(long)]
    pub(crate) no_warmup: bool,
    /// Skip measuring the machine's limits (read bandwidth, integer peak)
    #[arg(long)]
    pub(crate) no_limits: bool,
    /// Measure the machine's limits only
    #[arg(long, conflicts_with_all = ["no_limits", "against"])]
    pub(crate) limits: bool,
    /// Measure the time per operation of a generated token or of a prompt
    #[arg(long, conflicts_with_all = ["limits", "against", "pg", "save"])]
    pub(crate) account: bool,
    /// Write N texts at once, a token of each in every step; one test per number
    #[arg(
        long, value_name = "N,...", value_parser = stream_counts,
        conflicts_with_all = ["n_prompt", "pg", "limits", "account", "against", "save", "report"]
    )]
    pub(crate) streams: Option<Counts>,
    /// Compare with another program in turns; COMMAND is a path and arguments, llama-bench's flags are appended
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    pub(crate) against: Vec<Peer>,
    /// Save all measurements to a run file
    #[arg(long, value_name = "FILE", conflicts_with = "limits")]
    pub(crate) save: Option<PathBuf>,
    /// Print a report of run files (Markdown) without measuring
    #[arg(long, value_name = "RUN", num_args = 1.., conflicts_with_all = ["model", "against", "save", "limits"])]
    pub(crate) report: Vec<PathBuf>,
    /// Run one repetition of one test (prompt, generated, depth, threads) and print JSON; used by comparisons
    #[arg(long, hide = true, value_name = "P,N,D,T", value_parser = once)]
    pub(crate) once: Option<Once>,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A Markdown table
    Md,
    /// llama-bench's JSON with more fields
    Json,
    /// The same, one line per test
    Jsonl,
    /// The same as comma-separated values
    Csv,
}

/// The numbers of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) Vec<usize>);

/// A program for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
}

/// One repetition of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Once {
    test: Test,
    threads: usize,
}

impl Once {
    /// Returns `args` with this test only and without comparisons.
    pub(crate) fn of(self, args: &BenchArgs) -> BenchArgs {
        let both = self.test.n_prompt > 0 && self.test.n_gen > 0;
        let alone = |count: usize| vec![Counts(vec![if both { 0 } else { count }])];
        BenchArgs {
            n_prompt: alone(self.test.n_prompt),
            n_gen: alone(self.test.n_gen),
            pg: both.then_some((self.test.n_prompt, self.test.n_gen)).into_iter().collect(),
            n_depth: vec![Counts(vec![self.test.n_depth])],
            threads: vec![self.threads],
            repetitions: 1,
            output: Some(Format::Json),
            no_limits: true,
            against: Vec::new(),
            save: None,
            once: None,
            ..args.clone()
        }
    }
}

impl BenchArgs {
    /// Returns the numbers of all arguments of one flag, or the default.
    pub(crate) fn all(lists: &[Counts], default: usize) -> Vec<usize> {
        let mut all: Vec<usize> = lists.iter().flat_map(|counts| counts.0.clone()).collect();
        if all.is_empty() {
            all.push(default);
        }
        all
    }
}

/// Maximum length of a range; longer ones are mistakes.
const LONGEST_RANGE: usize = 1000;

/// Parses `512`, `128,256`, `first-last`, `first-last+step` or `first-last*factor`.
pub(crate) fn counts(text: &str) -> Result<Counts, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        range(part.trim(), &mut all).ok_or_else(|| {
            format!(
                "{part:?} is neither a number nor a range; write 512, 128,256, 1-8, 1-8+2 or 1-64*2"
            )
        })?;
    }
    Ok(Counts(all))
}

fn range(text: &str, all: &mut Vec<usize>) -> Option<()> {
    let Some((first, rest)) = text.split_once('-') else {
        all.push(text.parse().ok()?);
        return Some(());
    };
    let (last, step, factor): (&str, usize, usize) = match rest.split_once(['+', '*']) {
        None => (rest, 1, 1),
        Some((last, number)) if rest.contains('+') => (last, number.parse().ok()?, 1),
        Some((last, number)) => (last, 0, number.parse().ok()?),
    };
    let (mut value, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    if last < value {
        return None;
    }
    for _ in 0..LONGEST_RANGE {
        all.push(value);
        let next = value.checked_mul(factor)?.checked_add(step)?;
        if next > last {
            return Some(());
        }
        if next == value {
            return None;
        }
        value = next;
    }
    None
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let wrong = || format!("{text:?}: write prompt tokens and generated tokens, as in 512,128");
    let (prompt, written) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().ok().filter(|&n: &usize| n > 0);
    number(prompt).zip(number(written)).ok_or_else(wrong)
}

fn once(text: &str) -> Result<Once, String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|n| n.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[n_prompt, n_gen, n_depth, threads]) if threads > 0 => {
            Ok(Once { test: Test { n_prompt, n_gen, n_depth }, threads })
        }
        _ => Err("write four numbers".into()),
    }
}

fn peer(text: &str) -> Result<Peer, String> {
    let wrong = || "write NAME=COMMAND, as in llama.cpp=\"build/bin/llama-bench -fa 1\"".to_owned();
    let (name, command) = text.split_once('=').ok_or_else(wrong)?;
    let command = shlex::split(command).filter(|words| !words.is_empty()).ok_or_else(wrong)?;
    if name.is_empty() {
        return Err(wrong());
    }
    if name == super::OURS {
        return Err(format!("{name:?} is the name of this program; choose another name"));
    }
    Ok(Peer { name: name.into(), command })
}

/// Most streams of a run.
const MOST_STREAMS: usize = 1024;

/// Parses the numbers of streams.
pub(super) fn stream_counts(text: &str) -> Result<Counts, String> {
    let Counts(all) = counts(text)?;
    if let Some(wrong) = all.iter().find(|count| !(1..=MOST_STREAMS).contains(*count)) {
        return Err(format!(
            "{wrong} streams can't be measured; write numbers from 1 to {MOST_STREAMS}"
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = all.iter().find(|count| !seen.insert(**count)) {
        return Err(format!("{twice} is there twice; write each number of streams once"));
    }
    Ok(Counts(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_equal_llama_bench() {
        let read = |text: &str| counts(text).map(|c| c.0);
        assert_eq!(read("512"), Ok(vec![512]));
        assert_eq!(read("1,2, 4"), Ok(vec![1, 2, 4]));
        assert_eq!(read("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(read("10-20+5"), Ok(vec![10, 15, 20]));
        assert_eq!(read("1-64*4,7"), Ok(vec![1, 4, 16, 64, 7]));
        for wrong in ["", "x", "1,", "4-1", "1-8*1", "1-8+0", "0-8*2", "-1", "1-99999", "1-2+3*4"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_of_streams_are_read() {
        assert_eq!(stream_counts("1,2, 4-16*2").map(|c| c.0), Ok(vec![1, 2, 4, 8, 16]));
        for (wrong, word) in [
            ("", "neither a number"),
            ("1,", "neither a number"),
            ("x", "neither a number"),
            ("0", "from 1 to 1024"),
            ("1,0", "from 1 to 1024"),
            ("1025", "from 1 to 1024"),
            ("1,2,1", "twice"),
            ("2,1-3", "twice"),
        ] {
            let error = stream_counts(wrong).unwrap_err();
            assert!(error.contains(word), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn pairs_and_peers_are_read() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        for wrong in ["512", "512,0", "0,1", "a,b", "1,2,3"] {
            assert!(pair(wrong).is_err(), "{wrong}");
        }
        let read = peer("ik=a/llama-bench -m 'my model.gguf' -fa 1").unwrap();
        assert_eq!(read.name, "ik");
        assert_eq!(read.command, ["a/llama-bench", "-m", "my model.gguf", "-fa", "1"]);
        for wrong in ["ik", "=a", "ik=", "ik='", "bitnet=a"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }
}
