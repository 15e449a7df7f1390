//! Progress on standard error: a bar on a terminal, lines otherwise.

use std::io::{self, Write};

use crate::output::Output;

/// Width of the bar in characters.
const WIDTH: usize = 24;

/// The progress of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Finished steps.
    pub(crate) done: usize,
    /// All steps.
    pub(crate) all: usize,
    what: String,
    terminal: bool,
}

impl Progress {
    /// Creates the progress of a run with `all` steps.
    pub(crate) fn new(all: usize, output: &Output) -> Self {
        Self { done: 0, all, what: String::new(), terminal: output.stderr_is_terminal }
    }

    /// Reports the start of `what`.
    pub(crate) fn begin(&mut self, what: &str, output: &mut Output) {
        what.clone_into(&mut self.what);
        if self.terminal {
            self.draw();
        } else {
            output.note(&format!("{}/{}: {what}", self.done + 1, self.all));
        }
    }

    /// Reports a finished step.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        if self.terminal {
            self.draw();
        }
    }

    /// Clears the bar, so that a line can be printed.
    pub(crate) fn clear(&self) {
        if self.terminal {
            // A failure to print progress is not an error.
            let _ = write!(io::stderr(), "\r\x1b[K");
            let _ = io::stderr().flush();
        }
    }

    fn draw(&self) {
        let _ = write!(
            io::stderr(),
            "\r\x1b[K[{}] {}/{} {}",
            bar(self.done, self.all),
            self.done,
            self.all,
            self.what
        );
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: usize, all: usize) -> String {
    let full = (WIDTH * done.min(all)).checked_div(all).unwrap_or(WIDTH);
    format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows() {
        assert_eq!(bar(0, 4), "-".repeat(24));
        assert_eq!(bar(1, 4), format!("{}{}", "#".repeat(6), "-".repeat(18)));
        assert_eq!(bar(9, 4), "#".repeat(24));
        assert_eq!(bar(0, 0).len(), 24);
    }
}
