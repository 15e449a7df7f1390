//! The stream itself: what is submitted to it, and in which order it is done.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::event::this_stream;
use super::worker::{self, Command, Completion};
use super::{Event, Pending};
use crate::device::{Device, copy_tensor};
use crate::memory::DeviceSpecificPools;
use crate::memory::tensor::BitNetTensor;
use crate::{Error, Result};

/// Work that is done in order, on one thread of its own, which starts with the stream and ends with it.
///
/// Several threads may submit to one stream. The queue has no bound of its own: each task that waits takes the memory
/// of what it captured.
pub struct Stream {
    device: Device,
    number: u64,
    /// `None` only while the stream is dropped.
    queue: Option<Sender<Command>>,
    worker: Option<JoinHandle<()>>,
}

impl Stream {
    /// A stream of work on `device`.
    ///
    /// # Errors
    /// [`Error::ThreadNotStarted`] if the system refuses a thread.
    pub fn new(device: &Device) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (queue, commands) = channel();
        let for_worker = device.clone();
        let worker = Builder::new()
            .name(format!("stream-{number}"))
            .spawn(move || worker::run(number, &for_worker, &commands))
            .map_err(|error| Error::ThreadNotStarted {
                what: "a stream",
                problem: error.to_string(),
            })?;
        Ok(Self { device: device.clone(), number, queue: Some(queue), worker: Some(worker) })
    }

    /// The device that the stream works on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a task at the end of the stream. The event comes when it has ended.
    pub fn submit<F>(&self, task: F) -> Event
    where
        F: FnOnce() -> Result<()> + Send + 'static,
    {
        let event = self.event();
        self.send(Command::Task(Box::new(task), Completion::new(event.clone())));
        event
    }

    /// Adds a task that returns a value.
    pub fn run<T, F>(&self, task: F) -> Pending<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let value = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&value);
        let event = self.submit(move || {
            let value = task()?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        });
        Pending::new(event, value)
    }

    /// Adds a copy of a tensor to the device `to`: see [`copy_tensor`].
    pub fn copy_tensor(
        &self,
        tensor: &BitNetTensor,
        to: &Device,
        pools: &DeviceSpecificPools,
    ) -> Pending<BitNetTensor> {
        let (tensor, to, pools) = (tensor.clone(), to.clone(), pools.clone());
        self.run(move || copy_tensor(&tensor, &to, &pools))
    }

    /// Tasks that are submitted after this start only when the event has come. If its task failed, they are skipped.
    /// The caller does not wait.
    pub fn wait_for(&self, event: &Event) {
        self.send(Command::WaitFor(event.clone()));
    }

    /// Waits until everything submitted before has ended. An error is returned once: tasks submitted after that run again.
    ///
    /// # Errors
    /// That of the first task that failed; [`Error::TaskSkipped`] if that was a task of another stream;
    /// [`Error::StreamWaitsForItself`] in a task of this stream.
    pub fn synchronize(&self) -> Result<()> {
        if this_stream() == Some(self.number) {
            return Err(Error::StreamWaitsForItself { device: self.device.to_string() });
        }
        let event = self.event();
        self.send(Command::Settle(Completion::new(event.clone())));
        event.wait()
    }

    fn event(&self) -> Event {
        Event::new(self.number, self.device.to_string())
    }

    fn send(&self, command: Command) {
        // A command that is not taken is dropped with its completion, which ends the event with an error.
        if let Some(queue) = &self.queue {
            let _ = queue.send(command);
        }
    }
}

impl Drop for Stream {
    /// Finishes what was submitted. If the last owner is a task of this very stream, the thread goes on alone and ends
    /// after the last task.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(worker) = self.worker.take()
            && this_stream() != Some(self.number)
        {
            // The worker catches panics of tasks, and their events carry them.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} on {})", self.number, self.device)
    }
}
