//! What a model's memory holds, how much of it is lost between blocks, and how fast the back end reads.

use std::fmt;
use std::time::{Duration, Instant};

use bitnet_core::backend::Backend;
use bitnet_core::device::DeviceCapabilities;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::report::PurposeUse;
use bitnet_core::memory::tracking::OperationFigures;
use bitnet_core::memory::units::bytes;

/// The memory of a model at one moment, by the books of its pool and the counters of its back end. What they do not say
/// is `None`, or an empty list.
///
/// ```
/// use std::sync::Arc;
///
/// use bitnet_core::device::{Device, DeviceCapabilities};
/// use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, TrackingConfig, TrackingLevel};
/// use bitnet_cpu::CpuOptions;
/// use bitnet_inference::{LoadOptions, Model, ModelSource, backend_in_pool};
///
/// let tracking = TrackingConfig { level: TrackingLevel::Detailed, ..TrackingConfig::default() };
/// let pool = HybridMemoryPool::with_config(MemoryPoolConfig {
///     enable_advanced_tracking: true,
///     tracking_config: Some(tracking),
///     ..MemoryPoolConfig::unbounded()
/// })?;
/// let backend = backend_in_pool("cpu", CpuOptions::default(), &pool)?;
/// let model =
///     Model::load_with(ModelSource::Embedded, &LoadOptions::default(), backend, &mut |_, _| {})?;
/// model.complete("Once upon a time", 8)?;
///
/// let stats = model.memory_stats();
/// println!("{stats}");
/// let machine = DeviceCapabilities::for_device(&Device::Cpu);
/// if let Some(share) = stats.bandwidth_utilisation(&machine) {
///     println!("{:.0} % of the memory bandwidth", share * 100.0);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes requested by the allocations that are alive.
    pub live: u64,
    /// The most that this was at a time.
    pub peak: u64,
    /// Bytes of address space that the pool has from the system.
    pub reserved: u64,
    /// Live and peak bytes for each purpose; the peaks are known if every allocation is recorded (level Detailed).
    pub purposes: Vec<PurposeUse>,
    /// What is lost between blocks; `None` if the pool is not tracked.
    pub fragmentation: Option<Fragmentation>,
    /// Bytes of weights, heads and caches that the back end has read since it was made; `None` if it does not count.
    pub bytes_read: Option<u64>,
    /// The back end's operations, the one that took longest in all first, estimated from some of their runs; none
    /// unless its pool is tracked at level Standard or Detailed.
    pub operations: Vec<OperationFigures>,
    /// When this was found.
    pub taken: Instant,
}

/// Bytes of a pool that serve nobody, as parts of a whole (0 to 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fragmentation {
    /// Of what is mapped: lost to rounding, or to free pieces beside the largest one.
    pub ratio: f64,
    /// Of what blocks occupy: not requested.
    pub internal: f64,
    /// Of what is free among large blocks: not in the largest piece.
    pub external: f64,
}

impl MemoryStats {
    /// What `pool` holds and `backend` has read. Its operations are in its own pool's records, wherever `pool` is.
    pub fn of(pool: &HybridMemoryPool, backend: &dyn Backend) -> Self {
        let metrics = pool.get_metrics();
        let tracker = backend.pool().and_then(HybridMemoryPool::tracker);
        Self {
            live: metrics.total_allocated,
            peak: metrics.peak_allocated,
            reserved: metrics.reserved,
            purposes: PurposeUse::of(pool),
            fragmentation: pool.get_detailed_metrics().map(|metrics| Fragmentation {
                ratio: metrics.fragmentation_ratio,
                internal: metrics.internal_fragmentation,
                external: metrics.external_fragmentation,
            }),
            bytes_read: backend.traffic().map(|traffic| traffic.bytes()),
            operations: tracker.map(|tracker| tracker.operations()).unwrap_or_default(),
            taken: Instant::now(),
        }
    }

    /// Bytes that the back end read in a second of the time that it spent in operations, since it was made; `None` if
    /// no operation is recorded. Where several threads call at once, their times are added up.
    pub fn bandwidth(&self) -> Option<f64> {
        let time: Duration = self.operations.iter().map(|operation| operation.time).sum();
        let read: u64 = self.operations.iter().map(|operation| operation.bytes).sum();
        (!time.is_zero()).then(|| read as f64 / time.as_secs_f64())
    }

    /// Bytes that the back end read in a second since `earlier`, by the clock; `None` if it does not count them, or if
    /// `earlier` is not earlier.
    pub fn bandwidth_since(&self, earlier: &Self) -> Option<f64> {
        let read = self.bytes_read?.checked_sub(earlier.bytes_read?)?;
        let time = self.taken.checked_duration_since(earlier.taken)?;
        (!time.is_zero()).then(|| read as f64 / time.as_secs_f64())
    }

    /// [`MemoryStats::bandwidth`] as a part of what `machine` reads in a second; more than 1 means that caches hold
    /// what is read. `None` if either was not measured.
    pub fn bandwidth_utilisation(&self, machine: &DeviceCapabilities) -> Option<f64> {
        let measured = machine.memory_bandwidth?.read;
        (measured > 0.0).then_some(self.bandwidth()? / measured)
    }
}

impl fmt::Display for MemoryStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, peak, reserved, .. } = *self;
        writeln!(f, "in use         {}, at most {}", bytes(live), bytes(peak))?;
        writeln!(f, "reserved       {}", bytes(reserved))?;
        let held = |held: &&PurposeUse| held.live > 0 || held.peak.is_some_and(|peak| peak > 0);
        for PurposeUse { purpose, live, peak, .. } in self.purposes.iter().filter(held) {
            write!(f, "  {:<12} {}", purpose.to_string(), bytes(*live))?;
            match peak {
                Some(peak) => writeln!(f, ", at most {}", bytes(*peak))?,
                None => writeln!(f)?,
            }
        }
        if let Some(Fragmentation { ratio, internal, external }) = self.fragmentation {
            let [ratio, internal, external] = [ratio, internal, external].map(|part| part * 100.0);
            writeln!(
                f,
                "fragmentation  {ratio:.2}% of what is mapped; inside blocks {internal:.2}%, between them {external:.2}%"
            )?;
        }
        if let Some(read) = self.bytes_read {
            writeln!(f, "read           {} by the back end", bytes(read))?;
        }
        if let Some(rate) = self.bandwidth() {
            writeln!(f, "bandwidth      {}/s while operations ran", bytes(rate as u64))?;
        }
        Ok(())
    }
}
