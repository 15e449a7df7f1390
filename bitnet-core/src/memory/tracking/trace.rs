//! Timelines written out: for trace viewers that read Chrome's format, and as a line of JSON for each event.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::{EventKind, Timeline, TimelineEvent, threads};

impl Timeline {
    /// Writes the timeline in Chrome's trace format: the bytes alive as a
    /// counter, each event as an instant on its thread.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_chrome_trace(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
        for number in self.events.iter().map(|event| event.thread).collect::<BTreeSet<_>>() {
            write!(
                out,
                "{{\"ph\":\"M\",\"pid\":1,\"tid\":{number},\"name\":\"thread_name\",\"args\":{{\"name\":"
            )?;
            write_string(out, &threads::name(number))?;
            out.write_all(b"}},\n")?;
        }
        for (event, level) in self.events.iter().zip(self.levels()) {
            let (name, thread) = (kind_name(event.kind), event.thread);
            let time = Microseconds(event.nanoseconds);
            write!(
                out,
                "{{\"ph\":\"C\",\"pid\":1,\"ts\":{time},\"name\":\"live bytes\",\"args\":{{\"bytes\":{level}}}}},\n{{\"ph\":\"i\",\"s\":\"t\",\"pid\":1,\"tid\":{thread},\"ts\":{time},\"name\":\"{name}\",\"args\":{{"
            )?;
            write_details(out, event)?;
            out.write_all(b"}},\n")?;
        }
        // JSON allows no comma at the end: the last element has the number of dropped events.
        let Self { before, dropped, sampled, .. } = self;
        write!(
            out,
            "{{\"ph\":\"M\",\"pid\":1,\"name\":\"timeline\",\"args\":{{\"bytes_before\":{before},\"dropped\":{dropped},\"sampled\":{sampled}}}}}\n]}}\n"
        )
    }

    /// Writes each event as a line of JSON: `sequence`, `nanoseconds`, `event`, `level` (bytes alive after it),
    /// `thread` and the description of the block.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json_lines(&self, out: &mut impl Write) -> io::Result<()> {
        for (event, level) in self.events.iter().zip(self.levels()) {
            let TimelineEvent { sequence, nanoseconds, thread, kind, .. } = *event;
            let name = kind_name(kind);
            write!(
                out,
                "{{\"sequence\":{sequence},\"nanoseconds\":{nanoseconds},\"event\":\"{name}\",\"level\":{level},\"thread\":{thread},"
            )?;
            write_details(out, event)?;
            out.write_all(b"}\n")?;
        }
        Ok(())
    }
}

/// Nanoseconds, printed as microseconds.
struct Microseconds(u64);

impl std::fmt::Display for Microseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Allocated => "allocated",
        EventKind::Freed => "freed",
    }
}

/// The fields of an object that describe the block.
fn write_details(out: &mut impl Write, event: &TimelineEvent) -> io::Result<()> {
    let TimelineEvent { bytes, class_bytes, purpose, .. } = event;
    write!(out, "\"bytes\":{bytes},\"class_bytes\":{class_bytes},\"purpose\":\"{purpose}\"")?;
    if let Some(site) = event.site {
        out.write_all(b",\"file\":")?;
        write_string(out, site.file())?;
        write!(out, ",\"line\":{}", site.line())?;
    }
    Ok(())
}

/// A string of JSON, in quotes.
fn write_string(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            c => write!(out, "{c}")?,
        }
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json() {
        for (text, json) in [
            ("", r#""""#),
            ("src/a.rs", r#""src/a.rs""#),
            (r#"C:\a "b""#, r#""C:\\a \"b\"""#),
            ("\0\n\u{7f}\u{9f}", r#""\u0000\u000a\u007f\u009f""#),
            ("Größe 🦀", r#""Größe 🦀""#),
        ] {
            let mut out = Vec::new();
            write_string(&mut out, text).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
    }
}
