//! The suites: benchmarks, their names, and their compared subjects.

use bitnet_core::memory::TrackingLevel;
use bitnet_core::simd::IsaLevel;
use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::footprint::Mix;
use crate::kernels::Touch;
use crate::layers::Layers;
use crate::products::{Library, Shape};
use crate::quantizing::{Task, Variant};
use crate::trace::{DecoderShape, Trace, TrainingShape, decode_step, training_step};

/// The measured subject of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The allocator of the running program.
    System,
    /// A pool of this project with this tracking level.
    Pool(TrackingLevel),
    /// A library that multiplies matrices.
    Product(Library),
    /// A quantiser, or its baseline.
    Quantize(Variant),
    /// Ternary layers on an instruction set level.
    Level(IsaLevel),
}

impl Subject {
    /// Every other subject than a level, with its name between processes.
    const NAMES: [(&'static str, Self); 9] = [
        ("system", Self::System),
        ("pool-none", Self::Pool(TrackingLevel::None)),
        ("pool-basic", Self::Pool(TrackingLevel::Basic)),
        ("pool-standard", Self::Pool(TrackingLevel::Standard)),
        ("pool-detailed", Self::Pool(TrackingLevel::Detailed)),
        ("product-core", Self::Product(Library::Core)),
        ("product-ndarray", Self::Product(Library::Ndarray)),
        ("quantizer", Self::Quantize(Variant::Quantizer)),
        ("reading", Self::Quantize(Variant::Reading)),
    ];

    /// Returns the name between processes.
    pub fn name(self) -> &'static str {
        if let Self::Level(level) = self {
            return level.name();
        }
        Self::NAMES.iter().find(|(_, subject)| *subject == self).map_or("", |(name, _)| name)
    }

    /// Returns the subject named `name`.
    pub fn named(name: &str) -> Option<Self> {
        let level =
            || IsaLevel::ALL.into_iter().find(|level| level.name() == name).map(Self::Level);
        let found = Self::NAMES.iter().find(|(other, _)| *other == name);
        found.map(|(_, subject)| *subject).or_else(level)
    }
}

/// The unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// A share, printed in percent.
    Part,
    /// Multiply-adds a nanosecond; the larger, the better.
    GigaMacs,
    /// Bytes a nanosecond; the larger, the better.
    Gigabytes,
    /// A share of what the machine can do, printed in percent; the larger, the better.
    Utilization,
}

impl Unit {
    /// Returns whether a larger number is better.
    pub fn larger_is_better(self) -> bool {
        !matches!(self, Self::Nanoseconds | Self::Part)
    }
}

/// One row of numbers; a benchmark has one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its table.
    pub group: &'static str,
    /// Its name within the table.
    pub label: String,
    /// The unit of its numbers.
    pub unit: Unit,
}

impl Series {
    /// Returns `group/label`, the name for filters after the suite's name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.label)
    }
}

/// A replayed trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// One decoding step of a model of this shape.
    Decode(DecoderShape),
    /// One training step of one shard.
    Training(TrainingShape),
}

impl Pattern {
    /// Returns its events.
    pub fn trace(&self) -> Trace {
        match self {
            Self::Decode(shape) => decode_step(shape),
            Self::Training(shape) => training_step(shape),
        }
    }
}

/// The work of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// [`crate::kernels::pair`].
    Pair {
        /// Bytes of the block.
        bytes: usize,
        /// Number of threads.
        threads: usize,
        /// The written bytes.
        touch: Touch,
    },
    /// [`crate::kernels::batch`] with blocks of these sizes.
    Batch(Vec<usize>),
    /// [`crate::kernels::handover`] with blocks of this size.
    Handover(usize),
    /// [`crate::kernels::larson`].
    Larson {
        /// The smallest and the largest block.
        sizes: [usize; 2],
        /// Number of threads.
        threads: usize,
    },
    /// [`crate::kernels::xmalloc`].
    Xmalloc,
    /// [`crate::kernels::mstress`].
    Mstress,
    /// [`crate::kernels::cache_lines`].
    CacheLines {
        /// Number of threads.
        threads: usize,
        /// Whether each thread begins with a block of another thread.
        inherited: bool,
    },
    /// [`crate::kernels::replay`].
    Replay(Pattern, Touch),
    /// [`mod@crate::footprint`].
    Footprint(Mix),
    /// [`mod@crate::products`].
    Product(Shape),
    /// [`mod@crate::quantizing`].
    Quantize(Task),
    /// [`mod@crate::layers`].
    Layers(Layers),
    /// [`crate::decoding`]: token generation with the story model, which allocates from the pool.
    Decode,
    /// [`mod@crate::training`]: steps of a small run, which allocates from the pool.
    Train,
}

