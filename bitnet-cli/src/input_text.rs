//! Input texts: prompts, files and standard input, with size limits.

use std::fs::{File, FileType, Metadata};
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::args::text::TextArgs;
use crate::output::bytes;

/// Maximum size of a prompt in bytes.
pub(crate) const LONGEST_PROMPT: u64 = 64 << 20;
/// Maximum size of a text for measurements and calibration in bytes.
pub(crate) const LONGEST_TEXT: u64 = 256 << 20;
/// Maximum size of templates, ranges, conversations and run files in bytes.
pub(crate) const LONGEST_SETTINGS: u64 = 64 << 20;

/// Returns the text of a command line: its words joined by spaces, `--prompt`, `--file`, or standard input.
///
/// # Errors
/// If there is none, or it can't be read, is too long or not UTF-8.
pub(crate) fn prompt(args: &TextArgs) -> Result<String> {
    if let Some(text) = &args.prompt {
        return Ok(text.clone());
    }
    if let Some(path) = &args.file {
        return Ok(without_last_break(read_text(path, LONGEST_PROMPT)?));
    }
    match args.words.as_slice() {
        [] if std::io::stdin().is_terminal() => {
            bail!("there is no text: add one, as in: bitnet run \"Once upon a time\"")
        }
        [] => {
            let text = without_last_break(read_text(Path::new("-"), LONGEST_PROMPT)?);
            if text.is_empty() {
                bail!("there is no text: there is no argument and standard input is empty");
            }
            Ok(text)
        }
        [only] if only == "-" => Ok(without_last_break(read_text(Path::new("-"), LONGEST_PROMPT)?)),
        words => Ok(words.join(" ")),
    }
}

/// Reads a text of at most `most` bytes; `-` is standard input.
///
/// # Errors
/// If it can't be read, is too long or not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String> {
    let bytes = read(path, most)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is not UTF-8 text (byte {at})", shown(path))
    })
}

/// Reads a file or a pipe of at most `most` bytes; `-` is standard input.
///
/// # Errors
/// If it can't be read, is too long, or is a folder, a device or a socket.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = || format!("can't read {}", shown(path));
    if is_standard_input(path) {
        return bounded(std::io::stdin().lock(), path, most);
    }
    let data = std::fs::metadata(path).with_context(failed)?;
    if let Some(what) = no_file(data.file_type()) {
        bail!("{} is {what}; use a file, a pipe or -", shown(path));
    }
    check_length(&data, path, most)?;
    bounded(File::open(path).with_context(failed)?, path, most)
}

fn check_length(data: &Metadata, path: &Path, most: u64) -> Result<()> {
    if data.len() > most {
        let (length, most) = (bytes(data.len()), bytes(most));
        bail!("{} has {length}; the limit is {most}: use a part of it", shown(path));
    }
    Ok(())
}

fn bounded(source: impl Read, path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    let read = source.take(most.saturating_add(1)).read_to_end(&mut contents);
    read.with_context(|| format!("can't read {}", shown(path)))?;
    if contents.len() as u64 > most {
        bail!("{} has more than {}; use a part of it", shown(path), bytes(most));
    }
    Ok(contents)
}

/// Describes a path that is neither a file nor a pipe.
fn no_file(kind: FileType) -> Option<&'static str> {
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_char_device() || kind.is_block_device() {
            return Some("a device");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    None
}

fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

fn shown(path: &Path) -> String {
    if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() }
}

fn without_last_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(read(&path, 4).unwrap_err().to_string().contains("the limit is 4 B"));
        assert!(read(folder.path(), 4).unwrap_err().to_string().contains("is a folder"));
        assert!(bounded(std::io::repeat(0), &path, 9).is_err());
        assert!(read(&folder.path().join("none"), 4).is_err());
    }

    #[test]
    fn one_line_break_at_the_end_is_left_out() {
        for (text, expected) in [("a\n\n", "a\n"), ("a\r\n", "a"), ("\n", ""), ("a", "a")] {
            assert_eq!(without_last_break(text.to_owned()), expected, "{text:?}");
        }
    }
}
