//! Handles: counted references to tensors that are moved while others use them.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::{HybridMemoryPool, ManualClock, Purpose};

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn allocated(pool: &HybridMemoryPool) -> u64 {
    pool.get_metrics().total_allocated
}

/// Numbers that encode their positions, so that any displaced byte changes the sum.
fn numbered(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32).map(|i| f32::from_bits((i ^ seed).wrapping_mul(0x9e37_79b9) >> 2)).collect()
}

fn sum(values: &[f32]) -> u64 {
    values.iter().fold(7, |sum, value| {
        (sum ^ u64::from(value.to_bits())).rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[test]
fn the_last_handle_frees_the_memory() {
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let first = TensorHandle::new(BitNetTensor::zeros(&[100], &pool).unwrap(), &registry);
    let second = first.clone();
    let weak = second.downgrade();
    assert_eq!((first.strong_count(), registry.len()), (2, 1));
    assert!(first.is_same(&second));
    drop(first);
    let third = weak.upgrade().unwrap();
    drop(second);
    assert_eq!(allocated(&pool), 400, "the upgraded one keeps it");
    drop(third);
    assert!(weak.upgrade().is_none());
    assert!(registry.is_empty());
    assert_eq!(allocated(&pool), 0);
}

#[test]
fn registry_and_pool_may_be_dropped_before_the_handles() {
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let handle = TensorHandle::new(BitNetTensor::zeros(&[4], &pool).unwrap(), &registry);
    drop(registry);
    drop(pool);
    handle.write().unwrap().f32_mut().unwrap()[3] = 2.0;
    assert_eq!(handle.read().unwrap().f32().unwrap(), [0.0, 0.0, 0.0, 2.0]);
}

#[test]
fn names_purposes_ages_and_idle_times() {
    let pool = pool();
    let manual = ManualClock::new();
    let registry = TensorRegistry::with_clock(&pool, manual.clock());
    let weights = pool.for_purpose(Purpose::Weights);
    let tensor = BitNetTensor::zeros(&[2, 3], &weights).unwrap();
    let handle = TensorHandle::named("layer.0", tensor, &registry);
    assert_eq!((handle.name(), handle.purpose()), (Some("layer.0"), Purpose::Weights));
    assert_eq!(handle.metadata().shape(), [2, 3]);
    manual.advance(Duration::from_secs(5));
    assert_eq!(handle.idle_time(), Duration::from_secs(5));
    drop(handle.read().unwrap());
    manual.advance(Duration::from_secs(2));
    assert_eq!(handle.idle_time(), Duration::from_secs(2));
    assert_eq!(handle.age(), Duration::from_secs(7));
    assert!(format!("{handle:?}").contains("layer.0"));

    let names = |older_than| {
        let mut names = Vec::new();
        registry.for_each_idle(Duration::from_secs(older_than), |tensor| {
            names.push((tensor.name().unwrap().to_owned(), tensor.idle_time()));
            ControlFlow::Continue(())
        });
        names
    };
    assert_eq!(names(2), [("layer.0".to_owned(), Duration::from_secs(2))]);
    assert_eq!(names(3), []);
    let guard = handle.read().unwrap();
    assert_eq!(names(0), [], "a guard is out");
    drop(guard);
    assert_eq!(names(0).len(), 1);
}

#[test]
fn shared_and_refused_tensors_are_not_moved() {
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let handle = TensorHandle::new(
        BitNetTensor::from_f32(&[3], &[1.0, 2.0, 3.0], &pool).unwrap(),
        &registry,
    );
    let moved = |size| {
        let mut moved = None;
        registry.for_each_idle(Duration::ZERO, |tensor| {
            moved = Some(tensor.relocate(|_| pool.allocate(size, 64, &Device::Cpu)));
            ControlFlow::Break(())
        });
        moved.unwrap()
    };
    let address = || handle.read().unwrap().bytes().unwrap().as_ptr() as usize;
    let before = address();
    assert!(matches!(moved(13), Err(Error::BadStorage { got: 13, .. })));
    assert!(matches!(moved(usize::MAX), Err(Error::SizeOverflow { .. })));
    let view = handle.read().unwrap().narrow(0, 1..3).unwrap();
    assert_eq!(moved(12), Ok(false), "a view is alive");
    assert_eq!((before, view.f32().unwrap()), (address(), &[2.0, 3.0][..]));
    drop(view);
    assert_eq!(moved(12), Ok(true));
    assert_ne!(address(), before);
    assert_eq!(handle.read().unwrap().f32().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(allocated(&pool), 12);
}

#[test]
fn a_panicking_thread_leaks_no_tensor() {
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let handle = TensorHandle::new(BitNetTensor::zeros(&[8], &pool).unwrap(), &registry);
    let weak = handle.downgrade();
    let shared = handle.clone();
    let alone = TensorHandle::new(BitNetTensor::zeros(&[9], &pool).unwrap(), &registry);
    let ended = std::thread::spawn(move || {
        let _alone = alone;
        let mut guard = shared.write().unwrap();
        guard.f32_mut().unwrap()[0] = 1.0;
        std::panic::resume_unwind(Box::new("stopped under a guard"));
    })
    .join();
    assert!(ended.is_err());
    assert_eq!((registry.len(), allocated(&pool)), (1, 32), "tensors of that thread are freed");
    assert_eq!(handle.read().unwrap().f32().unwrap()[0], 1.0);
    drop(handle);
    assert!(weak.upgrade().is_none());
    assert_eq!(allocated(&pool), 0);
}

#[test]
fn moves_are_invisible_to_readers_and_writers() {
    const TENSORS: usize = 8;
    const ROUNDS: usize = 2_000;
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let handles: Vec<TensorHandle> = (0..TENSORS)
        .map(|at| {
            let values = numbered(256 + 64 * at, at as u32);
            let tensor = BitNetTensor::from_f32(&[values.len()], &values, &pool).unwrap();
            TensorHandle::new(tensor, &registry)
        })
        .collect();
    let over = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        for first in [0, 5] {
            let (handles, over) = (&handles, &over);
            scope.spawn(move || {
                let mut at = first;
                while !over.load(Ordering::Relaxed) {
                    let tensor = handles[at % TENSORS].read().unwrap();
                    let values = tensor.f32().unwrap();
                    // Writers change the seed, the first number.
                    let seed = (0..=u32::from(u8::MAX))
                        .find(|&seed| numbered(1, seed)[0].to_bits() == values[0].to_bits());
                    assert_eq!(sum(values), sum(&numbered(values.len(), seed.unwrap())));
                    at += 1;
                }
            });
        }
        scope.spawn(|| {
            let mut at = 0;
            while !over.load(Ordering::Relaxed) {
                let mut tensor = handles[at % TENSORS].write().unwrap();
                let values = tensor.f32_mut().unwrap();
                let fresh = numbered(values.len(), (at % 200) as u32);
                values.copy_from_slice(&fresh);
                at += 3;
            }
        });
        let mut moves = 0;
        for _ in 0..ROUNDS {
            registry.for_each_idle(Duration::ZERO, |tensor| {
                let moved = tensor.relocate(|old| pool.allocate(old.size(), 64, &Device::Cpu));
                moves += usize::from(moved.unwrap());
                ControlFlow::Continue(())
            });
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        moves
    });
    assert!(moves > ROUNDS, "only {moves} moves");
    drop(handles);
    assert_eq!(allocated(&pool), 0);
}
