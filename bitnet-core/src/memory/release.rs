//! What a cleanup asks of the state of a pool: to give free memory back, to empty sparse memory, to tell of use.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::MemoryHandle;
use super::arena::past;
use super::cleanup::{Released, Signal};
use super::core::Core;
use super::thread_cache::FLUSH;

thread_local! {
    /// Whether callbacks wait: this thread holds something that they might want.
    static CALLBACKS_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, during which this thread observes no pressure and so calls no callbacks: `work` allocates while a tensor is
/// locked that a callback might read.
pub(super) fn without_callbacks<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            CALLBACKS_WAIT.set(self.0);
        }
    }
    let _restore = Restore(CALLBACKS_WAIT.replace(true));
    work()
}

/// Whether callbacks are not to be called by this thread now.
pub(super) fn callbacks_wait() -> bool {
    CALLBACKS_WAIT.get()
}

impl Core {
    /// Gives memory that nobody uses back to the system until the deadline; what left memory, by the system's word. What
    /// other threads keep for themselves follows when they next call.
    pub(super) fn release(&self, deadline: Option<Instant>) -> Released {
        self.call(FLUSH);
        let _ = self.cache();
        self.small.drain(deadline);
        let mut gone = Released {
            recent_blocks: self.large.drain(&self.pages, deadline),
            ..Released::default()
        };
        if !past(deadline) {
            gone.regions = self.large.arena().release(self.keep_large, &self.pages, deadline);
        }
        if !past(deadline) {
            gone.slabs = self.small.arena().release(self.keep_small, &self.pages, deadline);
        }
        gone
    }

    /// As [`Core::release`], but what was reserved at the start goes too: for a pool that has run out.
    pub(super) fn release_all(&self) {
        self.release(None);
        self.large.arena().release(0, &self.pages, None);
        self.small.arena().release(0, &self.pages, None);
    }

    /// Begins to empty sparse slabs and regions; the bytes in use there. `None` while that is going on already.
    pub(super) fn start_leaving(&self, share: f64, deadline: Option<Instant>) -> Option<usize> {
        if self.compacting.swap(true, Ordering::SeqCst) {
            return None;
        }
        // Free blocks of sparse memory must not be handed out from where threads keep them.
        self.call(FLUSH);
        let _ = self.cache();
        self.small.drain(deadline);
        self.large.drain(&self.pages, deadline);
        Some(self.small.start_leaving(share) + self.large.arena().start_leaving(share))
    }

    pub(super) fn stop_leaving(&self) {
        self.small.stop_leaving();
        self.large.arena().stop_leaving();
        self.compacting.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_leaving(&self, handle: &MemoryHandle) -> bool {
        let tag = handle.tag();
        if tag.is_large() {
            self.large.arena().is_leaving(handle.address())
        } else {
            let block = tag.block_address(handle.address());
            self.small.is_leaving(tag.class(), block)
        }
    }

    /// From now on `signal` is told when the live bytes pass the mark of [`Core::mark_use`].
    pub(super) fn tell_of_use(&self, signal: &Arc<Signal>) {
        // A pool has one scheduler, so that this is done once.
        let _ = self.signal.set(Arc::clone(signal));
    }

    /// The next time that more than `bytes` are alive, the scheduler is told, once; with `None`, it is not.
    pub(super) fn mark_use(&self, bytes: Option<u64>) {
        let mark = bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(i64::MAX);
        self.live.set_mark(mark);
    }

    #[cold]
    pub(super) fn pass_mark(&self) {
        self.live.set_mark(i64::MAX);
        if let Some(signal) = self.signal.get() {
            signal.look();
        }
    }
}
