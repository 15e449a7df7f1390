//! Handling of Ctrl-C and, on Unix, SIGTERM: they end the program, or stop work that registered a listener.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::output::document;

/// Ctrl-C.
const INTERRUPT: u8 = 2;
/// The signal of `timeout`, service managers and shutdowns.
const TERMINATE: u8 = 15;

static LISTENING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);
/// The last signal; 0 before the first one.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Installs handlers for both signals. A signal ends the program unless a listener exists; a second signal always does.
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

/// Returns the exit code after a signal: 128 plus its number, as in shells.
pub(crate) fn exit_code() -> u8 {
    128 + match SIGNAL.load(Ordering::SeqCst) {
        0 => INTERRUPT,
        signal => signal,
    }
}

/// Returns whether a signal arrived during the last listener's life, even if too late for the work to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Returns whether the last signal was SIGTERM, which ends the program and not only the current work.
pub(crate) fn terminated() -> bool {
    SIGNAL.load(Ordering::SeqCst) == TERMINATE
}

/// A listener: while it lives, the first signal only requests a stop.
#[derive(Debug)]
pub(crate) struct Listener(());

impl Listener {
    /// Registers a listener.
    pub(crate) fn new() -> Self {
        ASKED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Returns whether a signal has arrived.
    pub(crate) fn asked(&self) -> bool {
        asked()
    }

    /// Returns the flag for work that polls it.
    pub(crate) fn flag(&self) -> &'static AtomicBool {
        &ASKED
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}
