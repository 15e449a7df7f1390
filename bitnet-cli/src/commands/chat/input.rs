//! Line input: an editor with a history on a terminal, else standard input.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::input_text::LONGEST_PROMPT;
use crate::output::bytes;

/// Maximum number of history lines.
const HISTORY: usize = 1000;

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its line break.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupt,
    /// Ctrl-D, or the end of the input.
    End,
}

/// The source of lines.
#[derive(Debug)]
pub(crate) enum Input {
    /// A terminal.
    Editor {
        /// The editor.
        editor: Box<DefaultEditor>,
        /// The file of the history.
        history: Option<PathBuf>,
    },
    /// A pipe or a file.
    Plain,
}

impl Input {
    /// Creates an editor if `interactive`.
    pub(crate) fn new(interactive: bool) -> Result<Self> {
        if !interactive {
            return Ok(Self::Plain);
        }
        let config =
            rustyline::Config::builder().max_history_size(HISTORY)?.auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).context("can't use this terminal")?;
        let history = history_file();
        if let Some(path) = &history {
            // The file does not exist before the first chat.
            let _ = editor.load_history(path);
        }
        Ok(Self::Editor { editor: Box::new(editor), history })
    }

    /// Returns the next line.
    pub(crate) fn read(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Self::Editor { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupt),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("can't read from the terminal"),
            },
            Self::Plain => {
                let mut line = Vec::new();
                let mut source = std::io::stdin().lock().take(LONGEST_PROMPT + 1);
                let read = source.read_until(b'\n', &mut line);
                if read.context("can't read standard input")? == 0 {
                    return Ok(Line::End);
                }
                if line.len() as u64 > LONGEST_PROMPT {
                    bail!("a line of standard input has more than {}", bytes(LONGEST_PROMPT));
                }
                let line = String::from_utf8(line).context("standard input is not UTF-8 text")?;
                Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }

    /// Saves the history.
    pub(crate) fn save(&mut self) {
        if let Self::Editor { editor, history: Some(path) } = self {
            // A failure to save the history is not an error.
            let _ = save_history(editor, path);
        }
    }
}

/// Writes the history atomically, readable by its owner only.
fn save_history(editor: &mut DefaultEditor, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let saved = editor.save_history(&temporary).context("can't write the history");
    // An empty history is not written.
    let saved = saved.and_then(|()| match temporary.exists() {
        true => {
            std::fs::File::open(&temporary)?.sync_all()?;
            Ok(std::fs::rename(&temporary, path)?)
        }
        false => Ok(()),
    });
    if saved.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    saved
}

/// Returns `bitnet/chat_history` in the user's state folder.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .or_else(|| folder("HOME").map(|home| home.join(Path::new(".local/state"))))?;
    Some(state.join("bitnet").join("chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bitnet/chat_history");
        let mut editor = DefaultEditor::new().unwrap();
        save_history(&mut editor, &path).unwrap();
        assert!(!path.exists(), "an empty history is not written");
        editor.add_history_entry("first").unwrap();
        save_history(&mut editor, &path).unwrap();
        // A concurrent reader sees a complete file.
        let old = std::fs::File::open(&path).unwrap();
        editor.add_history_entry("second").unwrap();
        save_history(&mut editor, &path).unwrap();
        assert!(!std::io::read_to_string(old).unwrap().contains("second"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("first") && text.contains("second"), "{text}");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // A failed rename leaves no temporary file.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        editor.add_history_entry("third").unwrap();
        assert!(save_history(&mut editor, &path).is_err());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
