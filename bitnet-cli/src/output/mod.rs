//! Terminal output: styles, tables, streamed text, progress and errors.

pub(crate) mod document;
mod progress;
mod wrap;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
pub(crate) use bitnet_core::memory::units::bytes;
use terminal_size::{Width, terminal_size_of};

use crate::args::general::{ColorChoice, General};
pub(crate) use progress::Progress;
pub(crate) use wrap::wrap;
use wrap::{StreamWrap, wrap_lines};

/// Width of the column of labels.
pub(crate) const LABEL: usize = 14;
/// Width of a line.
pub(crate) const WIDTH: usize = 100;

/// Standard output and standard error with their properties.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether results are JSON.
    pub(crate) json: bool,
    /// Whether to print more details.
    pub(crate) verbose: bool,
    /// Styles for standard output.
    pub(crate) style: Style,
    /// Styles for standard error.
    pub(crate) note_style: Style,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Streamed text on a terminal.
    stream: StreamWrap,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style(bool);

impl Style {
    fn paint<'a>(self, code: &str, text: &'a str) -> Cow<'a, str> {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m").into() } else { text.into() }
    }

    /// Styles a heading.
    pub(crate) fn bold(self, text: &str) -> Cow<'_, str> {
        self.paint("1", text)
    }

    /// Styles less important text.
    pub(crate) fn dim(self, text: &str) -> Cow<'_, str> {
        self.paint("2", text)
    }

    /// Styles a success.
    pub(crate) fn good(self, text: &str) -> Cow<'_, str> {
        self.paint("32", text)
    }

    /// Styles a warning.
    pub(crate) fn warn(self, text: &str) -> Cow<'_, str> {
        self.paint("33", text)
    }

    /// Styles an error.
    pub(crate) fn bad(self, text: &str) -> Cow<'_, str> {
        self.paint("31", text)
    }
}

impl Output {
    /// Creates the output from the user's options.
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
            stream: StreamWrap::default(),
        }
    }

    /// Prints a line of results, wrapped between words on a terminal.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.end_stream()?;
        match self.stdout_width() {
            Some(width) => print_line(&wrap_lines(text, width)),
            None => print_line(text),
        }
    }

    /// Prints an empty line and the heading of a section.
    pub(crate) fn heading(&mut self, text: &str) -> Result<()> {
        self.line("")?;
        self.line(&self.style.bold(text))
    }

    /// Prints a section of items, if there are any.
    pub(crate) fn section(&mut self, heading: &str, items: &[String]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        self.heading(heading)?;
        for item in items {
            for (index, line) in wrap(&without_controls(item), WIDTH - 4).iter().enumerate() {
                self.line(&format!("  {} {line}", if index == 0 { "-" } else { " " }))?;
            }
        }
        Ok(())
    }

    /// Prints a line for programs or for copying, which is never wrapped.
    pub(crate) fn verbatim(&mut self, text: &str) -> Result<()> {
        self.end_stream()?;
        print_line(text)
    }

    /// Prints a piece of generated text immediately. On a terminal, text is wrapped between words, which delays the
    /// last word until it is complete, and control characters are shown as symbols.
    pub(crate) fn stream(&mut self, text: &str) -> Result<()> {
        let text = match self.stdout_width() {
            Some(width) => self.stream.push(&without_controls(text), width).into(),
            None if self.stdout_is_terminal => without_controls(text),
            None => text.into(),
        };
        print(&text)
    }

    /// Prints a piece of generated text like [`Self::stream`], dimmed.
    pub(crate) fn stream_dim(&mut self, text: &str) -> Result<()> {
        let text: Cow<'_, str> = match self.stdout_width() {
            Some(width) => self.stream.push(&without_controls(text), width).into(),
            None if self.stdout_is_terminal => without_controls(text),
            None => text.into(),
        };
        if text.is_empty() { Ok(()) } else { print(&self.style.dim(&text)) }
    }

    /// Prints the delayed word of a dimmed stream.
    pub(crate) fn end_stream_dim(&mut self) -> Result<()> {
        let text = self.stdout_width().map(|width| self.stream.flush(width)).unwrap_or_default();
        if text.is_empty() { Ok(()) } else { print(&self.style.dim(&text)) }
    }

    /// Prints the delayed word of a stream.
    pub(crate) fn end_stream(&mut self) -> Result<()> {
        match self.stdout_width() {
            Some(width) => print(&self.stream.flush(width)),
            None => Ok(()),
        }
    }

    /// Writes the JSON document of a command: one value on its own line.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> Result<()> {
        Ok(document::write(&serde_json::to_string(value)?)?)
    }

    /// Writes one of several JSON values, each on its own line.
    pub(crate) fn json_line(&mut self, value: &serde_json::Value) -> Result<()> {
        Ok(document::write_line(&value.to_string())?)
    }

    /// Prints a remark on standard error.
    pub(crate) fn note(&mut self, text: &str) {
        self.remark(&self.note_style.dim(text));
    }

    /// Prints a warning on standard error.
    pub(crate) fn warning(&mut self, text: &str) {
        let text = format!("{} {text}", self.note_style.warn("warning:"));
        self.remark(&text);
    }

    fn remark(&mut self, text: &str) {
        // A failure to print a remark, or the text before it, is not an error here: the next write reports it.
        let _ = self.end_stream();
        let width = terminal_width(&io::stderr()).filter(|_| self.stderr_is_terminal);
        let text = width.map_or(text.into(), |width| wrap_lines(text, width));
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints an error and its causes on one line of standard error.
    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        let text = in_one_line(error);
        let label = self.note_style.bad("error:");
        self.remark(&format!("{label} {}", without_controls(&text)));
    }

    /// Replaces the line of a folded text on standard error, if that is a terminal; an empty text removes it.
    pub(crate) fn fold_line(&mut self, text: &str) {
        if self.stderr_is_terminal {
            // A failure to print a remark is not an error here: the next write reports it.
            let _ = write!(io::stderr(), "\r\x1b[K{}", self.note_style.dim(text));
            let _ = io::stderr().flush();
        }
    }

    /// Returns a progress display on standard error for long work: a self-overwriting line on a terminal, occasional
    /// lines elsewhere.
    pub(crate) fn progress(&self, what: &str) -> Progress {
        Progress::new(what, self.stderr_is_terminal)
    }

    /// Prints all delayed text.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.end_stream()?;
        Ok(io::stdout().flush()?)
    }

    /// Returns the columns of standard output, if it is a terminal.
    fn stdout_width(&self) -> Option<usize> {
        terminal_width(&io::stdout()).filter(|_| self.stdout_is_terminal)
    }
}

