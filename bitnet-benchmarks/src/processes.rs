//! Measuring processes, which take turns.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::sampling::Plan;
use crate::suite::{Bench, Subject};
use crate::worker::{Answer, Request};

/// A column of a table: a program and its subject.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// The displayed name.
    pub(crate) name: String,
    /// The displayed version.
    pub(crate) version: Option<String>,
    pub(crate) program: PathBuf,
    pub(crate) subject: Subject,
}

/// The samples of each process, per series of a benchmark, or why there are none.
pub(crate) type Outcome = Result<Vec<Vec<Vec<f64>>>, String>;

/// Time allowance of a process beyond the plan: start, first page faults and slow work.
const GRACE: Duration = Duration::from_secs(20);

/// Runs a benchmark for all columns in turns (A B C A B C ...),
/// `repetitions` times; returns the outcome of each column.
pub(crate) fn take_turns(
    bench: &Bench,
    columns: &[Column],
    plan: &Plan,
    repetitions: usize,
) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> =
        columns.iter().map(|_| Ok(vec![Vec::new(); bench.series.len()])).collect();
    for _ in 0..repetitions {
        for (column, outcome) in columns.iter().zip(&mut outcomes) {
            let Ok(series) = outcome else { continue };
            match ask(column, &Request::new(bench, column.subject, plan), plan) {
                Ok(answer) if answer.samples.len() == series.len() => {
                    series.iter_mut().zip(answer.samples).for_each(|(all, run)| all.push(run));
                }
                Ok(_) => *outcome = Err("the process printed an unexpected result".to_owned()),
                Err(problem) => *outcome = Err(problem),
            }
        }
    }
    outcomes
}

/// Runs one process to its end.
fn ask(column: &Column, request: &Request, plan: &Plan) -> Result<Answer, String> {
    let limit = plan.budget() * 10 + GRACE;
    let mut child = Command::new(&column.program)
        .args(request.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", column.program.display()))?;
    let text = read_until_end(&mut child, limit)?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        let mut said = String::new();
        let read = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        let last = said.lines().last().filter(|_| read.is_some_and(|read| read.is_ok()));
        return Err(last.map_or_else(|| status.to_string(), str::to_owned));
    }
    serde_json::from_str(&text).map_err(|error| format!("the process's answer: {error}"))
}

/// Returns the output of a process, which is killed after `limit`.
fn read_until_end(child: &mut Child, limit: Duration) -> Result<String, String> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(String::new()) };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // The receiver is gone after the limit.
        drop(sender.send(read));
    });
    match receiver.recv_timeout(limit) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            let ended = child.kill().and_then(|()| child.wait());
            let also = ended.err().map(|error| format!(" ({error})")).unwrap_or_default();
            Err(format!("no result within {} s{also}", limit.as_secs()))
        }
    }
}
