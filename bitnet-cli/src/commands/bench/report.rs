//! `bitnet bench --report`: a deterministic Markdown page from run files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::run_file::RunFile;
use super::{machine, tables};
use crate::output::{self, Output};

/// The text before the runs.
const BEGINNING: &str = "\
# Performance

This page is the output of `bitnet bench --report`; `bitnet bench --save` writes the run files. Do not edit it.

- Rates are tokens per second: median of the repetitions, then minimum..maximum and interquartile range (IQR). Ratios are
  ratios of medians; above 1.00, this program is faster.
- `pp512` processes a prompt of 512 random tokens and computes the logits of the last one. `tg128` generates 128 tokens and
  computes the logits of each. This program also selects the top token and may skip most of the head; llama-bench computes
  all logits and selects none. Loading is not timed.
- In a comparison every sample is a separate process that loads its model and warms up. The programs take turns: one sample
  of each per repetition.
- The limit of `tg` is the read bandwidth measured with the same number of threads. Bytes of ternary weights and the head
  are counted by the kernels, the KV cache is that of the middle of the test. A model that fits the caches can exceed it.
- The limit of `pp` is the peak of the kernels' integer multiply-add instructions, including accumulation; it counts only
  ternary layers but all of the time. A limit is the median of as many measurements as repetitions, of each of which the
  median round counts; of a run that recorded none, the best round of all.
- Peak memory is the largest resident set of any process of the program, including mapped files.
";

/// Prints the page of run files.
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
    let cpu = file.machine.cpu.as_deref().unwrap_or("an unknown processor");
    let mut text = format!("## {} on {}\n\n", tables::escaped(model), tables::escaped(cpu));
    let stopped = if file.interrupted { "; the run was interrupted" } else { "" };
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
    text.push_str(
        "\nBytes read per step (a generated token, or a batch of a prompt), and the share skipped because it would be\n\
         multiplied by zero:\n\n",
    );
    text.push_str(&tables::costs(file));
    text.push_str(&format!(
        "\nThe machine: {}.\n\n",
        tables::escaped(&machine::describe(&file.machine))
    ));
    if let Some(warning) = machine::disturbance(&file.machine) {
        text.push_str(&format!("Warning: {warning}.\n\n"));
    }
    for limits in &file.limits {
        text.push_str(&format!("- {}\n", tables::escaped(&machine::describe_limits(limits))));
    }
    text.push_str("\nTo repeat it (without folders):\n\n```\n");
    text.push_str(&written(&file.command));
    text.push_str("\n```\n");
    text
}

/// Returns a command with absolute paths shortened to file names.
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
    fn absolute_paths_are_shortened_in_commands() {
        let words = ["bitnet", "bench", "-m", "/a/b/my model.gguf", "-p", "0"].map(String::from);
        assert_eq!(written(&words), "bitnet bench -m 'my model.gguf' -p 0");
        let words = ["--against", "ik=/x/llama-bench -m /y/z.gguf -fa 1"].map(String::from);
        assert_eq!(written(&words), "--against 'ik=llama-bench -m z.gguf -fa 1'");
        assert_eq!(written(&["models/a.gguf".to_owned()]), "models/a.gguf");
    }
}
