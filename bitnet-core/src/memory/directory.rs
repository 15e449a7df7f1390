//! The pools of the process by their numbers, so that a handle need not hold a pointer to its pool.

use std::collections::BTreeMap;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::core::Core;
use super::tag::POOLS;

/// The state of each pool that is alive, at its number; 0 is nobody's.
static STATES: [AtomicPtr<Core>; POOLS] = [const { AtomicPtr::new(null_mut()) }; POOLS];

static DIRECTORY: Mutex<Directory> =
    Mutex::new(Directory { states: BTreeMap::new(), free: Vec::new(), used: 1 });

/// The state of the pool with this number.
///
/// # Safety
/// The pool is alive.
#[inline]
pub(super) unsafe fn state_of(index: usize) -> NonNull<Core> {
    let state = STATES[index % POOLS].load(Ordering::Relaxed);
    // SAFETY: the state was put here before anyone knew its number, and stays until it ends.
    unsafe { NonNull::new_unchecked(state) }
}

/// All states that are alive. Whoever holds the lock can rely on them staying so.
#[derive(Debug)]
pub(super) struct Directory {
    /// By the number that no other pool ever has.
    states: BTreeMap<u64, Listed>,
    /// Numbers below `used` that have become free.
    free: Vec<usize>,
    used: usize,
}

/// A pointer to a state that is alive as long as it is listed.
#[derive(Debug, Clone, Copy)]
struct Listed(NonNull<Core>);

// SAFETY: `Core` is `Sync`, and the directory hands the pointer out under its lock only.
unsafe impl Send for Listed {}

/// The directory, locked.
pub(super) fn lock() -> MutexGuard<'static, Directory> {
    DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    /// A number for a new pool; `None` if all are taken.
    pub(super) fn reserve(&mut self) -> Option<usize> {
        self.free.pop().or_else(|| {
            let index = Some(self.used).filter(|&index| index < POOLS)?;
            self.used += 1;
            Some(index)
        })
    }

    /// Lists a state under the number that was reserved for it.
    pub(super) fn add(&mut self, id: u64, index: usize, state: NonNull<Core>) {
        STATES[index].store(state.as_ptr(), Ordering::Release);
        self.states.insert(id, Listed(state));
    }

    /// Takes a state off the list.
    pub(super) fn remove(&mut self, id: u64, index: usize) {
        self.states.remove(&id);
        STATES[index].store(null_mut(), Ordering::Relaxed);
        self.free.push(index);
    }

    /// The state of the pool with this number of its own, if it is alive.
    pub(super) fn get(&self, id: u64) -> Option<NonNull<Core>> {
        self.states.get(&id).map(|listed| listed.0)
    }
}