impl Work {
    /// Returns whether it measures allocators.
    pub fn is_for_allocators(&self) -> bool {
        match self {
            Self::Pair { .. }
            | Self::Batch(_)
            | Self::Handover(_)
            | Self::Larson { .. }
            | Self::Xmalloc
            | Self::Mstress
            | Self::CacheLines { .. }
            | Self::Replay(..)
            | Self::Footprint(_) => true,
            Self::Product(_) | Self::Quantize(_) | Self::Layers(_) | Self::Decode | Self::Train => {
                false
            }
        }
    }
}

/// A benchmark: work and its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bench {
    /// The series, in the order of the work's results.
    pub series: Vec<Series>,
    /// The work.
    pub work: Work,
    /// Whether the program's allocator uses the alignment of `malloc` (16) instead of that of a tensor (64).
    pub natural: bool,
}

impl Bench {
    pub(crate) fn new(group: &'static str, label: impl Into<String>, work: Work) -> Self {
        let series = vec![Series { group, label: label.into(), unit: Unit::Nanoseconds }];
        Self { series, work, natural: false }
    }

    pub(crate) fn natural(self) -> Self {
        Self { natural: true, ..self }
    }

    /// Returns its id between processes: the name of its first series.
    pub fn id(&self) -> String {
        self.series.first().map(Series::name).unwrap_or_default()
    }
}

/// The kind of a suite's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Our pool, the system's allocator and the peers; our pool is compared with the best of the others.
    Allocators,
    /// Our pool at each tracking level; each level is compared with none.
    TrackingLevels,
    /// Libraries that multiply matrices; ours is compared with the other.
    Products,
    /// Quantisers, compared with reading the same number of bytes.
    Quantizers,
    /// The instruction set levels of this processor, the best one first.
    Levels,
}

/// Benchmarks with the same columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// Its name for filters.
    pub name: &'static str,
    /// Its columns.
    pub columns: Columns,
    /// The benchmarks.
    pub benches: Vec<Bench>,
}

/// Groups with descriptions, in the order of the report.
pub const GROUPS: [(&str, &str); 11] = [
    (
        "Memory Pool Allocation",
        "allocating one of many blocks; small_blocks: 384 of 64 B to 64 KiB, large_blocks: 16 of 1 to 16 MiB",
    ),
    ("Memory Pool Deallocation", "freeing the same blocks in random order"),
    ("Pair", "allocate, write 8 bytes, free; the slower thread counts"),
    ("Pair, every page written", "allocate, write 8 bytes of every page of 4 KiB, free"),
    ("Batch allocation", "allocating one of many blocks of one size, writing 8 bytes"),
    ("Batch deallocation", "freeing the same blocks in random order"),
    ("Handover", "one thread allocates, another frees, including the ring between them"),
    (
        "Servers",
        "larson: replacing random blocks, per pair; xmalloc: one thread allocates, one frees, per block; mstress: blocks outlive threads, per step",
    ),
    (
        "Cache lines",
        "one of 100 writes to an own block of 8 bytes; scratch: next to blocks of one thread",
    ),
    ("Replay", "all blocks of one step, allocated and freed in the step's order"),
    ("Footprint", "memory above the requested and written bytes, measured by the OS"),
];

/// Returns the description of a group.
pub fn about(group: &str) -> &'static str {
    let own = [
        ("Tracking", "cost of a tracking level, compared with none"),
        ("Dense products", "[m, k] by [k, n] in f32 with one thread, both row-major"),
        (
            "Dense products, weights as [n, k]",
            "the same, with the right matrix stored like weights of layers",
        ),
        ("Quantisation", "1024 x 1024 weights, or 64 x 2560 activations, with one thread"),
        ("Ternary layers, multiply-adds", "8-bit activations, quantised and rescaled, one thread"),
        ("Ternary layers, bytes of codes", "the same calls"),
        ("Ternary layers, share of the integer peak", "that of the level's multiply-add"),
    ];
    GROUPS.iter().chain(&own).find(|(name, _)| *name == group).map_or("", |(_, about)| about)
}

impl Suite {
    /// The subject where one is enough.
    pub fn own_subject(&self) -> Subject {
        match self.columns {
            Columns::Allocators | Columns::TrackingLevels => Subject::Pool(TrackingLevel::None),
            Columns::Products => Subject::Product(Library::Core),
            Columns::Quantizers => Subject::Quantize(Variant::Quantizer),
            Columns::Levels => Subject::Level(IsaLevel::best()),
        }
    }

    /// Returns the suite with the benchmarks that match `filter`.
    pub fn filtered(mut self, filter: &Filter) -> Self {
        let name = self.name;
        self.benches
            .retain(|bench| bench.series.iter().any(|series| filter.matches(name, &series.name())));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_names() {
        for (name, subject) in Subject::NAMES {
            assert_eq!(Subject::named(name), Some(subject));
            assert_eq!(subject.name(), name);
        }
        for level in IsaLevel::ALL {
            assert_eq!(Subject::named(Subject::Level(level).name()), Some(Subject::Level(level)));
        }
        assert_eq!(Subject::named("pool"), None);
    }
}
