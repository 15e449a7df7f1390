//! Events: the ends of tasks.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sync::lock;
use crate::{Error, Result};

thread_local! {
    static THIS_STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes this thread the worker of a stream.
pub(super) fn set_this_stream(number: u64) {
    THIS_STREAM.set(Some(number));
}

/// Returns the stream whose worker this thread is.
pub(super) fn this_stream() -> Option<u64> {
    THIS_STREAM.get()
}

/// The end of a task, with its outcome. Clones are the same event.
#[derive(Clone)]
pub struct Event {
    state: Arc<State>,
}

struct State {
    /// The stream that runs the task, and its device for messages.
    stream: u64,
    device: String,
    outcome: Mutex<Option<Result<()>>>,
    ended: Condvar,
}

impl Event {
    pub(super) fn new(stream: u64, device: String) -> Self {
        let (outcome, ended) = (Mutex::default(), Condvar::new());
        Self { state: Arc::new(State { stream, device, outcome, ended }) }
    }

    /// Whether the task has ended: with success, with an error, or skipped.
    pub fn is_done(&self) -> bool {
        self.outcome().is_some()
    }

    /// Waits for the end of the task.
    ///
    /// # Errors
    /// What the task returned; [`Error::TaskPanicked`], [`Error::TaskSkipped`] or [`Error::StreamEnded`] if it did not
    /// return; [`Error::StreamWaitsForItself`] if this is a task of the same stream.
    pub fn wait(&self) -> Result<()> {
        self.refuse_own_stream()?;
        let mut outcome = self.outcome();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.state.ended.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Event::wait`], for at most `timeout`; `None` if the task has not ended by then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<()>> {
        if let Err(error) = self.refuse_own_stream() {
            return Some(Err(error));
        }
        let ended = &self.state.ended;
        let woken = ended.wait_timeout_while(self.outcome(), timeout, |outcome| outcome.is_none());
        woken.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Ends the task; only the first outcome counts.
    pub(super) fn end(&self, outcome: Result<()>) {
        self.outcome().get_or_insert(outcome);
        self.state.ended.notify_all();
    }

    fn refuse_own_stream(&self) -> Result<()> {
        if this_stream() == Some(self.state.stream) && !self.is_done() {
            return Err(Error::StreamWaitsForItself { device: self.state.device.clone() });
        }
        Ok(())
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Result<()>>> {
        lock(&self.state.outcome)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("outcome", &*self.outcome()).finish_non_exhaustive()
    }
}
