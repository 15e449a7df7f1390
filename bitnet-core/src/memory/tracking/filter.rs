//! A small counting filter that says of most addresses, without a lock, that they were not recorded.

use std::sync::atomic::{AtomicU8, Ordering};

use super::live::hash;

/// Counters; a power of two.
const COUNTERS: usize = 1 << 15;

/// One counter for each of many sets of addresses. It may say yes of an address that is not in it, never no of one that is.
#[derive(Debug)]
pub(super) struct AddressFilter {
    counters: Box<[AtomicU8]>,
}

impl AddressFilter {
    pub(super) fn new() -> Self {
        Self { counters: (0..COUNTERS).map(|_| AtomicU8::new(0)).collect() }
    }

    /// Whether the address may be in it.
    ///
    /// The order of memory is that of the handle: who frees an address has it from who allocated it.
    #[inline]
    pub(super) fn may_hold(&self, address: usize) -> bool {
        self.counter(address).load(Ordering::Relaxed) != 0
    }

    pub(super) fn insert(&self, address: usize) {
        let counter = self.counter(address);
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1));
    }

    /// Takes an address out that was inserted. A full counter no longer knows how many it holds, and stays.
    pub(super) fn remove(&self, address: usize) {
        let counter = self.counter(address);
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| match n {
            0 | u8::MAX => None,
            n => Some(n - 1),
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.counters.len()
    }

    #[inline]
    fn counter(&self, address: usize) -> &AtomicU8 {
        &self.counters[(hash(address) >> 30) as usize % COUNTERS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_denies_what_it_holds_and_forgets_what_left() {
        let filter = AddressFilter::new();
        let addresses: Vec<usize> = (1..2000).map(|i| 0x7f00_0000_0000 + i * 4096).collect();
        for &address in &addresses {
            filter.insert(address);
        }
        assert!(addresses.iter().all(|&address| filter.may_hold(address)));
        let others = (1..2000).map(|i| 0x7e00_0000_0000 + i * 4096);
        let wrong = others.filter(|&address| filter.may_hold(address)).count();
        assert!(wrong < 400, "{wrong} of 1999 foreign addresses are taken for known ones");
        for &address in &addresses {
            filter.remove(address);
        }
        assert!(!addresses.iter().any(|&address| filter.may_hold(address)));
    }

    #[test]
    fn a_full_counter_stays() {
        let filter = AddressFilter::new();
        for _ in 0..300 {
            filter.insert(64);
        }
        for _ in 0..300 {
            filter.remove(64);
        }
        assert!(filter.may_hold(64));
    }
}
