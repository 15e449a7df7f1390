//! The public pool: sizes and alignments, bad requests, threads, lifetimes, and a system that refuses memory.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::sync::mpsc;

use bitnet_core::device::Device;
use bitnet_core::memory::{HybridMemoryPool, MemoryHandle, MemoryPoolConfig, Purpose};
use bitnet_core::{Error, MemoryLimit};

const MIB: usize = 1 << 20;

fn unbounded() -> HybridMemoryPool {
    HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap()
}

/// Writes the first, the last and a few other bytes.
fn fill_samples(handle: &mut MemoryHandle, value: u8) {
    let bytes = handle.bytes_mut();
    let step = (bytes.len() / 7).max(1);
    bytes.iter_mut().step_by(step).for_each(|byte| *byte = value);
    if let Some(last) = bytes.last_mut() {
        *last = value;
    }
}

fn has_samples(handle: &MemoryHandle, value: u8) -> bool {
    let bytes = handle.bytes();
    let step = (bytes.len() / 7).max(1);
    bytes.iter().step_by(step).chain(bytes.last()).all(|&byte| byte == value)
}

#[test]
fn memory_of_every_size_around_each_boundary_and_of_every_alignment_is_served() {
    let pool = unbounded();
    let mut sizes = vec![0, 1, 2, 63, 64, 65];
    for log in 7..=28 {
        let size = 1usize << log;
        sizes.extend([size - 1, size, size + 1, size + size / 2]);
    }
    sizes.extend([512 * 1024 + 1, MIB - 64, 63 * MIB, 64 * MIB + 1, 128_256 * 2560 * 2]);
    for &size in &sizes {
        for align_log in 0..=21 {
            let align = 1 << align_log;
            let mut handle = pool.allocate(size, align, &Device::Cpu).unwrap();
            assert_eq!(handle.bytes().len(), size);
            assert_eq!(handle.bytes().as_ptr() as usize % align.max(64), 0, "{size} at {align}");
            assert_eq!(handle.align(), align.max(64));
            assert!(handle.occupied() >= size);
            fill_samples(&mut handle, align_log);
            assert!(has_samples(&handle, align_log));
            pool.deallocate(handle).unwrap();
            if size > 64 * MIB {
                break;
            }
        }
    }
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.peak_allocated), (0, 128_256 * 2560 * 2));
    assert_eq!(metrics.allocations, metrics.deallocations);
}

#[test]
fn memory_of_0_bytes_has_a_unique_address() {
    let pool = unbounded();
    let handles: Vec<_> = (0..200)
        .map(|at| {
            pool.allocate(at % 2 * 60, if at % 2 == 0 { 128 } else { 64 }, &Device::Cpu).unwrap()
        })
        .collect();
    let mut starts: Vec<_> = handles.iter().map(|handle| handle.bytes().as_ptr()).collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), handles.len());
}

#[test]
fn memory_allocated_as_zero_is_zero_after_reuse() {
    let pool = unbounded();
    for size in [1, 100, 5000, 300_000, MIB, 5 * MIB, 40 * MIB] {
        for _ in 0..3 {
            let mut handle = pool.allocate_zeroed(size, 64, &Device::Cpu).unwrap();
            assert!(handle.bytes().iter().all(|&byte| byte == 0), "{size}");
            handle.bytes_mut().fill(0xa5);
        }
    }
}

#[test]
fn memory_requests_with_bad_arguments_are_errors() {
    let pool = HybridMemoryPool::new().unwrap();
    for align in [0, 3, 48, 65, 4 * MIB, 1 << 40, usize::MAX] {
        let error = pool.allocate(8, align, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::BadAlignment { align: got } if got == align), "{error}");
    }
    for size in [usize::MAX, usize::MAX - 63, isize::MAX as usize + 1, isize::MAX as usize] {
        for align in [1, 64, 2 * MIB] {
            let error = pool.allocate(size, align, &Device::Cpu).unwrap_err();
            assert!(matches!(error, Error::SizeOverflow { .. }), "{size} at {align}: {error}");
        }
    }
    let error = pool.allocate(1 << 46, 64, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn memory_limits_hold_to_the_configured_maximum() {
    let config = MemoryPoolConfig {
        max_small_pool_size: 4 * MIB,
        max_large_pool_size: 12 * MIB,
        initial_small_pool_size: MIB,
        initial_large_pool_size: 8 * MIB,
        ..MemoryPoolConfig::default()
    };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    // The whole limit in one block, though a part of it was reserved as another region.
    let whole = pool.allocate(12 * MIB, 64, &Device::Cpu).unwrap();
    let error = pool.allocate(MIB, 64, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes: MIB, .. }), "{error}");
    drop(whole);
    let many: Vec<_> =
        std::iter::from_fn(|| pool.allocate(64 << 10, 64, &Device::Cpu).ok()).collect();
    let held: usize = many.iter().map(MemoryHandle::size).sum();
    assert!(held > 3 * MIB && held <= 4 * MIB, "{held}");
    drop(many);
    assert!(pool.allocate(12 * MIB, 64, &Device::Cpu).is_ok(), "free memory is purged");
}

