//! The most bytes that were alive at a time, by purpose.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::Purpose;

/// Live bytes and their peaks. Every change is one addition, so that no two threads lose one.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    live: [AtomicU64; Purpose::ALL.len()],
    peak: [AtomicU64; Purpose::ALL.len()],
}

impl Peaks {
    pub(super) fn came(&self, purpose: Purpose, bytes: u64) {
        let at = purpose.index();
        let live = self.live[at].fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
        // Asked first, because a peak seldom rises and raising it costs an exchange.
        if live > self.peak[at].load(Ordering::Relaxed) {
            self.peak[at].fetch_max(live, Ordering::Relaxed);
        }
    }

    pub(super) fn went(&self, purpose: Purpose, bytes: u64) {
        self.live[purpose.index()].fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> [u64; Purpose::ALL.len()] {
        self.peak.each_ref().map(|peak| peak.load(Ordering::Relaxed))
    }
}
