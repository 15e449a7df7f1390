//! Progress on standard error.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::wrap::visible_width;
use super::{bytes, terminal_width};

/// The delay before progress is displayed.
const SHOW_PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// The update interval on a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The update interval elsewhere.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Width of the bar in characters.
const BAR: usize = 24;

/// A progress line.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    visible: bool,
    shown: Option<Instant>,
    start: Instant,
    /// Bytes finished at the start.
    had: Option<u64>,
}

impl Progress {
    /// Creates the progress of `what`; `visible` if standard error is a terminal.
    pub(super) fn new(what: &str, visible: bool) -> Self {
        Self { what: what.to_owned(), visible, shown: None, start: Instant::now(), had: None }
    }

    /// Reports `done` of `all`.
    pub(crate) fn update(&mut self, done: usize, all: usize) {
        if self.is_due() {
            let percent = 100 * done / all.max(1);
            self.show(&format!("{done}/{all} ({percent} %)"));
        }
    }

    /// Reports `done` of `all` bytes, with the rate and the remaining time.
    pub(crate) fn update_bytes(&mut self, done: u64, all: u64) {
        let had = *self.had.get_or_insert(done);
        if !self.is_due() {
            return;
        }
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let rate = done.saturating_sub(had) as f64 / seconds;
        let left =
            if rate > 0.0 { (all.saturating_sub(done)) as f64 / rate } else { f64::INFINITY };
        let left = if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
        let (shown, total, rate) = (bytes(done), bytes(all), bytes(rate as u64));
        let filled = (done as f64 / all.max(1) as f64 * BAR as f64) as usize;
        let bar = "#".repeat(filled.min(BAR)) + &"-".repeat(BAR.saturating_sub(filled));
        let bar = if self.visible { format!("[{bar}] ") } else { String::new() };
        self.show(&format!("{bar}{shown} of {total}, {rate}/s{left}"));
    }

    /// Returns whether an update is due.
    fn is_due(&self) -> bool {
        let (first, next) = if self.visible {
            (SHOW_PROGRESS_AFTER, PROGRESS_INTERVAL)
        } else {
            (PLAIN_INTERVAL, PLAIN_INTERVAL)
        };
        self.shown.map_or(self.start.elapsed() > first, |last| last.elapsed() > next)
    }

    fn show(&mut self, text: &str) {
        self.shown = Some(Instant::now());
        if self.visible {
            let line = cut(&format!("{} {text}", self.what), terminal_width(&io::stderr()));
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        } else {
            let _ = writeln!(io::stderr(), "{} {text}", self.what);
        }
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() && self.visible {
            let _ = write!(io::stderr(), "\r\x1b[K");
            let _ = io::stderr().flush();
        }
    }
}

/// Returns the prefix of a line that fits `width` columns, so that the next line can overwrite it.
fn cut(line: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|&width| visible_width(line) >= width) else {
        return line.to_owned();
    };
    let mut out = String::new();
    for c in line.chars() {
        if visible_width(&out) + 2 > width {
            break;
        }
        out.push(c);
    }
    out
}
