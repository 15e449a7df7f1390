//! Every kernel on every kind of memory: blocks do not overlap, are aligned, and are all freed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnet_benchmarks::blocks::{Blocks, Line, Pair, Pool, Refused, System};
use bitnet_benchmarks::sampling::Plan;
use bitnet_benchmarks::suite::{Bench, Work};
use bitnet_benchmarks::suites;
use bitnet_benchmarks::worker;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};

/// Live blocks: start and end addresses.
type Alive = Arc<Mutex<BTreeMap<usize, usize>>>;

/// Memory with checked blocks.
struct Watched<B> {
    inner: B,
    align: usize,
    alive: Alive,
}

struct WatchedBlock<T> {
    /// Removes the address before freeing the block.
    inner: Option<T>,
    address: usize,
    bytes: usize,
    alive: Alive,
}

impl<T> Drop for WatchedBlock<T> {
    fn drop(&mut self) {
        // Removed first: after the free, another thread may get the address.
        assert!(self.alive.lock().unwrap().remove(&self.address).is_some());
        drop(self.inner.take());
    }
}

impl<B: Blocks> Blocks for Watched<B> {
    type Block = WatchedBlock<B::Block>;

    fn take(&self, bytes: usize) -> Result<Self::Block, Refused> {
        let block = self.inner.take(bytes)?;
        let address = B::address(&block);
        assert_eq!(address % self.align, 0, "{bytes} bytes");
        let mut alive = self.alive.lock().unwrap();
        let below = alive.range(..=address).next_back();
        assert!(below.is_none_or(|(_, &end)| end <= address), "overlaps the one below");
        let above = alive.range(address..).next();
        assert!(above.is_none_or(|(&start, _)| address + bytes <= start), "overlaps the one above");
        alive.insert(address, address + bytes);
        drop(alive);
        let alive = Arc::clone(&self.alive);
        Ok(WatchedBlock { inner: Some(block), address, bytes, alive })
    }

    fn free(&self, mut block: Self::Block) {
        assert!(self.alive.lock().unwrap().remove(&block.address).is_some());
        self.inner.free(block.inner.take().unwrap());
        // Another thread may already use the address.
        block.address = usize::MAX;
        std::mem::forget(block);
    }

    fn write(block: &mut Self::Block, at: usize, value: u64) {
        assert!(at + 8 <= block.bytes.next_multiple_of(8), "{at} in {} bytes", block.bytes);
        B::write(block.inner.as_mut().unwrap(), at, value);
    }

    fn fill(block: &mut Self::Block, bytes: usize) {
        B::fill(block.inner.as_mut().unwrap(), bytes);
    }

    fn address(block: &Self::Block) -> usize {
        block.address
    }
}

/// Benchmarks that are quick with an empty plan; the footprint touches half a gigabyte.
fn benches() -> Vec<Bench> {
    let all = suites::all().into_iter().flat_map(|suite| suite.benches);
    let slow = |work: &Work| matches!(work, Work::Footprint(_));
    all.filter(|bench| bench.work.is_for_allocators() && !slow(&bench.work)).collect()
}

fn check<B: Blocks>(inner: B, align: usize) {
    let watched = Watched { inner, align, alive: Alive::default() };
    let plan = Plan { sample: Duration::from_micros(200), samples: 2, ..Plan::ONCE };
    for bench in benches() {
        let samples = worker::run(&bench, &watched, &plan).unwrap();
        assert_eq!(samples.len(), bench.series.len(), "{}", bench.id());
        for sample in samples.iter().flatten() {
            assert!(sample.is_finite() && *sample > 0.0, "{}: {sample}", bench.id());
        }
        let left = watched.alive.lock().unwrap().len();
        assert_eq!(left, 0, "{}: blocks were not freed", bench.id());
    }
}

#[test]
fn on_lines_of_the_programs_allocator() {
    check(System::<Line>::new(), 64);
}

#[test]
fn on_the_programs_allocator_as_it_is() {
    check(System::<Pair>::new(), 16);
}

#[test]
fn on_a_pool() {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
    check(Pool(pool.clone()), 64);
    let metrics = pool.get_metrics();
    assert_eq!(metrics.total_allocated, 0);
    assert_eq!(metrics.allocations, metrics.deallocations);
}

#[test]
fn an_impossible_size_is_refused() {
    let bytes = isize::MAX as usize;
    assert_eq!(System::<Line>::new().take(bytes).err(), Some(Refused { bytes }));
    let pool = HybridMemoryPool::new().unwrap();
    assert_eq!(Pool(pool).take(bytes).err(), Some(Refused { bytes }));
}
