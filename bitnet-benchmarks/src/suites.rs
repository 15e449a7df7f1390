//! All suites: which benchmarks there are.

use bitnet_quant::codec::dense::DenseType;

use crate::footprint::Mix;
use crate::kernels::Touch;
use crate::layers::Layers;
use crate::products::Shape;
use crate::quantizing::Task;
use crate::suite::{Bench, Columns, Pattern, Series, Suite, Unit, Work};
use crate::trace::{DecoderShape, TrainingShape};

/// Returns all suites.
pub fn all() -> [Suite; 5] {
    [
        Suite { name: "memory", columns: Columns::Allocators, benches: memory() },
        Suite { name: "tracking", columns: Columns::TrackingLevels, benches: tracking() },
        Suite { name: "matmul", columns: Columns::Products, benches: products() },
        Suite { name: "quantization", columns: Columns::Quantizers, benches: quantizers() },
        Suite { name: "tile", columns: Columns::Levels, benches: layers() },
    ]
}

/// Returns the benchmark with the id `id` of any suite.
pub fn bench(id: &str) -> Option<Bench> {
    all().into_iter().flat_map(|suite| suite.benches).find(|bench| bench.id() == id)
}

/// The sizes of most kernels.
const SIZES: [usize; 5] = [64, 4 << 10, 64 << 10, 1 << 20, 16 << 20];

/// Formats a size: `64 KiB`.
pub fn bytes_text(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn threads_text(threads: usize) -> &'static str {
    if threads == 1 { "1 thread" } else { "2 threads" }
}

fn memory() -> Vec<Bench> {
    let mut benches = vec![
        pool_blocks("small_blocks", &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10], 64),
        pool_blocks("large_blocks", &[1 << 20, 2 << 20, 4 << 20, 16 << 20], 4),
    ];
    let pair = |bytes, threads, touch| Work::Pair { bytes, threads, touch };
    for threads in [1, 2] {
        for bytes in SIZES {
            let label = format!("{}, {}", bytes_text(bytes), threads_text(threads));
            benches.push(Bench::new("Pair", label, pair(bytes, threads, Touch::First)));
        }
    }
    let label = "64 B, 1 thread, others aligned to 16";
    benches.push(Bench::new("Pair", label, pair(64, 1, Touch::First)).natural());
    for bytes in [64 << 10, 1 << 20, 16 << 20] {
        let work = pair(bytes, 1, Touch::Pages);
        benches.push(Bench::new("Pair, every page written", bytes_text(bytes), work));
    }
    for (bytes, count) in SIZES.into_iter().zip([1024, 512, 128, 32, 16]) {
        let label = format!("{count} of {}", bytes_text(bytes));
        let mut bench = Bench::new("Batch allocation", &label, Work::Batch(vec![bytes; count]));
        bench.series.push(Series { group: "Batch deallocation", label, unit: Unit::Nanoseconds });
        benches.push(bench);
    }
    for bytes in SIZES {
        benches.push(Bench::new("Handover", bytes_text(bytes), Work::Handover(bytes)));
    }
    benches.extend(servers());
    benches.extend(replays());
    benches.extend([
        footprint("small blocks", Mix::Small, &["in memory", "kept"]),
        footprint("large blocks", Mix::Large, &["in memory", "kept"]),
        footprint("one block of 626 MiB", Mix::Embedding, &["in memory", "kept", "mapped"]),
    ]);
    benches
}

/// Returns the sizes in turns, `rounds` times.
fn pool_blocks(label: &str, sizes: &[usize], rounds: usize) -> Bench {
    let work = Work::Batch(sizes.repeat(rounds));
    let mut bench = Bench::new("Memory Pool Allocation", label, work);
    bench.series.push(Series {
        group: "Memory Pool Deallocation",
        label: label.to_owned(),
        unit: Unit::Nanoseconds,
    });
    bench
}

fn servers() -> Vec<Bench> {
    let mut benches = Vec::new();
    for threads in [1, 2] {
        let label = |sizes: &str| format!("larson {sizes}, {}", threads_text(threads));
        let work = |sizes| Work::Larson { sizes, threads };
        benches.push(
            Bench::new("Servers", label("8-1000 B, others aligned to 16"), work([8, 1000]))
                .natural(),
        );
        benches.push(Bench::new("Servers", label("1-64 KiB"), work([1 << 10, 64 << 10])));
    }
    benches.push(Bench::new("Servers", "xmalloc, 1 + 1 threads", Work::Xmalloc));
    benches.push(Bench::new("Servers", "mstress, 4 threads", Work::Mstress));
    for (name, inherited) in [("thrash", false), ("scratch", true)] {
        for threads in [1, 2] {
            let label = format!("{name}, {}", threads_text(threads));
            let work = Work::CacheLines { threads, inherited };
            benches.push(Bench::new("Cache lines", label, work).natural());
        }
    }
    benches
}

fn replays() -> Vec<Bench> {
    let patterns = [
        ("decode step, 2B", Pattern::Decode(DecoderShape::BITNET_2B)),
        ("decode step, stories", Pattern::Decode(DecoderShape::STORIES)),
        ("training step, stories", Pattern::Training(TrainingShape::STORIES)),
    ];
    let touches = [("8 bytes written", Touch::First), ("pages written", Touch::Pages)];
    let replay = |(name, pattern), (how, touch)| {
        Bench::new("Replay", format!("{name}, {how}"), Work::Replay(pattern, touch))
    };
    patterns.into_iter().flat_map(|pattern| touches.map(|touch| replay(pattern, touch))).collect()
}

