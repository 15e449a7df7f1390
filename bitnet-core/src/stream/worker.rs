//! The thread of a stream, which runs its commands in order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;

use super::event::{Event, set_this_stream};
use crate::device::{Device, Operation};
use crate::{Error, Result};

pub(super) enum Command {
    /// A task, and its completion.
    Task(Box<dyn FnOnce() -> Result<()> + Send>, Completion),
    /// Wait for the event.
    WaitFor(Event),
    /// Return the first error since the last time, and clear it.
    Settle(Completion),
}

/// Ends an event: if dropped before, with [`Error::StreamEnded`].
pub(super) struct Completion(Event);

impl Completion {
    pub(super) fn new(event: Event) -> Self {
        Self(event)
    }

    fn end(self, outcome: Result<()>) {
        self.0.end(outcome);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.end(Err(Error::StreamEnded));
    }
}

/// Runs the commands until no sender is left.
pub(super) fn run(number: u64, device: &Device, commands: &Receiver<Command>) {
    set_this_stream(number);
    let mut failed: Option<Error> = None;
    for command in commands {
        match command {
            Command::Task(task, completion) => {
                let outcome = match &failed {
                    None => done(device, task),
                    Some(cause) => {
                        discard(task);
                        Err(skipped(cause.clone()))
                    }
                };
                if failed.is_none() {
                    failed = outcome.clone().err();
                }
                completion.end(outcome);
            }
            Command::WaitFor(event) => {
                if let Err(error) = event.wait()
                    && failed.is_none()
                {
                    // An event of this stream has ended already, so this is never `StreamWaitsForItself`.
                    failed = Some(skipped(error));
                }
            }
            Command::Settle(completion) => completion.end(failed.take().map_or(Ok(()), Err)),
        }
    }
}

fn done(device: &Device, task: Box<dyn FnOnce() -> Result<()> + Send>) -> Result<()> {
    if let Err(error) = device.begin(Operation::Task) {
        discard(task);
        return Err(error);
    }
    match catch_unwind(AssertUnwindSafe(task)) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let message = message_of(&*payload);
            discard(payload);
            Err(Error::TaskPanicked { device: device.to_string(), message })
        }
    }
}

/// Drops the captures of a task. A panic in that is ignored.
fn discard<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

fn skipped(cause: Error) -> Error {
    match cause {
        Error::TaskSkipped { .. } => cause,
        cause => Error::TaskSkipped { cause: Box::new(cause) },
    }
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "(no message)".into())
}
