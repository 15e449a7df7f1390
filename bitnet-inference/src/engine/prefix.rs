//! The prefix cache: keys and values of earlier texts, found by their tokens.
//!
//! A radix tree over tokens, one tree for each group of clients that may share. Tokens are compared, not hashes of
//! tokens, so no text can be taken for another. A match that ends inside a page shares it: the page is copied when it is
//! written.

use std::cell::Cell;
use std::collections::BTreeMap;

use bitnet_core::kv::KvCache;

use super::memory::Pages;
use crate::session::common_len;

/// The texts that are kept at most.
const ENTRIES: usize = 1024;

/// Keys and values of earlier texts.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    roots: BTreeMap<u64, Node>,
    /// Counts uses, so that the entry that was used longest ago is known.
    clock: u64,
    entries: usize,
    /// The pages of all entries.
    pages: Pages,
}

#[derive(Debug, Default)]
struct Node {
    /// The tokens between the parent and this node; empty in a root only.
    edge: Vec<u32>,
    /// By the first token of their edge.
    children: BTreeMap<u32, Node>,
    /// The text that ends here.
    entry: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    cache: KvCache,
    used: Cell<u64>,
}

impl PrefixCache {
    /// Returns a cache of the longest beginning of `tokens` that is known in `group`; its length says how long it is.
    pub(super) fn find(&mut self, group: u64, tokens: &[u32]) -> Option<KvCache> {
        self.clock += 1;
        let clock = self.clock;
        let mut node = self.roots.get(&group)?;
        let (mut matched, mut best) = (0, None);
        loop {
            if let Some(entry) = &node.entry {
                best = longer(best, entry, matched, clock);
            }
            let rest = &tokens[matched..];
            let Some(child) = rest.first().and_then(|token| node.children.get(token)) else {
                break;
            };
            let common = common_len(&child.edge, rest);
            matched += common;
            node = child;
            if common < node.edge.len() {
                break;
            }
        }
        // Any text below begins with the tokens that matched.
        while let (None, Some(child)) = (&node.entry, node.children.values().next()) {
            node = child;
        }
        if let Some(entry) = &node.entry {
            best = longer(best, entry, matched, clock);
        }
        best.filter(|cache| !cache.is_empty())
    }

    /// Returns how many of the first `tokens` are known in `group`, as [`PrefixCache::find`] finds them.
    pub(super) fn matched(&mut self, group: u64, tokens: &[u32]) -> usize {
        self.find(group, tokens).map_or(0, |cache| cache.len())
    }

    /// Keeps `cache`, whose positions hold `tokens`. A text that it goes on from is dropped, unless it has a recurrent
    /// state that the longer one has not.
    pub(super) fn insert(&mut self, group: u64, tokens: &[u32], cache: KvCache) {
        let tokens = &tokens[..cache.len().min(tokens.len())];
        if tokens.is_empty() {
            return;
        }
        self.clock += 1;
        let keeps_ancestors = cache.recurrent_state().is_some();
        let mut node = self.roots.entry(group).or_default();
        let mut rest = tokens;
        while let Some(&first) = rest.first() {
            if !keeps_ancestors && let Some(ancestor) = node.entry.take() {
                self.entries -= 1;
                self.pages.remove(&ancestor.cache);
            }
            let child = node
                .children
                .entry(first)
                .or_insert_with(|| Node { edge: rest.to_vec(), ..Node::default() });
            let common = common_len(&child.edge, rest);
            if common < child.edge.len() {
                child.split(common);
            }
            rest = &rest[common..];
            node = child;
        }
        self.pages.add(&cache);
        match node.entry.replace(Entry { cache, used: Cell::new(self.clock) }) {
            Some(earlier) => self.pages.remove(&earlier.cache),
            None => self.entries += 1,
        }
        if self.entries > ENTRIES {
            self.evict();
        }
    }

    /// Drops the text that was used longest ago. Returns whether there was one.
    pub(super) fn evict(&mut self) -> bool {
        let oldest = self.roots.iter().filter_map(|(&group, root)| {
            let (used, path) = root.oldest()?;
            Some((used, group, path))
        });
        let Some((_, group, path)) = oldest.min() else { return false };
        let Some(root) = self.roots.get_mut(&group) else { return false };
        if let Some(entry) = root.remove(&path) {
            self.entries -= 1;
            self.pages.remove(&entry.cache);
        }
        if root.is_empty() {
            self.roots.remove(&group);
        }
        true
    }

    /// Returns the number of texts.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Returns the pages of all texts.
    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }
}

impl Node {
    /// Puts a node after the first `len` tokens of the edge.
    fn split(&mut self, len: usize) {
        let tail = self.edge.split_off(len);
        let lower = Node {
            children: std::mem::take(&mut self.children),
            entry: self.entry.take(),
            edge: tail,
        };
        self.children.insert(lower.edge[0], lower);
    }

