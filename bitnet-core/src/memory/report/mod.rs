//! The memory of the process: the pool by purpose, and the mappings outside of it.
//!
//! A report combines three independent sources: the pool's records of the purpose of each block, `/proc/self/pagemap`
//! for their resident pages, and `/proc/self/smaps` for the resident bytes of each mapping. The pool's resident bytes
//! by the first two are compared with those of its mappings by the third,
//! and the sum of all mappings with the resident set of the kernel.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{HybridMemoryPool, Purpose};
use crate::Result;
use crate::os::mappings::{self, Mapping};
use crate::os::pagemap::ResidentPages;

/// The default stack of a thread of the standard library.
const STACK: usize = 2 << 20;
/// The largest mapping without access that is a guard before a stack.
const GUARD: usize = 64 << 10;

/// The memory of the pool for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurposeUse {
    /// The purpose.
    pub purpose: Purpose,
    /// Bytes requested by live allocations.
    pub live: u64,
    /// Its peak; `None` unless every allocation is recorded.
    pub peak: Option<u64>,
    /// The resident part of the live bytes; `None` unless every allocation is recorded.
    pub resident: Option<u64>,
}

impl PurposeUse {
    /// Returns the memory of `pool` for each of [`Purpose::ALL`], without resident bytes.
    pub fn of(pool: &HybridMemoryPool) -> Vec<Self> {
        let live = pool.allocated_by_purpose();
        let recorded = pool.tracker().filter(|tracker| tracker.records_all());
        let peaks = recorded.map(|tracker| tracker.peaks());
        let usage = |purpose: Purpose| Self {
            purpose,
            live: live[purpose.index()],
            peak: peaks.map(|peaks| peaks[purpose.index()]),
            resident: None,
        };
        Purpose::ALL.into_iter().map(usage).collect()
    }
}

/// The memory of the pool as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    /// Bytes requested by live allocations.
    pub live: u64,
    /// Its peak.
    pub peak: u64,
    /// Bytes of its mappings.
    pub mapped: u64,
    /// Resident bytes that were not requested: free blocks and rounding;
    /// all of them unless every allocation is recorded.
    pub kept_resident: u64,
    /// Resident bytes by the page map: live and free.
    pub resident: u64,
    /// Resident bytes by the list of mappings.
    pub resident_by_system: u64,
    /// Bytes of the pool's bookkeeping and records, which are on the heap: part of [`Place::Heap`].
    pub books: u64,
}

/// What a mapping outside the pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Place {
    /// Model files, as named by the caller.
    Model,
    /// Files in the cache folder, as named by the caller.
    Cache,
    /// The program, its libraries, and their variables.
    Program,
    /// Stacks of threads.
    Stacks,
    /// Memory of the standard allocator.
    Heap,
    /// Other files, and mappings of the system.
    Other,
}

impl Place {
    /// Every place, in the order of a report.
    pub const ALL: [Self; 6] =
        [Self::Model, Self::Cache, Self::Program, Self::Stacks, Self::Heap, Self::Other];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model files, mapped",
            Self::Cache => "weight caches, mapped",
            Self::Program => "program and libraries",
            Self::Stacks => "thread stacks",
            Self::Heap => "heap (malloc)",
            Self::Other => "other",
        }
    }
}

/// Mappings of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceUse {
    /// The kind.
    pub place: Place,
    /// Bytes of address space.
    pub mapped: u64,
    /// Resident bytes.
    pub resident: u64,
}

/// The memory of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReport {
    /// The pool by purpose: each of [`Purpose::ALL`].
    pub purposes: Vec<PurposeUse>,
    /// The pool.
    pub pool: PoolUse,
    /// The mappings outside of the pool: each of [`Place::ALL`].
    pub places: Vec<PlaceUse>,
    /// Resident bytes of all mappings together.
    pub sum: u64,
    /// The resident set of the process, as reported by the OS.
    pub resident_set: u64,
}

/// Files with a place of their own in a report.
#[derive(Debug, Clone, Default)]
pub struct KnownFiles {
    /// Files of the model, or their folders.
    pub model: Vec<PathBuf>,
    /// The folder of the cache.
    pub cache: Option<PathBuf>,
}

