//! Ctrl-C: it ends the program, or stops the work that asked to be stopped.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::output::document;

static LISTENING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C. Unless someone is listening, or if it comes a second time, the program ends with code 130.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if !LISTENING.load(Ordering::SeqCst) || ASKED.swap(true, Ordering::SeqCst) {
            document::interrupt();
            std::process::exit(130);
        }
    })
    .context("can't listen for Ctrl-C")
}

/// Whether Ctrl-C came while the last listener lived, even if it came too late for the work to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// While it lives, Ctrl-C only asks to stop.
#[derive(Debug)]
pub(crate) struct Listener(());

impl Listener {
    /// Begins to listen.
    pub(crate) fn new() -> Self {
        ASKED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C has come.
    pub(crate) fn asked(&self) -> bool {
        asked()
    }

    /// The flag itself, for work that watches it.
    pub(crate) fn flag(&self) -> &'static AtomicBool {
        &ASKED
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}