    fn is_empty(&self) -> bool {
        self.entry.is_none() && self.children.is_empty()
    }

    /// Returns when the entry at or below this node that was used longest ago was used, and the keys that lead to it.
    fn oldest(&self) -> Option<(u64, Vec<u32>)> {
        let mut oldest = None::<(u64, Vec<u32>)>;
        let mut path = Vec::new();
        let mut nodes: Vec<(&Self, usize, Option<u32>)> = vec![(self, 0, None)];
        while let Some((node, depth, key)) = nodes.pop() {
            path.truncate(depth);
            path.extend(key);
            if let Some(entry) = &node.entry
                && oldest.as_ref().is_none_or(|(used, _)| entry.used.get() < *used)
            {
                oldest = Some((entry.used.get(), path.clone()));
            }
            nodes.extend(node.children.iter().map(|(&key, child)| (child, path.len(), Some(key))));
        }
        oldest
    }

    /// Removes the entry to which the keys of `path` lead, and the nodes that lead to nothing then.
    fn remove(&mut self, path: &[u32]) -> Option<Entry> {
        let removed = self.descend(path)?.entry.take();
        for depth in (0..path.len()).rev() {
            let parent = self.descend(&path[..depth])?;
            if !parent.children.get(&path[depth]).is_some_and(Self::is_empty) {
                break;
            }
            parent.children.remove(&path[depth]);
        }
        removed
    }

    fn descend(&mut self, path: &[u32]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| node.children.get_mut(key))
    }
}

/// Returns the longer of `best` and the first `len` positions of `entry`.
fn longer(best: Option<KvCache>, entry: &Entry, len: usize, clock: u64) -> Option<KvCache> {
    let found = entry.cache.fork(len);
    if best.as_ref().is_some_and(|best| best.len() >= found.len()) {
        return best;
    }
    entry.used.set(clock);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::kv::{KvShape, KvType};
    use bitnet_core::memory::HybridMemoryPool;
    use proptest::prelude::*;

    fn cache(pool: &HybridMemoryPool, len: usize) -> KvCache {
        let shape = KvShape { kind: KvType::F16, layers: 1, kv_heads: 1, head_dim: 16 };
        let mut cache = KvCache::new(shape, 4096, pool).unwrap();
        cache.reserve(len).unwrap();
        cache.advance(len);
        cache
    }

    proptest! {
        #[test]
        fn the_longest_common_beginning_is_found(
            texts in prop::collection::vec(prop::collection::vec(0u32..3, 1..12), 1..12),
            asked in prop::collection::vec(0u32..3, 0..12),
            evictions in 0usize..4,
        ) {
            let pool = HybridMemoryPool::new().unwrap();
            let mut prefixes = PrefixCache::default();
            for text in &texts {
                prefixes.insert(7, text, cache(&pool, text.len()));
            }
            let expected = texts.iter().map(|text| common_len(text, &asked)).max().unwrap_or(0);
            prop_assert_eq!(prefixes.matched(7, &asked), expected);
            prop_assert_eq!(prefixes.matched(8, &asked), 0);
            let before = prefixes.len();
            let evicted = (0..evictions).filter(|_| prefixes.evict()).count();
            prop_assert_eq!(prefixes.len(), before - evicted);
            prop_assert_eq!(prefixes.pages.count() == 0, prefixes.len() == 0);
            prop_assert!(prefixes.matched(7, &asked) <= expected);
            while prefixes.evict() {}
            prop_assert_eq!((prefixes.len(), prefixes.roots.len(), prefixes.pages.count()), (0, 0, 0));
        }
    }

    #[test]
    fn the_text_used_longest_ago_is_dropped_first() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut prefixes = PrefixCache::default();
        prefixes.insert(0, &[1, 2, 3], cache(&pool, 3));
        prefixes.insert(0, &[4, 5, 6], cache(&pool, 3));
        assert_eq!(prefixes.matched(0, &[1, 2, 3, 4]), 3);
        assert!(prefixes.evict());
        assert_eq!(prefixes.matched(0, &[1, 2, 3]), 3);
        assert_eq!(prefixes.matched(0, &[4, 5]), 0);
    }

    #[test]
    fn matches_share_pages() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut prefixes = PrefixCache::default();
        prefixes.insert(0, &[9; 100], cache(&pool, 100));
        let (a, b) = (prefixes.find(0, &[9; 90]).unwrap(), prefixes.find(0, &[9; 90]).unwrap());
        assert!(a.page_ids().eq(b.page_ids()));
        assert_eq!((a.len(), a.page_ids().len()), (90, 2));
    }
}
