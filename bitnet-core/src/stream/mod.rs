//! Streams: tasks that run asynchronously, in order, on a thread per stream.
//!
//! A [`Stream`] runs its tasks in the order in which they were submitted. Streams run concurrently, and an [`Event`]
//! orders them where needed:
//!
//! ```
//! use bitnet_core::device::get_cpu_device;
//! use bitnet_core::stream::Stream;
//!
//! let (loads, computes) = (Stream::new(&get_cpu_device())?, Stream::new(&get_cpu_device())?);
//! let loaded = loads.run(|| Ok(vec![1.0f32; 1000]));
//! let ready = loaded.event().clone();
//! computes.wait_for(&ready);
//! let sum = computes.run(move || Ok(loaded.wait()?.iter().sum::<f32>()));
//! assert_eq!(sum.wait()?, 1000.0);
//! loads.synchronize()?;
//! # Ok::<(), bitnet_core::Error>(())
//! ```
//!
//! Guarantees:
//!
//! - The effects of a task are visible to threads that wait for its event, and to tasks after [`Stream::wait_for`].
//! - When a task returns an error or panics, the tasks after it are skipped, in this stream and in those that wait for
//!   it, until [`Stream::synchronize`] returns the error. Their events carry the cause.
//! - A stream waits only for events of tasks that were submitted before: streams can't wait for one another in a
//!   circle. A task that waits for its own stream gets an error. A task that blocks until another stream is done blocks
//!   its own stream, and deadlocks if that one waits for it: order tasks with [`Stream::wait_for`] instead.
//! - Dropping a stream waits for the submitted tasks.
//! - Every event ends: waiting for a task that will not run returns an error.

mod event;
mod pending;
mod queue;
mod worker;

pub use event::Event;
pub use pending::Pending;
pub use queue::Stream;

#[cfg(test)]
mod tests;