impl MemoryReport {
    /// Reports this process, in which `pool` is the only pool. Its resident bytes are reported by purpose if it records
    /// every allocation ([`super::TrackingLevel::Detailed`], with leak detection).
    ///
    /// # Errors
    /// [`crate::Error::File`] without `/proc`, as anywhere but on Linux.
    pub fn take(pool: &HybridMemoryPool, files: &KnownFiles) -> Result<Self> {
        let (mappings, _) = mappings::read()?;
        let page = mappings.iter().map(|mapping| mapping.page).min().unwrap_or(4096);
        let mut blocks = Vec::new();
        let recorded = pool.tracker().filter(|tracker| tracker.records_all());
        if let Some(tracker) = recorded {
            tracker.each_live(|address, size, purpose| blocks.push((address, size, purpose)));
            blocks.sort_unstable_by_key(|&(address, ..)| address);
        }
        let ranges: Vec<Range<usize>> =
            pool.ranges().into_iter().map(|(start, bytes)| start..start + bytes).collect();
        let pages = ranges
            .iter()
            .map(|range| ResidentPages::read(range.clone(), page))
            .collect::<Result<Vec<_>>>()?;
        let mut resident = [0; Purpose::ALL.len()];
        for &(address, size, purpose) in &blocks {
            let at = ranges.partition_point(|range| range.end <= address);
            let block = address..address + size;
            resident[purpose.index()] += pages.get(at).map_or(0, |pages| pages.resident(block));
        }
        let in_pages =
            ranges.iter().zip(&pages).map(|(range, pages)| pages.resident(range.clone())).sum();
        // Includes the allocations of the report so far; none follow.
        let (mappings, resident_set) = mappings::read()?;
        let places = Places::sort(&mappings, &ranges, files)?;
        let metrics = pool.get_metrics();
        let mut purposes = PurposeUse::of(pool);
        for usage in &mut purposes {
            usage.resident = recorded.map(|_| resident[usage.purpose.index()]);
        }
        let records = pool.tracker().map_or(0, |tracker| tracker.overhead());
        Ok(Self {
            purposes,
            pool: PoolUse {
                live: metrics.total_allocated,
                peak: metrics.peak_allocated,
                mapped: ranges.iter().map(|range| range.len() as u64).sum(),
                kept_resident: u64::saturating_sub(in_pages, resident.iter().sum()),
                resident: in_pages,
                resident_by_system: places.pool,
                books: (pool.bookkeeping_bytes() + records) as u64,
            },
            places: places.outside,
            sum: mappings.iter().map(|mapping| mapping.resident).sum(),
            resident_set,
        })
    }
}

/// Mappings by place.
struct Places {
    /// Resident bytes of the pool's ranges.
    pool: u64,
    outside: Vec<PlaceUse>,
}

impl Places {
    fn sort(mappings: &[Mapping], ranges: &[Range<usize>], files: &KnownFiles) -> Result<Self> {
        let kind = |place| PlaceUse { place, mapped: 0, resident: 0 };
        let mut sorted = Self { pool: 0, outside: Place::ALL.into_iter().map(kind).collect() };
        let programs = programs(mappings);
        let mut before: Option<(&Mapping, Place)> = None;
        for mapping in mappings {
            let inside = overlap(&mapping.range, ranges);
            let of_pool = if inside == 0 {
                0
            } else if inside == mapping.range.len() {
                mapping.resident
            } else {
                // The kernel has merged mappings of the pool with others: the page map distinguishes them.
                let pages = ResidentPages::read(mapping.range.clone(), mapping.page)?;
                let parts = ranges.iter().map(|range| intersection(&mapping.range, range));
                parts.map(|part| pages.resident(part)).sum::<u64>().min(mapping.resident)
            };
            sorted.pool += of_pool;
            let (mut mapped, mut resident) =
                (mapping.range.len() - inside, mapping.resident - of_pool);
            let place = place_of(mapping, before, &programs, files);
            if place == Place::Stacks && mapped > STACK && mapping.name.is_empty() {
                // A stack that the kernel has merged with the mapping above it.
                let pages = ResidentPages::read(mapping.range.clone(), mapping.page)?;
                let start = mapping.range.start;
                let of_stack = pages.resident(start..start + STACK).min(resident);
                sorted.add(Place::Heap, mapped - STACK, resident - of_stack);
                (mapped, resident) = (STACK, of_stack);
            }
            sorted.add(place, mapped, resident);
            before = Some((mapping, place));
        }
        Ok(sorted)
    }

