//! Shows the reports of a tracked pool: `cargo run --release -p bitnet-core --example memory_tracking_demo`.
//!
//! Four users of one pool, each with a different pattern, one of them with a leak. Then the reports of the pool: its
//! metrics, the patterns, the leak with its line, the level over time, latencies, and a callback for memory pressure.
//! With a file name as its argument, it also writes the timeline there, for a trace viewer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use bitnet_core::device::Device;
use bitnet_core::memory::tracking::{Histogram, LatencyKind};
use bitnet_core::memory::{
    HybridMemoryPool, MemoryHandle, MemoryPoolConfig, Purpose, Tracker, TrackingConfig,
    TrackingLevel,
};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let pool = pool()?;
    pool.register_pressure_callback(Box::new(|level| {
        println!("  [callback] memory pressure is now {level:?}");
    }));
    let tracker = pool.tracker().ok_or("this pool is tracked")?;

    title("Four users of a pool");
    let weights = load_weights(&pool)?;
    println!("loaded weights     {} blocks, all live", weights.len());
    decode_tokens(&pool)?;
    println!("decoded tokens     short bursts at even intervals, everything freed");
    train_steps(&pool)?;
    println!("trained steps      activations accumulate, then are freed at once");
    let leaked = serve_requests(&pool)?;
    println!("served requests    and leaked some blocks");

    title("Metrics of the pool");
    let metrics = pool.get_detailed_metrics().ok_or("this pool is tracked")?;
    print!("{metrics}");

    title("Patterns, by the line that allocates");
    for (site, features) in &tracker.patterns().sites {
        println!(
            "{:<11} {:>5} events  line {}",
            format!("{:?}", features.pattern()),
            features.events,
            site.line()
        );
    }

    title("Bytes in use over time");
    show_timeline(tracker)?;

    title("Latency of an allocation");
    show_latencies(&pool, tracker)?;

    title("Allocations older than 50 ms");
    std::thread::sleep(Duration::from_millis(60));
    let mut report = tracker.leaks(Duration::from_millis(50));
    report.retain(|leak| leak.purpose != Purpose::Weights);
    print!("{report}");
    println!("\n(Without weights, which remain allocated.) After freeing these blocks:");
    drop(leaked);
    let mut report = tracker.leaks(Duration::from_millis(50));
    report.retain(|leak| leak.purpose != Purpose::Weights);
    print!("{report}");
    drop(weights);

    title("Memory pressure");
    squeeze(&pool)
}

/// A pool of 64 MiB for small and 192 MiB for large blocks that records everything.
fn pool() -> Outcome<HybridMemoryPool> {
    let config = MemoryPoolConfig {
        initial_small_pool_size: 0,
        max_small_pool_size: 64 << 20,
        initial_large_pool_size: 0,
        max_large_pool_size: 192 << 20,
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig {
            level: TrackingLevel::Detailed,
            ..TrackingConfig::default()
        }),
        ..MemoryPoolConfig::default()
    };
    Ok(HybridMemoryPool::with_config(config)?)
}

fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

/// One block after the other, none freed.
fn load_weights(pool: &HybridMemoryPool) -> Outcome<Vec<MemoryHandle>> {
    let pool = pool.for_purpose(Purpose::Weights);
    let mut weights = Vec::new();
    for layer in 0..40usize {
        weights.push(pool.allocate((600 + layer % 5 * 100) << 10, 64, &Device::Cpu)?);
        std::thread::sleep(Duration::from_micros(300));
    }
    Ok(weights)
}

/// A few buffers for each token, freed before the next.
fn decode_tokens(pool: &HybridMemoryPool) -> Outcome {
    let pool = pool.for_purpose(Purpose::Activations);
    let start = Instant::now();
    for token in 1..=30u32 {
        for layer in 0..12usize {
            drop(pool.allocate((layer % 4 + 1) * 2560, 64, &Device::Cpu)?);
        }
        let next = Duration::from_millis(4) * token;
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    Ok(())
}

/// Activations of each layer on the way forward, all freed at the end of a step.
fn train_steps(pool: &HybridMemoryPool) -> Outcome {
    let pool = pool.for_purpose(Purpose::Activations);
    for _ in 0..6 {
        let mut activations = Vec::new();
        for _ in 0..30 {
            activations.push(pool.allocate(1 << 20, 64, &Device::Cpu)?);
            std::thread::sleep(Duration::from_micros(400));
        }
    }
    Ok(())
}

/// A block for each request; every tenth is forgotten.
fn serve_requests(pool: &HybridMemoryPool) -> Outcome<Vec<MemoryHandle>> {
    let pool = pool.for_purpose(Purpose::KvCache);
    let mut forgotten = Vec::new();
    for request in 0..200usize {
        let block = pool.allocate(16 << 10, 64, &Device::Cpu)?;
        std::thread::sleep(Duration::from_micros(150));
        if request % 10 == 0 {
            forgotten.push(block);
        }
    }
    Ok(forgotten)
}

fn show_timeline(tracker: &Tracker) -> Outcome {
    let timeline = tracker.timeline();
    println!("{}", timeline.sparkline(80));
    let replay = timeline.replay();
    println!(
        "{} events in {:.0?}; replayed, they end with {} bytes in use and had {} at most",
        timeline.events.len(),
        timeline.span(),
        replay.total,
        replay.peak
    );
    if let Some(path) = std::env::args().nth(1) {
        let mut out = BufWriter::new(File::create(&path)?);
        timeline.write_chrome_trace(&mut out)?;
        out.flush()?;
        println!("written to {path}");
    }
    Ok(())
}

/// Times a thousand allocations and their ends with the clock of this program.
fn show_latencies(pool: &HybridMemoryPool, tracker: &Tracker) -> Outcome {
    let histogram = Histogram::default();
    for _ in 0..1000 {
        let start = Instant::now();
        let block = pool.allocate(4096, 64, &Device::Cpu)?;
        let nanoseconds = start.elapsed().as_nanos() as u64;
        tracker.latency(LatencyKind::Allocate, nanoseconds);
        histogram.record(nanoseconds);
        drop(block);
    }
    println!("{}", histogram.summary());
    let filled = histogram.filled();
    let most = filled.iter().map(|&(_, count)| count).max().unwrap_or(1);
    for (up_to, count) in filled.into_iter().filter(|&(_, count)| count * 50 >= most) {
        println!(
            "  up to {up_to:>7} ns {count:>5}  {}",
            "#".repeat((count * 50).div_ceil(most) as usize)
        );
    }
    Ok(())
}

/// Allocates blocks until pressure is high, and frees them.
fn squeeze(pool: &HybridMemoryPool) -> Outcome {
    let mut held = Vec::new();
    for _ in 0..180 {
        held.push(pool.allocate(1 << 20, 64, &Device::Cpu)?);
    }
    for _ in 0..240 {
        match pool.allocate(256 << 10, 64, &Device::Cpu) {
            Ok(block) => held.push(block),
            Err(error) => {
                println!("  {error}");
                break;
            }
        }
    }
    println!("  {} bytes are in use; giving them back", pool.get_metrics().total_allocated);
    drop(held);
    Ok(())
}
