//! The life of a tensor: made in a pool, viewed, held by handles, compressed while idle, saved, restored and mapped.
//!
//! `cargo run --release -p bitnet-core --example tensor_lifecycle`

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_core::memory::mapped::MapMode;
use bitnet_core::memory::shared_memory::SharedMemory;
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::{HybridMemoryPool, ManualClock, Purpose, snapshot};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let pool = HybridMemoryPool::new()?;
    let held = |when: &str| {
        println!("{:>12} bytes in use  {when}", pool.get_metrics().total_allocated);
    };
    held("at the start");

    // A tensor lives in a pool, under the purpose of the pool that makes it. These are trits times a scale.
    let mut weights = BitNetTensor::zeros(&[2048, 2048], &pool.for_purpose(Purpose::Weights))?;
    for (at, weight) in weights.f32_mut()?.iter_mut().enumerate() {
        *weight = 0.37 * (((at as u64 * 2_654_435_761) >> 7) % 3) as f32 - 0.37;
    }
    held("after [2048, 2048] of f32");

    // A view shares the memory: it costs nothing, and keeps the memory alive and unwritten.
    let corner = weights.narrow(0, 0..2)?.narrow(1, 0..4)?;
    held("after a view of it");
    println!("{:>12}               the view: {:?}", "", corner.to_contiguous(&pool)?.f32()?);
    println!("{:>12}               writing meanwhile: {}", "", error_of(weights.bytes_mut()));
    drop(corner);

    // Handles share the tensor. This clock is manual, so that the example need not wait for a minute.
    let manual = ManualClock::new();
    let registry = TensorRegistry::with_clock(&pool, manual.clock());
    let first = TensorHandle::named("weights", weights, &registry);
    let (second, weak) = (first.clone(), first.downgrade());
    drop(first);
    held("one of two handles dropped");

    // A tensor that has been idle for a minute is compressed; access restores it.
    let sum_before = sum(&second)?;
    manual.advance(Duration::from_secs(60));
    let start = Instant::now();
    let done = registry.compress_idle(Duration::from_secs(60))?;
    let took = start.elapsed();
    held(&format!("compressed from {} to {} in {took:.1?}", done.bytes_before, done.bytes_after));
    let start = Instant::now();
    let sum_after = sum(&second)?;
    held(&format!("restored by the next reader in {:.1?}", start.elapsed()));
    println!("{:>12}               the same numbers: {}", "", sum_before == sum_after);

    save_and_restore(&registry, &pool)?;
    share(&second)?;

    // The last handle frees the memory; weak handles then find nothing.
    drop(second);
    held("the last handle dropped");
    println!("{:>12}               a weak handle finds it: {}", "", weak.upgrade().is_some());
    println!("{:>12} bytes returned to the system", pool.trim());
    Ok(())
}

/// Saves the tensors of the registry, restores them to another pool, and maps the file in place.
fn save_and_restore(registry: &TensorRegistry, pool: &HybridMemoryPool) -> Outcome {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weights.snapshot");
    snapshot::write(BufWriter::new(File::create(&path)?), registry)?;
    let len = std::fs::metadata(&path)?.len();
    println!("{len:>12} bytes of snapshot");

    let other = HybridMemoryPool::new()?;
    let restored = snapshot::read(BufReader::new(File::open(&path)?), len, &other)?;
    let one = &restored[0];
    let there = other.get_metrics().total_allocated;
    println!("{there:>12} bytes in another pool  {:?} {:?}", one.name, one.tensor.shape());

    // A tensor of a snapshot is at a multiple of 64 bytes, so that it can be mapped. Writes are private.
    let before = pool.get_metrics().total_allocated;
    let metadata = one.tensor.metadata().clone();
    let mut mapped = BitNetTensor::map_file(&path, one.offset, metadata, MapMode::CopyOnWrite)?;
    mapped.f32_mut()?[0] = 9.0;
    mapped.check()?;
    let grown = pool.get_metrics().total_allocated - before;
    println!("{grown:>12} bytes of the pool for the same tensor, mapped and written");
    let again = snapshot::read(BufReader::new(File::open(&path)?), len, &other)?;
    let untouched = again[0].tensor.bytes()? == one.tensor.bytes()?;
    println!("{:>12}               the file is as it was: {untouched}", "");
    Ok(())
}

/// Copies the first row to memory that other processes can open.
fn share(handle: &TensorHandle) -> Outcome {
    let name = format!("example-{}", std::process::id());
    let memory = match SharedMemory::create(&name, 2048 * 4) {
        Ok(memory) => memory,
        Err(error) => {
            println!("{:>12}               {error}", "");
            return Ok(());
        }
    };
    let tensor = handle.read()?;
    let row = tensor.narrow(0, 0..1)?;
    let mut lease = memory.write(Duration::from_secs(1))?;
    lease.bytes_mut().copy_from_slice(row.bytes()?);
    drop(lease);
    // Any other process would open it like this.
    let lease = SharedMemory::open(&name)?.read(Duration::from_secs(1))?;
    let shared = BitNetTensor::from_external(row.metadata().clone(), Arc::new(lease))?;
    println!("{:>12} bytes shared between processes", shared.bytes()?.len());
    Ok(())
}

fn sum(handle: &TensorHandle) -> Outcome<f64> {
    let tensor = handle.read()?;
    Ok(tensor.f32()?.iter().map(|&weight| f64::from(weight)).sum())
}

fn error_of<T>(result: bitnet_core::Result<T>) -> String {
    result.err().map_or_else(|| "done".to_owned(), |error| error.to_string())
}