#[test]
fn memory_handles_of_another_pool_are_refused_without_a_leak() {
    let (pool, other) = (unbounded(), unbounded());
    for size in [100, 2 * MIB] {
        let handle = other.allocate(size, 64, &Device::Cpu).unwrap();
        assert_eq!(pool.deallocate(handle), Err(Error::ForeignHandle));
        assert_eq!(other.get_metrics().total_allocated, 0);
    }
}

#[test]
fn memory_outlives_its_pool_and_its_thread() {
    let handles: Vec<_> = std::thread::spawn(|| {
        let pool = unbounded();
        [64, 5000, 700_000, 3 * MIB, 50 * MIB]
            .map(|size| {
                let mut handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                fill_samples(&mut handle, 0x5a);
                handle
            })
            .into()
    })
    .join()
    .unwrap();
    assert!(handles.iter().all(|handle| has_samples(handle, 0x5a)));
    let threads: Vec<_> =
        handles.into_iter().map(|handle| std::thread::spawn(move || drop(handle))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn memory_is_freed_by_ending_threads() {
    thread_local!(static LAST: std::cell::RefCell<Vec<MemoryHandle>> = const { std::cell::RefCell::new(Vec::new()) });
    let pool = unbounded();
    for _ in 0..20 {
        let pool = pool.clone();
        std::thread::spawn(move || {
            // Made before the pool's own thread-local, so that it is dropped after it.
            LAST.with_borrow_mut(|last| last.reserve(4));
            for size in [64, 4096, 300_000, 2 * MIB] {
                let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                LAST.with_borrow_mut(|last| last.push(handle));
            }
        })
        .join()
        .unwrap();
    }
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.allocations, metrics.deallocations), (0, 80, 80));
    pool.trim();
    let figures = pool.resident_bytes();
    assert!(figures.is_none_or(|bytes| bytes < MIB), "{figures:?}");
}

#[test]
fn memory_passes_between_threads_without_growth() {
    let pool = unbounded();
    let (sender, receiver) = mpsc::sync_channel::<MemoryHandle>(64);
    let maker = pool.clone();
    let producer = std::thread::spawn(move || {
        for at in 0..200_000usize {
            let size = 64 << (at % 5);
            let mut handle = maker.allocate(size, 64, &Device::Cpu).unwrap();
            fill_samples(&mut handle, at as u8);
            sender.send(handle).unwrap();
        }
    });
    for (at, handle) in receiver.iter().enumerate() {
        assert!(has_samples(&handle, at as u8));
    }
    producer.join().unwrap();
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.deallocations), (0, 200_000));
    assert!(metrics.peak_allocated < MIB as u64);
    assert!(pool.resident_bytes().is_none_or(|bytes| bytes < 4 * MIB));
}

#[test]
fn memory_of_each_purpose_is_counted_separately() {
    let pool = unbounded();
    let weights = pool.for_purpose(Purpose::Weights);
    let handle = weights.allocate(1000, 64, &Device::Cpu).unwrap();
    let large = pool.for_purpose(Purpose::KvCache).allocate(3 * MIB, 64, &Device::Cpu).unwrap();
    assert_eq!(handle.purpose(), Purpose::Weights);
    let by_purpose = pool.allocated_by_purpose();
    assert_eq!(by_purpose[Purpose::Weights.index()], 1000);
    assert_eq!(by_purpose[Purpose::KvCache.index()], 3 << 20);
    // Freed by another thread than the one that counted it.
    std::thread::spawn(move || drop((handle, large))).join().unwrap();
    assert_eq!(pool.allocated_by_purpose(), [0; Purpose::ALL.len()]);
}

/// The flags of the mapping that holds `address`, as Linux reports them.
fn mapping_flags(address: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |hex: &str| usize::from_str_radix(hex, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(a, b)| (bound(a), bound(b))) {
            inside = (start..end).contains(&address);
        } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            return flags.to_owned();
        }
    }
    panic!("{address:#x} is not mapped")
}

