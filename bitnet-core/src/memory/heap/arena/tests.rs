//! Tests of regions and their spans.

use super::*;

#[test]
fn unused_regions_are_unmapped() {
    let pages = Pages::default();
    let arena = Arena::new(200 << 20, REGION, &pages).unwrap();
    assert_eq!(arena.mapped(), REGION);
    let spans: Vec<_> = (0..60).map(|_| arena.allocate(257, 1, &pages).unwrap()).collect();
    assert_eq!(arena.mapped(), 2 * REGION, "512 granules each, 32 in a region");
    assert!(
        spans.iter().all(|span| arena.region_of(span.address).is_some() && span.used_bytes == 0)
    );
    for span in &spans {
        arena.free(span.address, span.granules);
    }
    let again = arena.allocate(257, 1, &pages).unwrap();
    assert!(spans.iter().any(|span| span.address == again.address));
    assert_eq!(again.used_bytes, 257 * GRANULE);
    arena.free(again.address, again.granules);
    assert_eq!(arena.figures(&[]).free, arena.mapped());
    arena.release(REGION, &pages, &|| true);
    assert_eq!(arena.mapped(), REGION);
    arena.release(0, &pages, &|| true);
    assert_eq!(arena.mapped(), 0);
}

#[test]
fn an_interrupted_release_keeps_the_region() {
    let pages = Pages::default();
    let arena = Arena::new(REGION, 0, &pages).unwrap();
    let span = arena.allocate(3000, 1, &pages).unwrap();
    arena.free(span.address, span.granules);
    let region = Arc::clone(&arena.regions.read().unwrap()[0]);
    assert_eq!(arena.unmap_if_unused(&region, &pages, &|| false), 0);
    assert_eq!((arena.mapped(), arena.figures(&[]).free), (REGION, REGION));
    let again = arena.allocate(4000, 1, &pages).unwrap();
    assert_eq!((again.address, again.used_bytes), (span.address, 3000 * GRANULE));
    assert_eq!(arena.unmap_if_unused(&region, &pages, &|| true), 0);
    assert_eq!(arena.mapped(), REGION, "a span of it is in use");
    arena.free(again.address, again.granules);
    let calls = std::cell::Cell::new(0);
    arena.release(0, &pages, &|| calls.replace(calls.get() + 1) < 2);
    assert_eq!((arena.mapped(), calls.get()), (REGION, 4), "cut short within the free block");
    arena.release(0, &pages, &|| true);
    assert_eq!(arena.mapped(), 0);
}

#[test]
fn limits_and_refusals_return_none() {
    let pages = Pages::default();
    let arena = Arena::new(3 << 20, 0, &pages).unwrap();
    let all = arena.allocate(768, 1, &pages).unwrap();
    assert_eq!(all.granules, 768, "a limit that is no power of two can be used up by one span");
    assert_eq!(arena.allocate(1, 1, &pages), None);
    arena.free(all.address, all.granules);
    assert!(arena.allocate(256, 256, &pages).is_some());
    assert!(Arena::new(REGION, 2 * REGION, &pages).is_some());
    pages.fail_after(Some(1));
    let arena = Arena::new(isize::MAX as usize, 0, &pages).unwrap();
    assert!(arena.allocate(256, 1, &pages).is_some());
    assert_eq!(arena.allocate(1 << MAX_ORDER, 1, &pages), None);
    assert_eq!(arena.mapped(), REGION);
    assert_eq!(Arena::new(REGION, REGION, &pages).map(|arena| arena.mapped()), None);
}