    fn add(&mut self, place: Place, mapped: usize, resident: u64) {
        if let Some(line) = self.outside.iter_mut().find(|line| line.place == place) {
            line.mapped += mapped as u64;
            line.resident += resident;
        }
    }
}

/// Files of which a part is code.
fn programs(mappings: &[Mapping]) -> Vec<&str> {
    let code = |m: &&Mapping| m.executable && m.name.starts_with('/');
    mappings.iter().filter(code).map(|mapping| mapping.name.as_str()).collect()
}

/// Returns the place of a mapping outside of the pool; `before` is the one below it.
fn place_of(
    mapping: &Mapping,
    before: Option<(&Mapping, Place)>,
    programs: &[&str],
    files: &KnownFiles,
) -> Place {
    let name = mapping.name.as_str();
    let before = before.filter(|(before, _)| before.range.end == mapping.range.start);
    if name.starts_with('/') {
        let path = Path::new(name);
        return if files.model.iter().any(|file| path.starts_with(file)) {
            Place::Model
        } else if files.cache.as_ref().is_some_and(|folder| path.starts_with(folder)) {
            Place::Cache
        } else if programs.contains(&name) {
            Place::Program
        } else {
            Place::Other
        };
    }
    match (name, before) {
        ("[heap]", _) => Place::Heap,
        ("[stack]", _) => Place::Stacks,
        ("", Some((guard, _)))
            if guard.name.is_empty() && !guard.accessible && guard.range.len() <= GUARD =>
        {
            Place::Stacks
        }
        // Zero-initialised variables follow those of the file.
        ("", Some((file, Place::Program))) if file.name.starts_with('/') => Place::Program,
        ("", _) => Place::Heap,
        _ => Place::Other,
    }
}

fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end).max(a.start.max(b.start))
}

/// Returns the bytes of a range inside `ranges`, which do not overlap.
fn overlap(range: &Range<usize>, ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(|other| intersection(range, other).len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_assigned_to_places() {
        let text = "\
1000-3000 r-xp 00000000 fe:00 1 /bin/bitnet
3000-4000 rw-p 00000000 fe:00 1 /bin/bitnet
4000-5000 rw-p 00000000 00:00 0
6000-8000 rw-p 00000000 00:00 0 [heap]
9000-a000 r--p 00000000 fe:00 2 /models/a.gguf
a000-b000 r--p 00000000 fe:00 3 /cache/b.prepared
b000-c000 ---p 00000000 00:00 0
c000-d000 rw-p 00000000 00:00 0
e000-f000 rw-p 00000000 00:00 0
f000-10000 r--p 00000000 fe:00 3 /usr/lib/locale
11000-12000 rw-p 00000000 00:00 0 [stack]
13000-14000 r-xp 00000000 00:00 0 [vdso]
";
        let mappings: Vec<Mapping> = mappings::parse(text)
            .unwrap()
            .into_iter()
            .map(|mapping| {
                // A guard is never in memory.
                let resident = if mapping.accessible { mapping.range.len() as u64 } else { 0 };
                Mapping { resident, ..mapping }
            })
            .collect();
        let files =
            KnownFiles { model: vec!["/models/a.gguf".into()], cache: Some("/cache".into()) };
        let of_pool = 0xe000..0xf000;
        let found = Places::sort(&mappings, std::slice::from_ref(&of_pool), &files).unwrap();
        assert_eq!(found.pool, 0x1000);
        let pages: Vec<_> = found.outside.iter().map(|line| line.resident / 0x1000).collect();
        assert_eq!(pages, [1, 1, 4, 2, 2, 2]);
    }

    #[test]
    fn overlaps_are_counted_to_the_byte() {
        let ranges = [0x1000..0x3000, 0x5000..0x6000];
        assert_eq!(overlap(&(0..0x1000), &ranges), 0);
        assert_eq!(overlap(&(0x2000..0x5800), &ranges), 0x1800);
    }
}