#[test]
fn weights_and_activations_from_2_mib_on_have_huge_pages() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    let pool = unbounded();
    let block =
        |bytes, purpose| pool.for_purpose(purpose).allocate(bytes, 64, &Device::Cpu).unwrap();
    let is_huge = |handle: &MemoryHandle, at: usize| {
        let address = handle.bytes().as_ptr() as usize + at;
        mapping_flags(address).split_whitespace().any(|flag| flag == "hg")
    };
    let weights = block(5 * MIB, Purpose::Weights);
    let activations = block(5 * MIB, Purpose::Activations);
    let others = block(5 * MIB, Purpose::KvCache);
    let small = block(2 * MIB - 1, Purpose::Weights);
    assert_eq!(weights.bytes().as_ptr() as usize % (2 * MIB), 0);
    assert!(is_huge(&weights, 0) && is_huge(&weights, 4 * MIB - 1));
    assert!(is_huge(&activations, 2 * MIB));
    assert!(!is_huge(&weights, 4 * MIB), "the rest is no whole huge page");
    assert!(!is_huge(&others, 0) && !is_huge(&small, 0));
}

#[test]
fn memory_refused_by_the_system_is_an_error_after_a_purge() {
    let pool = unbounded();
    let held = pool.allocate(3 * MIB, 64, &Device::Cpu).unwrap();
    drop(pool.allocate(40 * MIB, 64, &Device::Cpu).unwrap());
    pool.refuse_mappings_after(Some(0));
    // From the mapped region.
    let inside = pool.allocate(5 * MIB, 64, &Device::Cpu).unwrap();
    for size in [60 * MIB, 600 * MIB] {
        let error = pool.allocate(size, 64, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == size), "{error}");
    }
    let error = pool.allocate(100, 64, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { met: MemoryLimit::System, .. }), "{error}");
    pool.refuse_mappings_after(None);
    let later = pool.allocate(600 * MIB, 64, &Device::Cpu).unwrap();
    drop((held, inside, later));
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn memory_peaks_are_exact_for_one_thread() {
    let pool = unbounded();
    let mut held = Vec::new();
    let (mut live, mut peak, mut state) = (0u64, 0u64, 7u64);
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pick = (state >> 33) as usize;
        if !pick.is_multiple_of(3) || held.is_empty() {
            let size = if pick.is_multiple_of(50) { pick % (4 * MIB) } else { pick % 20_000 };
            let handle: MemoryHandle = pool.allocate(size, 64, &Device::Cpu).unwrap();
            live += size as u64;
            peak = peak.max(live);
            held.push(handle);
        } else {
            let handle = held.swap_remove(pick % held.len());
            live -= handle.size() as u64;
        }
        if held.len() > 300 {
            live -= held.drain(..150).map(|handle| handle.size() as u64).sum::<u64>();
        }
    }
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.peak_allocated), (live, peak));
}

#[test]
fn memory_pools_leave_no_stale_caches() {
    // More pools than can be alive at a time, so that their numbers are used again while this thread keeps its caches.
    let mut held = unbounded().allocate(100, 64, &Device::Cpu).unwrap();
    for at in 0..20_000usize {
        let pool = unbounded();
        let mut handle = pool.allocate(64, 64, &Device::Cpu).unwrap();
        fill_samples(&mut handle, at as u8);
        assert!(has_samples(&handle, at as u8));
        if at % 1000 == 0 {
            // The handle that outlives its pool is the one that ends it.
            fill_samples(&mut held, at as u8);
            drop(std::mem::replace(&mut held, handle));
        }
    }
    drop(held);
    let alive: Vec<_> =
        std::iter::from_fn(|| HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).ok())
            .take(9000)
            .collect();
    assert!(alive.len() > 8000 && alive.len() < 9000, "{}", alive.len());
    let error = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap_err();
    assert!(matches!(error, Error::TooManyPools { .. }), "{error}");
    let first = alive[0].allocate(1000, 64, &Device::Cpu).unwrap();
    assert!(matches!(alive[1].deallocate(first), Err(Error::ForeignHandle)));
    drop(alive);
    assert!(HybridMemoryPool::new().is_ok(), "numbers come back");
}

#[test]
fn memory_counts_by_purpose_are_exact_under_concurrent_reads() {
    let pool = unbounded();
    let purposes = Purpose::ALL.map(|purpose| pool.for_purpose(purpose));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let metrics = pool.get_metrics();
                assert!(metrics.total_allocated <= 64 * MIB as u64, "{metrics:?}");
            }
        });
        let mut held = Vec::new();
        for at in 0..100_000usize {
            let size = [0, 1, 64, 5000, 70_000, 3 * MIB][at % 6];
            held.push(purposes[at % 7].allocate(size, 64, &Device::Cpu).unwrap());
            if at % 11 == 10 {
                held.drain(..10);
            }
            if held.len() > 50 {
                held.truncate(10);
            }
        }
        let mut expected = [0; 7];
        for handle in &held {
            expected[handle.purpose().index()] += handle.size() as u64;
        }
        assert_eq!(pool.allocated_by_purpose(), expected);
        held.clear();
        assert_eq!(pool.allocated_by_purpose(), [0; 7]);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
