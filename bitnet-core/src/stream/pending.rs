//! Pending values of tasks.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Event;
use crate::sync::lock;
use crate::{Error, Result};

/// The value that a task will return.
#[must_use]
pub struct Pending<T> {
    event: Event,
    value: Slot<T>,
}

pub(super) type Slot<T> = Arc<Mutex<Option<T>>>;

impl<T> Pending<T> {
    pub(super) fn new(event: Event, value: Slot<T>) -> Self {
        Self { event, value }
    }

    /// The end of the task, to wait for without the value.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Whether the task has ended.
    pub fn is_done(&self) -> bool {
        self.event.is_done()
    }

    /// Waits for the value.
    ///
    /// # Errors
    /// As [`Event::wait`].
    pub fn wait(self) -> Result<T> {
        self.event.wait()?;
        let value = lock(&self.value).take();
        value.ok_or(Error::StreamEnded)
    }

    /// Waits for the value for at most `timeout`.
    ///
    /// # Errors
    /// This pending value if the task has not ended by then. The inner result is that of [`Pending::wait`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T>, Self> {
        match self.event.wait_timeout(timeout) {
            None => Err(self),
            Some(Ok(())) => Ok(self.wait()),
            Some(Err(error)) => Ok(Err(error)),
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("event", &self.event).finish_non_exhaustive()
    }
}
