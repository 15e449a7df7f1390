//! `bitnet bench --report`: run files as a Markdown page. The same files give the same page.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::run_file::RunFile;
use super::{machine, tables};
use crate::output::{self, Output};

/// What the page says before the runs.
const BEGINNING: &str = "\
# Performance

This page was printed by `bitnet bench --report` from run files; no figure in it was typed. A run file is written by
`bitnet bench --save`.

- Rates are tokens in a second: the median of the repetitions, then the slowest and the fastest, and the distance between
  the quartiles (IQR). Ratios are of medians; above 1.00, this program is faster.
- `pp512` reads a prompt of 512 random tokens, with the logits of the last one. `tg128` writes 128 tokens one at a time,
  with the logits of each. This program chooses the likeliest token each time, and so may leave most of the head unread;
  llama-bench computes all logits and chooses none. Loading is not timed.
- In a comparison every sample is a process of its own that loads its model and warms up, and the programs take turns: one
  sample of each, then the next repetition.
- The limit of `tg` is the read bandwidth, measured with as many threads. Ternary weights and the head are what the kernels
  counted as read, keys and values as at the middle of the test. A model that fits into the caches can exceed it.
- The limit of `pp` is the peak of the integer multiply-add that the kernels use, its accumulating addition included; only
  the ternary layers are counted, and all the time. Limits are the best of as many measurements as there are repetitions.
- Peak memory is the largest resident set of any process of the program, mapped files included.
";

/// Prints the page of some run files.
///
/// # Errors
/// If one of them can't be read.
pub(crate) fn run(paths: &[PathBuf], output: &mut Output) -> Result<()> {
    let files = paths.iter().map(|path| RunFile::read(path)).collect::<Result<Vec<_>>>()?;
    let page = page(&files);
    if output.json {
        return output.json(&json!({ "page": page.trim_end() }));
    }
    output.verbatim(page.trim_end())
}

fn page(files: &[RunFile]) -> String {
    let mut text = BEGINNING.to_owned();
    for file in files {
        text.push('\n');
        text.push_str(&section(file));
    }
    text
}

fn section(file: &RunFile) -> String {
    let model = file.participants.first().map_or("nothing", |p| p.model_type.as_str());
    let cpu = file.machine.cpu.as_deref().unwrap_or("a processor without a name");
    let mut text = format!("## {} on {}\n\n", tables::escaped(model), tables::escaped(cpu));
    let stopped = if file.interrupted { "; it was stopped before its end" } else { "" };
    text.push_str(&format!(
        "Measured on {} with bitnet {} ({}, {}), {}{stopped}.\n\n",
        tables::escaped(&file.created),
        tables::escaped(&file.program.version),
        tables::escaped(&file.program.profile),
        tables::escaped(&file.program.target),
        output::count(file.repetitions, "repetition"),
    ));
    text.push_str(&tables::speed(file));
    text.push('\n');
    text.push_str(&tables::memory(file));
    text.push_str("\nWhat this program reads in a step (a written token, or a part of a prompt that goes through the model together), and \
         what\nit leaves unread because it would be multiplied by zero:\n\n");
    text.push_str(&tables::costs(file));
    text.push_str(&format!(
        "\nThe machine: {}.\n\n",
        tables::escaped(&machine::describe(&file.machine))
    ));
    if let Some(warning) = machine::disturbance(&file.machine) {
        text.push_str(&format!("Beware: {warning}.\n\n"));
    }
    for limits in &file.limits {
        text.push_str(&format!("- {}\n", tables::escaped(&machine::describe_limits(limits))));
    }
    text.push_str("\nTo repeat it (folders are left out):\n\n```\n");
    text.push_str(&written(&file.command));
    text.push_str("\n```\n");
    text
}

/// Returns a command as it is typed, with absolute paths cut to file names: folders say nothing on another machine.
fn written(command: &[String]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, inner)) if !name.contains(['/', ' ']) && inner.contains(['/', ' ']) => {
                let inner = shlex::split(inner).unwrap_or_else(|| vec![inner.to_owned()]);
                format!("{name}={}", written(&inner))
            }
            _ => without_folder(word),
        })
        .collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

fn without_folder(word: &str) -> String {
    let path = Path::new(word);
    match path.file_name() {
        Some(name) if path.is_absolute() => name.to_string_lossy().into_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lose_their_folders_and_keep_their_words() {
        let words = ["bitnet", "bench", "-m", "/a/b/my model.gguf", "-p", "0"].map(String::from);
        assert_eq!(written(&words), "bitnet bench -m 'my model.gguf' -p 0");
        let words = ["--against", "ik=/x/llama-bench -m /y/z.gguf -fa 1"].map(String::from);
        assert_eq!(written(&words), "--against 'ik=llama-bench -m z.gguf -fa 1'");
        assert_eq!(written(&["models/a.gguf".to_owned()]), "models/a.gguf");
    }
}
