//! The live allocations of a tracker: a hash table by address (linear probing, no tombstones), and sums by purpose.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::Purpose;

/// Spreads addresses, which are multiples of a cache line, over 64 bits.
#[inline]
pub(super) fn hash(address: usize) -> u64 {
    (address as u64 ^ (address as u64 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) address: usize,
    pub(super) size: usize,
    /// The bytes that it represents: its size, or more if it is a sample.
    pub(super) bytes: u64,
    pub(super) site: &'static Location<'static>,
    /// When it was made, in nanoseconds of [`crate::os::clock`].
    pub(super) stamp: u64,
    pub(super) thread: u32,
    pub(super) purpose: Purpose,
}

/// Records by address. At most three quarters of the slots are taken as long as there is memory for more.
#[derive(Debug, Default)]
pub(super) struct LiveTable {
    /// Empty, or a power of two.
    slots: Vec<Option<Record>>,
    len: usize,
}

impl LiveTable {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.slots.iter().flatten()
    }

    pub(super) fn get(&self, address: usize) -> Option<&Record> {
        if self.slots.is_empty() { None } else { self.slots[self.slot_of(address)].as_ref() }
    }

    pub(super) fn get_mut(&mut self, address: usize) -> Option<&mut Record> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.slot_of(address);
        self.slots[at].as_mut()
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Record>>()
    }

    /// Inserts a record. `Ok` contains the one that had its address; `Err` means that there is no memory for another.
    pub(super) fn insert(&mut self, record: Record) -> Result<Option<Record>, ()> {
        if self.len * 4 >= self.slots.len() * 3 && !self.grow() && self.len + 1 >= self.slots.len()
        {
            return Err(());
        }
        let at = self.slot_of(record.address);
        let before = self.slots[at].replace(record);
        self.len += usize::from(before.is_none());
        Ok(before)
    }

    pub(super) fn remove(&mut self, address: usize) -> Option<Record> {
        if self.slots.is_empty() {
            return None;
        }
        let mut hole = self.slot_of(address);
        let record = self.slots[hole].take()?;
        self.len -= 1;
        // Records after the hole move into it if their probing would pass it, so that no search ends at the hole.
        let mask = self.slots.len() - 1;
        let mut at = (hole + 1) & mask;
        while let Some(next) = self.slots[at] {
            let home = self.home(next.address);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at].take();
                hole = at;
            }
            at = (at + 1) & mask;
        }
        Some(record)
    }

    fn home(&self, address: usize) -> usize {
        // The top bits choose the shard; these are below them.
        (hash(address) >> 24) as usize & (self.slots.len() - 1)
    }

    /// The slot that holds the address, or the empty one where it belongs. There is always an empty one.
    fn slot_of(&self, address: usize) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(address);
        while self.slots[at].is_some_and(|record| record.address != address) {
            at = (at + 1) & mask;
        }
        at
    }

    /// Doubles the slots; false if the system has no memory for it.
    fn grow(&mut self) -> bool {
        let slots = (self.slots.len() * 2).max(64);
        let mut wider = Vec::new();
        if wider.try_reserve_exact(slots).is_err() {
            return false;
        }
        wider.resize(slots, None);
        let old = std::mem::replace(&mut self.slots, wider);
        for record in old.into_iter().flatten() {
            let at = self.slot_of(record.address);
            self.slots[at] = Some(record);
        }
        true
    }
}

/// Live bytes and their peaks. Every change is one addition, so that no two threads lose one.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    live: [AtomicU64; Purpose::ALL.len()],
    peak: [AtomicU64; Purpose::ALL.len()],
}

impl Peaks {
    pub(super) fn add(&self, purpose: Purpose, bytes: u64) {
        let at = purpose.index();
        let live = self.live[at].fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
        // Compared first: a peak seldom rises, and raising it costs an exchange.
        if live > self.peak[at].load(Ordering::Relaxed) {
            self.peak[at].fetch_max(live, Ordering::Relaxed);
        }
    }

    pub(super) fn subtract(&self, purpose: Purpose, bytes: u64) {
        self.live[purpose.index()].fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> [u64; Purpose::ALL.len()] {
        self.peak.each_ref().map(|peak| peak.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn record(address: usize, size: usize) -> Record {
        Record {
            address,
            size,
            bytes: size as u64,
            site: Location::caller(),
            stamp: 0,
            thread: 1,
            purpose: Purpose::General,
        }
    }

    proptest! {
        #[test]
        fn it_equals_a_map(steps in prop::collection::vec((0usize..300, any::<bool>()), 1..2000)) {
            let mut table = LiveTable::default();
            let mut map = HashMap::new();
            for (at, &(key, insert)) in steps.iter().enumerate() {
                let address = key * 64;
                if insert {
                    let before = table.insert(record(address, at)).unwrap();
                    prop_assert_eq!(before.map(|record| record.size), map.insert(address, at));
                } else {
                    let removed = table.remove(address);
                    prop_assert_eq!(removed.map(|record| record.size), map.remove(&address));
                }
                prop_assert_eq!(table.iter().count(), map.len());
                let held = map.get(&address).copied();
                prop_assert_eq!(table.get(address).map(|record| record.size), held);
                prop_assert_eq!(table.get_mut(address).map(|record| record.size), held);
            }
            for (address, size) in map {
                prop_assert_eq!(table.remove(address).map(|record| record.size), Some(size));
            }
            prop_assert_eq!(table.len, 0);
        }
    }

    #[test]
    fn addresses_spread_over_the_slots() {
        for step in [64usize, 4096, 1 << 20, 2 << 20] {
            let mut table = LiveTable::default();
            for i in 0..4096 {
                table.insert(record(0x7f12_0000_0000 + i * step, 1)).unwrap();
            }
            let mask = table.slots.len() - 1;
            let far =
                |(at, record): (usize, &Record)| at.wrapping_sub(table.home(record.address)) & mask;
            let records =
                || table.slots.iter().enumerate().filter_map(|(at, r)| Some((at, r.as_ref()?)));
            let mean = records().map(far).sum::<usize>() as f64 / 4096.0;
            assert!(mean < 4.0, "steps of {step}: {mean} slots from home on average");
        }
    }
}
