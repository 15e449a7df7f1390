//! What goes to the terminal: styles, tables, streamed text, progress and errors.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
pub(crate) use bitnet_core::memory::units::bytes;

use crate::args::{ColorChoice, General};

/// Loading that takes longer than this shows its progress.
const SHOW_PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// Time between two lines of progress on a terminal, where one replaces the other.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two lines of progress elsewhere.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Characters of a bar.
const BAR: usize = 24;

/// Standard output and standard error, with what is known about them.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether results are JSON.
    pub(crate) json: bool,
    /// Whether to say more.
    pub(crate) verbose: bool,
    /// Styles for standard output.
    pub(crate) style: Style,
    /// Styles for standard error.
    pub(crate) note_style: Style,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style(bool);

impl Style {
    fn paint<'a>(self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> Cow<'_, str> {
        self.paint("1", text)
    }

    /// What matters less.
    pub(crate) fn dim(self, text: &str) -> Cow<'_, str> {
        self.paint("2", text)
    }

    /// What is right.
    pub(crate) fn good(self, text: &str) -> Cow<'_, str> {
        self.paint("32", text)
    }

    /// What deserves a look.
    pub(crate) fn warn(self, text: &str) -> Cow<'_, str> {
        self.paint("33", text)
    }

    /// What is wrong.
    pub(crate) fn bad(self, text: &str) -> Cow<'_, str> {
        self.paint("31", text)
    }
}

impl Output {
    /// The program's output as the user wants it.
    pub(crate) fn new(general: &General) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let style = |terminal: bool| match general.color {
            ColorChoice::Auto => Style(terminal && !no_color && !dumb),
            ColorChoice::Always => Style(true),
            ColorChoice::Never => Style(false),
        };
        Self {
            json: general.json,
            verbose: general.verbose,
            style: style(stdout_is_terminal),
            note_style: style(stderr_is_terminal),
            stdout_is_terminal,
            stderr_is_terminal,
        }
    }

    /// A line of results.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.write_all(b"\n")?)
    }

    /// A piece of text that a model wrote, shown at once. On a terminal, control characters do nothing.
    pub(crate) fn stream(&mut self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let text = if self.stdout_is_terminal { without_controls(text) } else { text.into() };
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// A JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &serde_json::Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// A remark on standard error.
    pub(crate) fn note(&mut self, text: &str) {
        let text = self.note_style.dim(text);
        // A remark that can't be shown is no reason to stop.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A warning on standard error.
    pub(crate) fn warning(&mut self, text: &str) {
        let word = self.note_style.warn("warning:");
        let _ = writeln!(io::stderr(), "{word} {text}");
    }

    /// An error and its causes, on one line of standard error.
    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        let mut text = String::new();
        for cause in error.chain().map(ToString::to_string) {
            // Errors that quote their cause are not said twice.
            if text.is_empty() {
                text = cause;
            } else if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        let word = self.note_style.bad("error:");
        let text = without_controls(&text).replace('\n', " ");
        let _ = writeln!(io::stderr(), "{word} {text}");
    }

    /// Progress on standard error, if the work takes a while: a line that overwrites itself on a terminal, a line now and then
    /// elsewhere.
    pub(crate) fn progress(&self, what: &'static str) -> Progress {
        Progress { what, visible: self.stderr_is_terminal, shown: None, start: Instant::now() }
    }

    /// Writes what is still held back.
    pub(crate) fn finish(&mut self) -> Result<()> {
        Ok(io::stdout().flush()?)
    }

    /// Whether standard output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Whether standard error is a terminal.
    pub(crate) fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }
}

/// A line of progress that overwrites itself.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    visible: bool,
    shown: Option<Instant>,
    start: Instant,
}

impl Progress {
    /// That `done` of `all` are done.
    pub(crate) fn update(&mut self, done: usize, all: usize) {
        if self.is_due() {
            let percent = 100 * done / all.max(1);
            self.show(&format!("{done}/{all} ({percent} %)"));
        }
    }

    /// That `done` of `all` bytes are done, with the rate and the time that is left at this rate.
    pub(crate) fn update_bytes(&mut self, done: u64, all: u64) {
        if !self.is_due() {
            return;
        }
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let rate = done as f64 / seconds;
        let left = if done > 0 { (all.saturating_sub(done)) as f64 / rate } else { f64::INFINITY };
        let left = if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
        let (shown, total, rate) = (bytes(done), bytes(all), bytes(rate as u64));
        let filled = (done as f64 / all.max(1) as f64 * BAR as f64) as usize;
        let bar = "#".repeat(filled.min(BAR)) + &"-".repeat(BAR.saturating_sub(filled));
        let bar = if self.visible { format!("[{bar}] ") } else { String::new() };
        self.show(&format!("{bar}{shown} of {total}, {rate}/s{left}"));
    }

    /// Whether it is time to show something.
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
            let _ = write!(io::stderr(), "\r\x1b[K{} {text}", self.what);
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

/// Whether the reader of standard output has gone.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Text whose control characters, other than line breaks and tabs, are shown as symbols: names and texts that come
/// from files and models must not command the terminal.
pub(crate) fn without_controls(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(commands) {
        return text.into();
    }
    let shown = |c: char| match c {
        c if !commands(c) => c,
        '\x7f' => '\u{2421}',
        c => char::from_u32(0x2400 + c as u32).filter(|_| (c as u32) < 0x20).unwrap_or('\u{fffd}'),
    };
    text.chars().map(shown).collect::<String>().into()
}

/// A count with its noun: `1 token`, `2 tokens`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A single-precision number for JSON, with the digits that it has: 0.7, not 0.699999988079071.
pub(crate) fn number(value: f32) -> serde_json::Value {
    value.to_string().parse::<f64>().ok().into()
}

/// A rate, or that there was nothing to measure.
pub(crate) fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// A paragraph broken into lines of at most `width` characters.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if used > 0 {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!(number(0.7).to_string(), "0.7");
        assert_eq!(number(1e-5).to_string(), "0.00001");
        assert_eq!(number(f32::NAN), serde_json::Value::Null);
    }

    #[test]
    fn control_characters_lose_their_power() {
        assert_eq!(without_controls("a\n\tb é"), "a\n\tb é");
        assert_eq!(without_controls("\x1b[2J\x7f\u{9b}"), "\u{241b}[2J\u{2421}\u{fffd}");
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("extraordinary", 5), ["extraordinary"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
