//! The stream and its queue.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use super::event::this_stream;
use super::worker::{self, Command, Completion};
use super::{Event, Pending};
use crate::device::{Device, copy_tensor};
use crate::memory::DeviceSpecificPools;
use crate::memory::tensor::BitNetTensor;
use crate::sync::lock;
use crate::{Error, Result};

/// Tasks that run in order on one thread, which starts and ends with the stream.
///
/// Several threads may submit to one stream. The queue is unbounded: each waiting task owns its captures.
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

    /// Appends a task to the stream. The event ends with the task.
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
            *lock(&slot) = Some(value);
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

    /// Makes tasks that are submitted later wait for the event. If its task failed, they are skipped. Does not block.
    pub fn wait_for(&self, event: &Event) {
        self.send(Command::WaitFor(event.clone()));
    }

    /// Waits until all tasks submitted before have ended. An error is returned once: tasks submitted later run again.
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
        // A command that is not received is dropped with its completion, which ends the event with an error.
        if let Some(queue) = &self.queue {
            let _ = queue.send(command);
        }
    }
}

impl Drop for Stream {
    /// Waits for the submitted tasks. If the last owner is a task of this stream, the thread is detached and ends after
    /// the last task.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(worker) = self.worker.take()
            && this_stream() != Some(self.number)
        {
            // The worker catches panics of tasks and reports them in their events.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} on {})", self.number, self.device)
    }
}
