//! How a pool returns memory to the system: idle, fragmented, under pressure.
//! Every figure printed is measured in this run.

use std::time::Duration;

use bitnet_core::Result;
use bitnet_core::device::Device;
use bitnet_core::memory::cleanup::{CleanupSchedule, Strategy};
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::tracking::SystemFiles;
use bitnet_core::memory::{
    CleanupConfig, CleanupReport, HybridMemoryPool, ManualClock, MemoryHandle, MemoryPoolConfig,
};

const MIB: usize = 1 << 20;
const CLEANUPS: usize = 200;

fn main() -> Result<()> {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig {
        initial_small_pool_size: 0,
        initial_large_pool_size: 0,
        max_small_pool_size: 128 * MIB,
        max_large_pool_size: 128 * MIB,
        cleanup_config: Some(CleanupConfig::default()),
        ..Default::default()
    })?;
    let manual = ManualClock::new();
    // Where the files of the system are absent, only the pool itself can be short of memory.
    let system = Box::new(SystemFiles::under("absent"));
    let config = pool.cleanup_config().clone();
    let mut schedule = CleanupSchedule::with_system(config, manual.clock(), system);

    idle(&pool, &manual, &mut schedule)?;
    fragmented(&pool, &manual)?;
    pressed(&pool, &manual, &mut schedule)?;
    budget(&pool)?;
    totals(&pool);
    Ok(())
}

/// Bytes as MiB; a dash where the system does not report them.
fn mib(bytes: Option<usize>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / MIB as f64))
}

fn show(pool: &HybridMemoryPool, what: &str) {
    let metrics = pool.get_metrics();
    println!(
        "{what:<44} in use {:>6.1} MiB, in memory {:>6} MiB",
        metrics.total_allocated as f64 / MIB as f64,
        mib(pool.resident_bytes()),
    );
}

fn print_report(report: &CleanupReport) {
    println!("  {report}");
}

fn touched(pool: &HybridMemoryPool, size: usize) -> Result<MemoryHandle> {
    let mut block = pool.allocate(size, 64, &Device::Cpu)?;
    block.bytes_mut().fill(1);
    Ok(block)
}

/// Freed memory remains in the pool until the pool has been idle for a while.
fn idle(
    pool: &HybridMemoryPool,
    manual: &ManualClock,
    schedule: &mut CleanupSchedule,
) -> Result<()> {
    println!("1. An idle pool");
    let sizes = [(2000, 4000), (200, 100_000), (10, 3 * MIB)];
    let mut blocks = Vec::new();
    for (count, size) in sizes {
        for _ in 0..count {
            blocks.push(touched(pool, size)?);
        }
    }
    show(pool, "blocks of three sizes");
    drop(blocks);
    show(pool, "all freed: cached for the next request");
    schedule.run_due(pool);
    manual.advance(Duration::from_secs(29));
    println!("  29 s later: {}", if schedule.run_due(pool).is_none() { "not due" } else { "due" });
    manual.advance(Duration::from_secs(1));
    if let Some(report) = schedule.run_due(pool) {
        print_report(&report);
    }
    show(pool, "30 s after the last use");
    Ok(())
}

/// A few tensors in many slabs keep them all; moved together, they need a few.
fn fragmented(pool: &HybridMemoryPool, manual: &ManualClock) -> Result<()> {
    println!("\n2. Fragmentation");
    let registry = TensorRegistry::with_clock(pool, manual.clock());
    let mut live = Vec::new();
    for number in 0..8000_usize {
        let value = number as f32;
        let tensor = BitNetTensor::from_f32(&[1500], &[value; 1500], pool)?;
        live.push((value, TensorHandle::new(tensor, &registry)));
    }
    show(pool, "tensors of 6000 bytes");
    live.retain(|(value, _)| value % 20.0 == 0.0);
    show(pool, "one tensor of 20 left");
    pool.trim();
    show(pool, "free memory released, nothing moved");
    print_report(&pool.cleanup_now());
    show(pool, "moved together");
    let mut whole = 0;
    for (value, handle) in &live {
        whole += usize::from(handle.read()?.f32()?.iter().all(|v| v == value));
    }
    println!("  {whole} of {} tensors hold what was written", live.len());
    Ok(())
}

/// When most of the limit is in use, idle tensors are compressed.
fn pressed(
    pool: &HybridMemoryPool,
    manual: &ManualClock,
    schedule: &mut CleanupSchedule,
) -> Result<()> {
    println!("\n3. Pressure (limit {} MiB)", 256);
    let registry = TensorRegistry::with_clock(pool, manual.clock());
    let mut handles = Vec::new();
    for _ in 0..31 {
        let tensor = BitNetTensor::zeros(&[MIB], pool)?;
        handles.push(TensorHandle::new(tensor, &registry));
    }
    for handle in &handles {
        handle.write()?.f32_mut()?.fill(0.5);
    }
    let mut blocks = Vec::new();
    for _ in 0..120 {
        blocks.push(touched(pool, 990_000)?);
    }
    show(pool, "tensors and blocks");
    manual.advance(Duration::from_secs(31));
    match schedule.run_due(pool) {
        Some(report) => print_report(&report),
        None => println!("  not due"),
    }
    show(pool, "after the cleanup");
    let packed = handles.iter().filter(|handle| handle.is_compressed()).count();
    println!(
        "  {packed} of {} tensors are compressed and come back when they are read",
        handles.len()
    );
    Ok(())
}

/// The duration of cleanups of a pool with much free memory, against their limit.
fn budget(pool: &HybridMemoryPool) -> Result<()> {
    println!("\n4. Time, over {CLEANUPS} cleanups of 24 MiB each");
    let mut times = Vec::new();
    for _ in 0..CLEANUPS {
        let mut blocks = Vec::new();
        for size in [100, 10_000, 500_000, 4 * MIB] {
            for _ in 0..(6 * MIB / size).min(200) {
                blocks.push(touched(pool, size)?);
            }
        }
        drop(blocks);
        times.push(pool.cleanup(Strategy::OnDemand).took);
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "  median {:.2?}, p99 {:.2?}, longest {:.2?}; the budget is {:?}",
        at(0.5),
        at(0.99),
        at(1.0),
        pool.cleanup_config().max_cleanup_time,
    );
    Ok(())
}

fn totals(pool: &HybridMemoryPool) {
    let metrics = pool.cleanup_metrics();
    println!("\n5. All cleanups of this pool");
    for strategy in Strategy::ALL {
        println!("  {:<10} {:>6} runs", format!("{strategy:?}"), metrics.runs(strategy));
    }
    println!(
        "  returned   {:>6.1} MiB, as reported by the system",
        metrics.returned as f64 / MIB as f64
    );
    println!("  moved      {:>6} tensors, {} bytes", metrics.moved.0, metrics.moved.1);
    println!(
        "  compressed {:>6} tensors, {} bytes saved",
        metrics.compressed.0, metrics.compressed.1
    );
    println!("  cut short  {:>6}", metrics.cut);
    println!("  too long   {:>6}, at worst by {:.2?}", metrics.overruns, metrics.worst_overrun);
    println!("  longest    {:>6.2?}", metrics.longest);
}
