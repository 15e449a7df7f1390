//! Pages of keys and values that an engine has in use.

use std::collections::HashSet;

use bitnet_core::kv::KvCache;

use super::prefix::PrefixCache;

/// Pages that are in use, each counted once.
#[derive(Debug, Default)]
pub(super) struct Pages {
    ids: HashSet<usize>,
    /// Pages that are worth the recurrent state of the caches.
    states: usize,
}

impl Pages {
    /// Counts the pages of a cache, and its recurrent state as pages.
    pub(super) fn add(&mut self, cache: &KvCache) {
        self.ids.extend(cache.page_ids());
        self.states += pages_of_state(cache);
    }

    /// Returns the pages of `cache` that are not counted.
    pub(super) fn missing(&self, cache: &KvCache) -> usize {
        cache.page_ids().filter(|id| !self.ids.contains(id)).count()
    }

    /// Returns the number of pages.
    pub(super) fn count(&self) -> usize {
        self.ids.len() + self.states
    }

    /// Returns the pages of these caches.
    pub(super) fn of<'a>(caches: impl Iterator<Item = &'a KvCache>) -> Self {
        let mut pages = Self::default();
        caches.for_each(|cache| pages.add(cache));
        pages
    }
}

/// Returns the pages whose bytes the recurrent state of a sequence takes: two chunks in progress and a checkpoint.
pub(super) fn pages_of_state(cache: &KvCache) -> usize {
    const CHUNKS: usize = 3;
    let state = cache.recurrent_state().and_then(|state| state.shape().chunk_bytes());
    state.map_or(0, |bytes| bytes.saturating_mul(CHUNKS).div_ceil(cache.page_bytes().max(1)))
}

/// Drops earlier texts until `needed` pages fit beside those in use. Returns the pages in use, and how many texts were
/// dropped.
pub(super) fn make_room<'a>(
    active: impl Iterator<Item = &'a KvCache>,
    prefixes: &mut PrefixCache,
    needed: usize,
    limit: usize,
) -> (usize, u64) {
    let own = Pages::of(active);
    let mut evicted = 0;
    loop {
        let mut all = Pages { ids: own.ids.clone(), states: own.states };
        prefixes.for_each(|cache| all.add(cache));
        let used = all.count();
        if used.saturating_add(needed) <= limit || !prefixes.evict() {
            return (used, evicted);
        }
        evicted += 1;
    }
}
