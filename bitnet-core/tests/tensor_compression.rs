//! Compression of idle tensors: the bytes that it frees, losslessness, and concurrent readers.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::tensor::{
    BitNetDType, BitNetTensor, Compressed, ExternalBytes, TensorHandle, TensorMetadata,
    TensorRegistry,
};
use bitnet_core::memory::{HybridMemoryPool, ManualClock, MemoryPoolConfig, Purpose};

/// Bytes outside every pool.
struct Outside([u8; 4]);

impl ExternalBytes for Outside {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn allocated(pool: &HybridMemoryPool) -> usize {
    pool.get_metrics().total_allocated as usize
}

/// A sequence without a pattern (xorshift).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Like the weights of a layer: a sum of uniform numbers, with a standard deviation of 0.02.
fn weight(state: &mut u64) -> f32 {
    let sum: f32 = (0..12).map(|_| (random(state) >> 40) as f32 / (1u64 << 24) as f32).sum();
    (sum - 6.0) * 0.02
}

fn tensor(dtype: BitNetDType, bytes: &[u8], pool: &HybridMemoryPool) -> BitNetTensor {
    let (elements, unit) = dtype.packing();
    let shape = vec![bytes.len() / unit * elements];
    let mut out = BitNetTensor::new(TensorMetadata::new(shape, dtype, Device::Cpu), pool).unwrap();
    out.bytes_mut().unwrap().copy_from_slice(bytes);
    out
}

#[test]
fn each_kind_of_data_reaches_its_ratio() {
    const N: usize = 1 << 18;
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let trits: Vec<i8> =
        (0..N).map(|_| [-1, 0, 0, 1][(random(&mut state) >> 62) as usize]).collect();
    let floats: Vec<u8> = (0..N).flat_map(|_| weight(&mut state).to_le_bytes()).collect();
    let cases = [
        ("zeros", BitNetDType::F32, vec![0; 4 * N], 200.0),
        ("trits as numbers", BitNetDType::F32, ternary_f32(&trits), 10.0),
        ("trits as bytes", BitNetDType::I8, bytemuck::cast_slice(&trits).to_vec(), 3.5),
        ("f32 weights", BitNetDType::F32, floats.clone(), 1.1),
        ("bf16 weights", BitNetDType::BF16, upper_halves(&floats), 1.25),
        ("small f32 integers", BitNetDType::F32, counted(N), 2.0),
        ("packed trits", BitNetDType::I2, two_bits(&trits), 1.0),
        (
            "random",
            BitNetDType::I8,
            (0..N).map(|_| (random(&mut state) >> 56) as u8).collect(),
            1.0,
        ),
    ];
    for (name, dtype, bytes, least) in cases {
        let pool = pool();
        let registry = TensorRegistry::new(&pool);
        let handle = TensorHandle::new(tensor(dtype, &bytes, &pool), &registry);
        assert_eq!(allocated(&pool), bytes.len());
        let done = registry.compress_idle(Duration::ZERO).unwrap();
        let ratio = bytes.len() as f64 / allocated(&pool) as f64;
        println!("{name:20} {dtype:8} {ratio:8.2}");
        if least > 1.0 {
            assert!(ratio >= least, "{name}: {ratio}");
            let after = allocated(&pool);
            let expected = Compressed { tensors: 1, bytes_before: bytes.len(), bytes_after: after };
            assert_eq!(done, expected, "{name}");
        } else {
            assert_eq!((done, ratio), (Compressed::default(), 1.0), "{name}: unchanged");
        }
        assert!(handle.read().unwrap().bytes().unwrap() == &bytes[..], "{name}");
        assert_eq!(allocated(&pool), bytes.len(), "{name}: restored");
    }
}

fn ternary_f32(trits: &[i8]) -> Vec<u8> {
    trits.iter().flat_map(|&trit| (f32::from(trit) * 0.37).to_le_bytes()).collect()
}

fn upper_halves(floats: &[u8]) -> Vec<u8> {
    floats.chunks(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect()
}

fn counted(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| ((i % 1000) as f32).to_le_bytes()).collect()
}

fn two_bits(trits: &[i8]) -> Vec<u8> {
    trits
        .chunks(4)
        .map(|four| {
            four.iter().enumerate().fold(0, |byte, (i, &t)| byte | ((t + 1) as u8) << (2 * i))
        })
        .collect()
}

#[test]
fn only_idle_tensors_are_compressed() {
    let pool = pool();
    let manual = ManualClock::new();
    let registry = TensorRegistry::with_clock(&pool, manual.clock());
    let weights = pool.for_purpose(Purpose::Weights);
    let old =
        TensorHandle::named("old", BitNetTensor::zeros(&[10_000], &weights).unwrap(), &registry);
    manual.advance(Duration::from_secs(10));
    let young =
        TensorHandle::named("young", BitNetTensor::zeros(&[10_000], &pool).unwrap(), &registry);
    let outside = BitNetTensor::from_external(
        TensorMetadata::new(vec![4], BitNetDType::I8, Device::Cpu),
        std::sync::Arc::new(Outside([1; 4])),
    );
    let outside = TensorHandle::new(outside.unwrap(), &registry);
    let view = young.read().unwrap().narrow(0, 0..10).unwrap();

    let done = registry.compress_idle(Duration::from_secs(5)).unwrap();
    assert_eq!((done.tensors, done.bytes_before), (1, 40_000));
    assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 0, "a view is alive");
    drop(view);
    assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    assert!(old.is_compressed() && young.is_compressed() && !outside.is_compressed());
    assert_eq!(old.metadata().shape(), [10_000], "asking for the shape restores nothing");
    assert!(old.is_compressed());

