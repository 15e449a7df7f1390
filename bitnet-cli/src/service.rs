//! Notices to a service manager (systemd's `NOTIFY_SOCKET`), and the limit of open files. Nothing happens elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitnet_server::EngineWatch;

/// Tells a service manager what the server does.
#[derive(Debug)]
pub(crate) struct Notices {
    watch: EngineWatch,
    /// How often the manager is told that the engine works; `None` if it does not ask.
    interval: Option<Duration>,
    next: std::sync::Mutex<std::time::Instant>,
    is_stopping: AtomicBool,
}

impl Notices {
    /// Says that requests are taken.
    pub(crate) fn ready(watch: EngineWatch, status: &str) -> Self {
        notify::ready(status);
        // Half the time, as systemd advises.
        let interval = notify::watchdog().map(|time| time / 2);
        Self {
            watch,
            interval,
            next: std::sync::Mutex::new(std::time::Instant::now()),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// Says that the engine works, whenever that is due; an engine that hangs is not vouched for.
    pub(crate) fn tick(&self) {
        let Some(interval) = self.interval else { return };
        let now = std::time::Instant::now();
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now >= *next {
            *next = now + interval;
            if self.watch.is_alive() {
                notify::alive();
            }
        }
    }

    /// Says, the first time, that the server ends.
    pub(crate) fn stopping(&self) {
        if !self.is_stopping.swap(true, Ordering::SeqCst) {
            notify::stopping();
        }
    }
}

#[cfg(target_os = "linux")]
mod notify {
    use std::time::Duration;

    use sd_notify::NotifyState;

    // A manager that is gone is told nothing; the server goes on.
    pub(super) fn ready(status: &str) {
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub(super) fn alive() {
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }

    pub(super) fn stopping() {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    }

    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

#[cfg(not(target_os = "linux"))]
mod notify {
    use std::time::Duration;

    pub(super) fn ready(_: &str) {}

    pub(super) fn alive() {}

    pub(super) fn stopping() {}

    pub(super) fn watchdog() -> Option<Duration> {
        None
    }
}

/// Raises the limit of open files so that there may be so many connections, and returns how many there may be.
#[cfg(unix)]
pub(crate) fn connections(most: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files that are open beside connections: the model, standard streams, the runtime's.
    const OTHERS: u64 = 64;
    let wanted = most as u64 + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return most;
    }
    let raised = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    let new = Rlimit { current: Some(raised), maximum: limit.maximum };
    let files = if setrlimit(Resource::Nofile, new).is_ok() { raised } else { current };
    (files.saturating_sub(OTHERS) as usize).clamp(1, most)
}

/// Returns the connections that are wanted.
#[cfg(not(unix))]
pub(crate) fn connections(most: usize) -> usize {
    most
}
