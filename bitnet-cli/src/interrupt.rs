//! Ctrl-C and, on Unix, SIGTERM: they end the program, or stop the work that asked to be stopped.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::output::document;

/// Ctrl-C.
const INTERRUPT: u8 = 2;
/// What `timeout`, service managers and shutdowns send.
const TERMINATE: u8 = 15;

static LISTENING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);
/// The last signal; 0 before the first one.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Takes over both signals. Unless someone is listening, or if it is the second one, a signal ends the program.
pub(crate) fn install() -> Result<()> {
    listen(|signal| {
        SIGNAL.store(signal, Ordering::SeqCst);
        if !LISTENING.load(Ordering::SeqCst) || ASKED.swap(true, Ordering::SeqCst) {
            document::interrupt();
            std::process::exit(exit_code().into());
        }
    })
    .context("can't listen for signals")
}

#[cfg(unix)]
fn listen(handle: impl Fn(u8) + Send + 'static) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([INTERRUPT, TERMINATE].map(i32::from))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            handle(u8::try_from(signal).unwrap_or(INTERRUPT));
        }
    })?;
    Ok(())
}

#[cfg(not(unix))]
fn listen(handle: impl Fn(u8) + Send + 'static) -> Result<()> {
    Ok(ctrlc::set_handler(move || handle(INTERRUPT))?)
}

/// The exit code of a program that a signal ended: 128 and its number, as shells count.
pub(crate) fn exit_code() -> u8 {
    128 + match SIGNAL.load(Ordering::SeqCst) {
        0 => INTERRUPT,
        signal => signal,
    }
}

/// Whether a signal came while the last listener lived, even if it came too late for the work to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Whether the last signal was not the user's Ctrl-C: the program is to end, not only what it does.
pub(crate) fn terminated() -> bool {
    SIGNAL.load(Ordering::SeqCst) == TERMINATE
}

/// While it lives, the first signal only asks to stop.
#[derive(Debug)]
pub(crate) struct Listener(());

impl Listener {
    /// Begins to listen.
    pub(crate) fn new() -> Self {
        ASKED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether a signal has come.
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
