//! The pools of the process by number, so that a handle need not hold a pointer to its pool.

use std::collections::BTreeMap;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::block_tag::POOLS;
use crate::sync::lock;

#[derive(Debug)]
pub(super) struct PoolTable<T> {
    /// Each live pool at its number; number 0 is never used.
    slots: [AtomicPtr<T>; POOLS],
    list: Mutex<List<T>>,
}

#[derive(Debug)]
struct List<T> {
    /// By their unique ids.
    by_id: BTreeMap<u64, Listed<T>>,
    /// Numbers below `used` that are free again.
    free: Vec<usize>,
    used: usize,
}

/// A pointer to a pool that is alive as long as it is listed.
#[derive(Debug)]
struct Listed<T>(NonNull<T>);

// SAFETY: the pointer leaves the list under its lock only, and shared access from any thread is what `Sync` allows.
unsafe impl<T: Sync> Send for Listed<T> {}

impl<T> PoolTable<T> {
    pub(super) const fn new() -> Self {
        Self {
            slots: [const { AtomicPtr::new(null_mut()) }; POOLS],
            list: Mutex::new(List { by_id: BTreeMap::new(), free: Vec::new(), used: 1 }),
        }
    }

    /// Returns the pool with this number.
    ///
    /// # Safety
    /// The pool is alive.
    #[inline]
    pub(super) unsafe fn get(&self, index: usize) -> NonNull<T> {
        let pool = self.slots[index % POOLS].load(Ordering::Relaxed);
        // SAFETY: the pool was stored here before its number was published, and is removed only when it ends.
        unsafe { NonNull::new_unchecked(pool) }
    }

    /// Locks the list: no pool is added or removed while the guard lives.
    pub(super) fn lock(&self) -> Locked<'_, T> {
        Locked { table: self, list: lock(&self.list) }
    }
}

/// A [`PoolTable`] whose list is locked.
#[derive(Debug)]
pub(super) struct Locked<'a, T> {
    table: &'a PoolTable<T>,
    list: MutexGuard<'a, List<T>>,
}

impl<T> Locked<'_, T> {
    /// Reserves a number for a new pool; `None` if all are in use.
    pub(super) fn reserve(&mut self) -> Option<usize> {
        self.list.free.pop().or_else(|| {
            let index = Some(self.list.used).filter(|&index| index < POOLS)?;
            self.list.used += 1;
            Some(index)
        })
    }

    /// Lists a pool under the number that was reserved for it.
    pub(super) fn add(&mut self, id: u64, index: usize, pool: NonNull<T>) {
        self.table.slots[index].store(pool.as_ptr(), Ordering::Release);
        self.list.by_id.insert(id, Listed(pool));
    }

    /// Removes a pool and frees its number.
    pub(super) fn remove(&mut self, id: u64, index: usize) {
        self.list.by_id.remove(&id);
        self.table.slots[index].store(null_mut(), Ordering::Relaxed);
        self.list.free.push(index);
    }

    /// Returns the pool with this id, if it is alive.
    pub(super) fn by_id(&self, id: u64) -> Option<NonNull<T>> {
        self.list.by_id.get(&id).map(|listed| listed.0)
    }
}
