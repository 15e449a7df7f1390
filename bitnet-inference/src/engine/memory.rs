//! Pages of keys and values that an engine has in use.

use std::collections::HashMap;

use bitnet_core::kv::KvCache;

use super::prefix::PrefixCache;

/// Pages that are in use, each counted once.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// The caches that hold each page.
    holders: HashMap<usize, usize>,
    /// Pages that are worth the recurrent state of the caches.
    states: usize,
}

impl Pages {
    /// Returns the pages of these caches.
    pub(super) fn of<'a>(caches: impl Iterator<Item = &'a KvCache>) -> Self {
        let mut pages = Self::default();
        caches.for_each(|cache| pages.add(cache));
        pages
    }

    /// Counts the pages of a cache, and its recurrent state as pages.
    pub(super) fn add(&mut self, cache: &KvCache) {
        for id in cache.page_ids() {
            *self.holders.entry(id).or_default() += 1;
        }
        self.states += pages_of_state(cache);
    }

    /// Takes back what [`Pages::add`] counted of a cache.
    pub(super) fn remove(&mut self, cache: &KvCache) {
        for id in cache.page_ids() {
            if let Some(holders) = self.holders.get_mut(&id) {
                *holders -= 1;
                if *holders == 0 {
                    self.holders.remove(&id);
                }
            }
        }
        self.states = self.states.saturating_sub(pages_of_state(cache));
    }

    /// Returns the pages of `cache` that are counted.
    pub(super) fn shared_with(&self, cache: &KvCache) -> usize {
        cache.page_ids().filter(|id| self.holders.contains_key(id)).count()
    }

    /// Returns the number of pages.
    pub(super) fn count(&self) -> usize {
        self.holders.len() + self.states
    }

    /// Returns the number of pages of both.
    fn count_with(&self, other: &Self) -> usize {
        let own = self.holders.keys().filter(|id| !other.holders.contains_key(id)).count();
        own + self.states + other.count()
    }
}

/// Returns the pages whose bytes the recurrent state of a sequence takes: two chunks in progress and a checkpoint.
pub(super) fn pages_of_state(cache: &KvCache) -> usize {
    const CHUNKS: usize = 3;
    let state = cache.recurrent_state().and_then(|state| state.shape().chunk_bytes());
    state.map_or(0, |bytes| bytes.saturating_mul(CHUNKS).div_ceil(cache.page_bytes().max(1)))
}

/// Drops earlier texts until `needed` pages fit beside the `active` ones. Returns the pages in use, and how many texts were
/// dropped.
pub(super) fn make_room(
    active: &Pages,
    prefixes: &mut PrefixCache,
    needed: usize,
    limit: usize,
) -> (usize, u64) {
    let mut evicted = 0;
    loop {
        let used = active.count_with(prefixes.pages());
        if used.saturating_add(needed) <= limit || !prefixes.evict() {
            return (used, evicted);
        }
        evicted += 1;
    }
}
