//! Places inside a page, shapes, limits, sharing.

use super::*;
use std::collections::BTreeSet;

fn shape(kind: KvType, [layers, kv_heads, head_dim]: [usize; 3]) -> KvShape {
    KvShape { kind, layers, kv_heads, head_dim }
}

fn filled(kind: KvType, capacity: usize, len: usize) -> KvCache {
    let pool = HybridMemoryPool::new().unwrap();
    let mut cache = KvCache::new(shape(kind, [3, 2, 20]), capacity, &pool).unwrap();
    cache.reserve(len).unwrap();
    cache.advance(len);
    cache
}

#[test]
fn components_of_a_head_have_distinct_places_inside_it() {
    let cache = filled(KvType::Int8, 300, 300);
    let (mut k, mut v) = (BTreeSet::new(), BTreeSet::new());
    for position in 64..128 {
        for component in 0..20 {
            assert!(k.insert(cache.k_index(position, component)));
            assert!(v.insert(cache.v_index(position, component)));
        }
    }
    let head = cache.head(2, 1, 4).unwrap();
    assert!(k.last().unwrap() < &head.k.len() && v.last().unwrap() < &head.v.len());
    assert_eq!((head.k_scales.len(), head.v_scales.len()), (64, 64));
    assert_eq!(cache.k_index(17, 3), 16 * 32 + 3 * 16 + 1);
    assert_eq!(cache.v_index(257, 17), 17 * 16 + 1);
    assert!(cache.head(3, 0, 0).is_none() && cache.head(0, 2, 0).is_none());
    assert!(cache.head(0, 0, 5).is_none());
}

#[test]
fn heads_of_a_page_do_not_overlap() {
    let mut cache = filled(KvType::Int8, 64, 64);
    for layer in 0..3 {
        for head in 0..2 {
            let place = cache.head_mut(layer, head, 0).unwrap();
            place.k.fill((layer * 2 + head) as u8);
            place.v.fill((100 + layer * 2 + head) as u8);
            place.k_scales.fill((layer * 2 + head) as f32);
        }
    }
    for layer in 0..3 {
        for head in 0..2 {
            let found = cache.head(layer, head, 0).unwrap();
            assert!(found.k.iter().all(|&x| usize::from(x) == layer * 2 + head));
            assert!(found.v.iter().all(|&x| usize::from(x) == 100 + layer * 2 + head));
            assert!(found.k_scales.iter().all(|&x| x == (layer * 2 + head) as f32));
        }
    }
}

#[test]
fn position_takes_the_documented_bytes() {
    let heads = 2 * 30 * 5;
    for (kind, bytes) in [(KvType::F32, 153_600), (KvType::F16, 76_800), (KvType::Int8, 39_600)] {
        assert_eq!(heads / 2 * kind.bytes_per_position(128), bytes, "{kind}");
        let pool = HybridMemoryPool::new().unwrap();
        let cache = KvCache::new(shape(kind, [30, 5, 128]), 4096, &pool).unwrap();
        assert_eq!((cache.bytes_per_position(), cache.page_bytes()), (bytes, 64 * bytes));
        assert_eq!(pool.get_metrics().total_allocated, 0);
    }
}

#[test]
fn impossible_sizes_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    assert!(KvCache::new(shape(KvType::F16, [1, 5, 128]), usize::MAX, &pool).is_err());
    assert!(KvCache::new(shape(KvType::F16, [usize::MAX, 5, 128]), 1, &pool).is_err());
    assert!(KvCache::new(shape(KvType::F16, [1, 5, usize::MAX]), 1, &pool).is_err());
    let mut cache = KvCache::new(shape(KvType::F16, [1, 1, 16]), 10, &pool).unwrap();
    assert!(matches!(cache.reserve(11), Err(Error::OutOfRange { index: 10, len: 10, .. })));
    assert!(matches!(cache.reserve(usize::MAX), Err(Error::OutOfRange { .. })));
}

#[test]
fn pages_follow_the_length_and_return_to_the_pool() {
    let pool = HybridMemoryPool::new().unwrap();
    let live = || pool.get_metrics().total_allocated as usize;
    let mut cache = KvCache::new(shape(KvType::F16, [2, 2, 32]), 1000, &pool).unwrap();
    cache.reserve(1).unwrap();
    assert_eq!((cache.reserved(), live()), (64, cache.page_bytes()));
    cache.advance(1);
    cache.reserve(200).unwrap();
    cache.advance(200);
    assert_eq!(live(), 4 * cache.page_bytes());
    cache.truncate(64);
    assert_eq!((cache.len(), live()), (64, cache.page_bytes()));
    cache.truncate(0);
    assert_eq!(live(), 0);
}

#[test]
fn shared_pages_are_copied_before_they_are_written() {
    for kind in [KvType::F32, KvType::Int8] {
        let mut first = filled(kind, 500, 100);
        for page in 0..2 {
            let head = first.head_mut(2, 1, page).unwrap();
            head.k.fill(7);
            head.v_scales.fill(7.0);
        }
        let mut second = first.fork(80);
        assert_eq!(second.len(), 80);
        assert!(matches!(second.head_mut(2, 1, 1), Err(Error::NotWritable { .. })));
        second.reserve(1).unwrap();
        let copy = second.head_mut(2, 1, 1).unwrap();
        assert!(copy.k.iter().all(|&x| x == 7), "{kind}");
        copy.k.fill(9);
        assert!(first.head(2, 1, 1).unwrap().k.iter().all(|&x| x == 7), "{kind}");
        // The full page stays shared.
        assert!(matches!(second.head_mut(2, 1, 0), Err(Error::NotWritable { .. })));
        drop(first);
        assert!(second.head_mut(2, 1, 0).is_ok());
    }
}