fn footprint(label: &str, mix: Mix, parts: &[&str]) -> Bench {
    let series = parts.iter().map(|part| Series {
        group: "Footprint",
        label: format!("{label}, {part}"),
        unit: Unit::Part,
    });
    Bench { series: series.collect(), work: Work::Footprint(mix), natural: false }
}

fn tracking() -> Vec<Bench> {
    let mut benches: Vec<Bench> = [64, 4 << 10, 1 << 20]
        .into_iter()
        .map(|bytes| {
            let work = Work::Pair { bytes, threads: 1, touch: Touch::First };
            Bench::new("Tracking", format!("pair, {}", bytes_text(bytes)), work)
        })
        .collect();
    let replay = Work::Replay(Pattern::Decode(DecoderShape::STORIES), Touch::First);
    benches.push(Bench::new("Tracking", "replay of a decode step, stories", replay));
    benches.push(Bench::new("Tracking", "decoding a token, stories, 1 thread", Work::Decode));
    benches.push(Bench::new("Tracking", "a training step, stories, 1 thread", Work::Train));
    benches
}

/// The measured products: `[m, k, n]`.
const PRODUCTS: [[usize; 3]; 8] = [
    [64, 64, 64],
    [256, 256, 256],
    [512, 512, 512],
    [1024, 1024, 1024],
    [1, 2560, 2560],
    [8, 2560, 2560],
    [64, 2560, 2560],
    [128, 2560, 6912],
];

/// Returns the benchmarks of dense products.
fn products() -> Vec<Bench> {
    let groups = [("Dense products", false), ("Dense products, weights as [n, k]", true)];
    let bench = |(group, transposed), [m, k, n]: [usize; 3]| {
        let work = Work::Product(Shape { m, k, n, transposed });
        Bench::new(group, format!("{m} x {k} x {n}"), work)
    };
    groups.into_iter().flat_map(|group| PRODUCTS.map(|shape| bench(group, shape))).collect()
}

/// Returns the benchmarks of quantisers.
fn quantizers() -> Vec<Bench> {
    use DenseType::{BF16, F16, F32};
    let tasks = [
        ("absmean, BF16", Task::Absmean(BF16)),
        ("absmean, F16", Task::Absmean(F16)),
        ("absmean, F32", Task::Absmean(F32)),
        ("absmean and loss, BF16", Task::Measured(BF16)),
        ("absmean for each 64, BF16", Task::Grouped(BF16, 64)),
        ("least squares, BF16", Task::LeastSquares(BF16)),
        ("detection of trits, BF16", Task::Detect(BF16)),
        ("trits to f32", Task::Dequantize),
        ("activations to int8", Task::Activations),
    ];
    tasks.map(|(label, task)| Bench::new("Quantisation", label, Work::Quantize(task))).into()
}

/// Returns the benchmarks of ternary layers.
fn layers() -> Vec<Bench> {
    let one = |label: &str, rows, count| {
        (label.to_owned(), Layers { rows, cols: 2560, count, tokens: 1 })
    };
    let tile = |tokens| {
        let layers = Layers { rows: 1024, cols: 2560, count: 1, tokens };
        (format!("{tokens} tokens, 1024 x 2560"), layers)
    };
    let shapes = [
        one("1 token, 384 x 2560, from the cache", 384, 1),
        one("1 token, 64 of 6912 x 2560 in turns", 6912, 64),
    ];
    let shapes = shapes.into_iter().chain([4, 8, 16, 32, 128, 512].map(tile));
    let units = [
        ("Ternary layers, multiply-adds", Unit::GigaMacs),
        ("Ternary layers, bytes of codes", Unit::Gigabytes),
        ("Ternary layers, share of the integer peak", Unit::Utilization),
    ];
    let bench = |(label, layers): (String, Layers)| {
        let series = units.map(|(group, unit)| Series { group, label: label.clone(), unit });
        Bench { series: series.into(), work: Work::Layers(layers), natural: false }
    };
    shapes.map(bench).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::filter::Filter;
    use crate::suite::about;

    #[test]
    fn names_are_unique_and_groups_have_descriptions() {
        let mut names = BTreeSet::new();
        for suite in all() {
            for bench in &suite.benches {
                assert_eq!(super::bench(&bench.id()).as_ref(), Some(bench));
                for series in &bench.series {
                    assert!(names.insert(series.name()), "{} twice", series.name());
                    assert!(!about(series.group).is_empty(), "{}", series.group);
                }
            }
        }
    }

    #[test]
    fn filter_memory_selects_the_documented_names() {
        let [memory, others @ ..] =
            all().map(|suite| suite.filtered(&Filter::new(&["memory".into()])));
        let names: Vec<_> =
            memory.benches.iter().flat_map(|bench| &bench.series).map(Series::name).collect();
        for name in [
            "Memory Pool Allocation/small_blocks",
            "Memory Pool Allocation/large_blocks",
            "Memory Pool Deallocation/small_blocks",
        ] {
            assert!(names.iter().any(|other| other == name), "{name}");
        }
        assert!(others.iter().all(|suite| suite.benches.is_empty()));
    }
}