    old.write().unwrap().f32_mut().unwrap()[9_999] = 4.0;
    assert!(!old.is_compressed());
    assert_eq!(
        pool.allocated_by_purpose()[Purpose::Weights.index()],
        40_000,
        "its purpose is preserved"
    );
    assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    assert_eq!(old.read().unwrap().f32().unwrap()[9_999], 4.0);
    drop((old, young));
    assert_eq!(allocated(&pool), 0, "one was dropped compressed");
}

#[test]
fn a_tensor_remains_compressed_until_memory_allows_its_restore() {
    let limited = MemoryPoolConfig {
        initial_small_pool_size: 0,
        max_small_pool_size: 4 << 20,
        initial_large_pool_size: 0,
        max_large_pool_size: 4 << 20,
        ..MemoryPoolConfig::default()
    };
    let pool = HybridMemoryPool::with_config(limited).unwrap();
    let registry = TensorRegistry::new(&pool);
    let values: Vec<f32> = (0..120_000).map(|i| (i % 50) as f32).collect();
    let handle =
        TensorHandle::new(BitNetTensor::from_f32(&[120_000], &values, &pool).unwrap(), &registry);
    assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    let mut hogs = Vec::new();
    for size in [512 << 10, 64 << 10, 4 << 10] {
        while let Ok(hog) = pool.allocate(size, 64, &Device::Cpu) {
            hogs.push(hog);
        }
    }
    assert!(matches!(handle.read(), Err(Error::OutOfMemory { .. })));
    assert!(matches!(handle.write(), Err(Error::OutOfMemory { .. })));
    assert!(handle.is_compressed());
    drop(hogs);
    assert!(handle.read().unwrap().f32().unwrap() == values);

    // The same for packing: there is no memory besides the tensor's.
    let mut hogs = Vec::new();
    for size in [512 << 10, 64 << 10, 4 << 10] {
        while let Ok(hog) = pool.allocate(size, 64, &Device::Cpu) {
            hogs.push(hog);
        }
    }
    let refused = registry.compress_idle(Duration::ZERO);
    assert!(matches!(refused, Err(Error::OutOfMemory { .. })));
    assert!(handle.read().unwrap().f32().unwrap() == values);
}

#[test]
fn concurrent_readers_see_consistent_tensors() {
    const ROUNDS: usize = 2_000;
    // Tensors being read are skipped, so that the number compressed in a round varies.
    const ENOUGH: usize = 100;
    const MOST_ROUNDS: usize = 1_000_000;
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let contents: Vec<Vec<f32>> = (0..6)
        .map(|at| (0..2_000 + at * 37).map(|i| ((i * (at + 3)) % 91) as f32).collect())
        .collect();
    let handles: Vec<TensorHandle> = contents
        .iter()
        .map(|values| {
            let tensor = BitNetTensor::from_f32(&[values.len()], values, &pool).unwrap();
            TensorHandle::new(tensor, &registry)
        })
        .collect();
    let over = AtomicBool::new(false);
    let (compressed, moved) = std::thread::scope(|scope| {
        for first in 0..3 {
            let (handles, contents, over) = (&handles, &contents, &over);
            scope.spawn(move || {
                let mut at = first;
                while !over.load(Ordering::Relaxed) {
                    let (handle, values) = (&handles[at % 6], &contents[at % 6]);
                    assert!(handle.read().unwrap().f32().unwrap() == values);
                    at += 1;
                }
            });
        }
        let (mut compressed, mut moved) = (0, 0);
        for round in 0..MOST_ROUNDS {
            if round >= ROUNDS && compressed > ENOUGH && moved > ENOUGH {
                break;
            }
            registry.for_each_idle(Duration::ZERO, |tensor| {
                if round % 2 == 0 {
                    compressed += tensor.compress().unwrap().tensors;
                } else {
                    let there = |old: &_| fresh(old, &pool);
                    moved += usize::from(tensor.relocate(there).unwrap());
                }
                ControlFlow::Continue(())
            });
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        (compressed, moved)
    });
    assert!(compressed > ENOUGH && moved > ENOUGH, "{compressed} compressed, {moved} moved");
    for (handle, values) in handles.iter().zip(&contents) {
        assert!(handle.read().unwrap().f32().unwrap() == values);
    }
    drop(handles);
    assert_eq!(allocated(&pool), 0);
}

fn fresh(
    old: &bitnet_core::memory::MemoryHandle,
    pool: &HybridMemoryPool,
) -> bitnet_core::Result<bitnet_core::memory::MemoryHandle> {
    pool.allocate(old.size(), 64, &Device::Cpu)
}

#[cfg(target_os = "linux")]
#[test]
fn compression_releases_memory_to_the_system() {
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let mut tensor = BitNetTensor::zeros(&[64, 1 << 18], &pool).unwrap();
    for (i, value) in tensor.f32_mut().unwrap().iter_mut().enumerate() {
        *value = (i % 3) as f32 - 1.0;
    }
    let handle = TensorHandle::new(tensor, &registry);
    let before = resident();
    let done = registry.compress_idle(Duration::ZERO).unwrap();
    assert!(done.bytes_after < done.bytes_before / 10, "{done:?}");
    pool.trim();
    let after = resident();
    assert!(before - after > 48 << 20, "{before} -> {after} resident bytes");
    let tensor = handle.read().unwrap();
    let found = tensor.f32().unwrap();
    assert!(found.iter().enumerate().all(|(i, &value)| value == (i % 3) as f32 - 1.0));
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<i64>().unwrap()
}