/// Returns the columns of a terminal; `None` if it is not a terminal or the width is unknown.
#[cfg(unix)]
fn terminal_width(stream: &impl std::os::fd::AsFd) -> Option<usize> {
    terminal_size_of(stream).map(|(Width(columns), _)| usize::from(columns)).filter(|&n| n > 0)
}

/// Returns the columns of a terminal; `None` if it is not a terminal or the width is unknown.
#[cfg(windows)]
fn terminal_width(stream: &impl std::os::windows::io::AsHandle) -> Option<usize> {
    terminal_size_of(stream).map(|(Width(columns), _)| usize::from(columns)).filter(|&n| n > 0)
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn print_line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.write_all(b"\n")?)
}

/// Returns an error and its causes in one line. A cause quoted by the error is not repeated.
pub(crate) fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

/// Returns whether the error is a closed standard output.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Replaces control characters except line breaks and tabs by symbols, because names and texts from files and models
/// must not control the terminal.
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

/// Returns a count with its noun: `1 token`, `2 tokens`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns the text of a value, or a placeholder.
pub(crate) fn or_unavailable<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unavailable".into(), |v| v.to_string())
}

/// Returns a single-precision number for JSON with its shortest digits: 0.7, not 0.699999988079071.
pub(crate) fn number(value: f32) -> serde_json::Value {
    value.to_string().parse::<f64>().ok().into()
}

/// Returns a rate, or a placeholder if nothing was measured.
pub(crate) fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// Prints a label and its text, wrapped under itself.
pub(crate) fn row(output: &mut Output, label: &str, text: &str) -> Result<()> {
    let mut label = label;
    for line in wrap(&without_controls(text), WIDTH - LABEL - 4) {
        let padded = format!("{label:<LABEL$}");
        output.line(&format!("  {}  {line}", output.style.dim(&padded)))?;
        label = "";
    }
    Ok(())
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
}
