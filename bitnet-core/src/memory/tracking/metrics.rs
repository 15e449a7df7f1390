//! The detailed metrics of a pool.

use std::fmt;
use std::time::Duration;

use super::{
    AllocationPattern, LatencyKind, LatencySummary, MemoryPressureLevel, OperationFigures,
    PatternFeatures, PoolFigures, Rates, Step, Tracker, TrackingLevel,
};
use crate::memory::Purpose;
use crate::memory::units::{bytes, duration};

/// The detailed metrics of a pool at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DetailedMetrics {
    /// How much is recorded.
    pub level: TrackingLevel,
    /// How scarce memory is, for the pool or on the system;
    /// [`MemoryPressureLevel::None`] too if pressure is not watched.
    pub pressure_level: MemoryPressureLevel,
    /// The part of the mapped bytes that is lost to rounding or to scattered free pieces (0 to 1):
    /// [`PoolFigures::fragmentation`].
    pub fragmentation_ratio: f64,
    /// The part of the occupied bytes that was not requested: [`PoolFigures::internal_fragmentation`].
    pub internal_fragmentation: f64,
    /// The part of the free bytes outside the largest free piece
    /// of their region: [`PoolFigures::external_fragmentation`].
    pub external_fragmentation: f64,
    /// The figures of the pool: bytes, peaks, classes, purposes.
    pub figures: PoolFigures,
    /// How long the pool has been recorded.
    pub age: Duration,
    /// Allocations that were refused.
    pub failed_allocations: u64,
    /// Live recorded allocations that are older than `leak_detection_interval`; `None` if none are recorded.
    pub suspected_leaks: Option<SuspectedLeaks>,
    /// How the pool was used lately, as far as recorded.
    pub pattern: AllocationPattern,
    /// The recent rates of allocation; `None` if too little was recorded.
    pub rates: Option<Rates>,
    /// Latencies, at level Detailed, of each kind that was measured.
    pub latencies: Vec<(LatencyKind, LatencySummary)>,
    /// The figures of operations, the one that took longest first.
    pub operations: Vec<OperationFigures>,
    /// Bytes of memory of the records.
    pub tracking_overhead_bytes: usize,
    /// Allocations that should have been recorded, but for which there was no memory.
    pub lost_records: u64,
}

/// The live allocations older than `leak_detection_interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SuspectedLeaks {
    /// Recorded allocations.
    pub count: usize,
    /// The bytes that they represent.
    pub bytes: u64,
}

impl Tracker {
    /// Returns the metrics, with the pool's own figures; `None` at level None.
    pub fn detailed_metrics(&self, figures: PoolFigures) -> Option<DetailedMetrics> {
        if self.level() == TrackingLevel::None {
            return None;
        }
        let leaks = self.leaks(self.config().leak_detection_interval);
        let suspected = SuspectedLeaks { count: leaks.leaks.len(), bytes: leaks.bytes() };
        let timeline = self.timeline();
        let steps: Vec<Step> = timeline.events.iter().map(Step::from).collect();
        let measured =
            |kind| Some((kind, self.latencies(kind).filter(|figures| figures.count > 0)?));
        Some(DetailedMetrics {
            level: self.level(),
            pressure_level: self.pressure().map(|monitor| monitor.level()).unwrap_or_default(),
            fragmentation_ratio: figures.fragmentation(),
            internal_fragmentation: figures.internal_fragmentation(),
            external_fragmentation: figures.external_fragmentation(),
            figures,
            age: self.age(),
            failed_allocations: self.failures().0,
            suspected_leaks: leaks.enabled.then_some(suspected),
            pattern: PatternFeatures::of(&steps).pattern(),
            rates: Rates::of(&timeline),
            latencies: LatencyKind::ALL.into_iter().filter_map(measured).collect(),
            operations: self.operations(),
            tracking_overhead_bytes: self.overhead(),
            lost_records: self.lost(),
        })
    }
}

impl fmt::Display for DetailedMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoolFigures { requested, peak_requested, occupied, mapped, .. } = self.figures;
        writeln!(f, "pressure            {:?}", self.pressure_level)?;
        writeln!(f, "in use              {}, at most {}", bytes(requested), bytes(peak_requested))?;
        writeln!(f, "occupied, mapped    {}, {}", bytes(occupied), bytes(mapped))?;
        let calls = (self.figures.allocations, self.figures.deallocations, self.failed_allocations);
        writeln!(f, "allocated, freed    {}, {} times; {} refused", calls.0, calls.1, calls.2)?;
        let percent = |part: f64| part * 100.0;
        writeln!(
            f,
            "fragmentation       {:.2}% of what is mapped; inside blocks {:.2}%, between them {:.2}%",
            percent(self.fragmentation_ratio),
            percent(self.internal_fragmentation),
            percent(self.external_fragmentation)
        )?;
        for (purpose, &held) in Purpose::ALL.iter().zip(&self.figures.by_purpose) {
            if held > 0 {
                writeln!(f, "  {:<17} {}", purpose.to_string(), bytes(held))?;
            }
        }
        self.fmt_recorded(f)?;
        let overhead = bytes(self.tracking_overhead_bytes as u64);
        writeln!(f, "recording           level {:?}, {overhead} of records", self.level)
    }
}

impl DetailedMetrics {
    fn fmt_recorded(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(SuspectedLeaks { count, bytes: size }) = self.suspected_leaks {
            writeln!(f, "suspected leaks     {count}, {}", bytes(size))?;
        }
        if self.pattern != AllocationPattern::Unknown {
            writeln!(f, "pattern             {:?}", self.pattern)?;
        }
        if let Some(rates) = self.rates {
            let (count, size) =
                (rates.allocations_per_second, bytes(rates.bytes_per_second as u64));
            let span = duration(rates.span);
            writeln!(
                f,
                "rate                {count:.0} recorded allocations/s, {size}/s over {span}"
            )?;
        }
        for (kind, figures) in &self.latencies {
            writeln!(f, "{:<19} {figures}", kind.to_string())?;
        }
        for operation in &self.operations {
            let time = duration(operation.time);
            write!(f, "{:<19} {} times, {time}", operation.name, operation.calls)?;
            match operation.gigabytes_per_second() {
                Some(rate) => writeln!(f, ", {rate:.2} GB/s")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
