//! A pool of threads that lives as long as its back end, and the division of work among them.
//!
//! The caller works too, so a pool of `n` threads has `n - 1` workers. Work is divided into more pieces than threads,
//! and an idle thread takes the next one, so that a descheduled thread delays the others little. Each element of a
//! result is computed by one thread in one order, so no result depends on the number of threads.

mod workers;

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bitnet_core::{Error, Result};
use smallvec::SmallVec;
use workers::Workers;
pub(crate) use workers::lock;

/// Pieces of work, on the stack as long as there are as few as two threads have.
pub(crate) type Pieces<P> = SmallVec<[P; 8]>;

/// A part of some rows, one for each token; without an allocation for one or two tokens.
pub(crate) type Rows<'a> = SmallVec<[&'a mut [f32]; 2]>;

/// Ranges that follow one another and cover `0..items`.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    items: usize,
    pieces: usize,
    next: usize,
}

impl Iterator for Ranges {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let Self { items, pieces, next } = *self;
        if next == pieces {
            return None;
        }
        self.next += 1;
        Some(items * next / pieces..items * (next + 1) / pieces)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.pieces - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Ranges {}
impl FusedIterator for Ranges {}

/// Elementary steps (multiplications, elements) that make a piece worth another thread.
const WORTH: usize = 1 << 15;

/// Pieces for each thread, if there is work for as many.
const PIECES: usize = 4;

/// [`MAX_THREADS`], also for a message.
macro_rules! max_threads {
    () => {
        1024
    };
}

/// Most threads of a back end; on a machine with more cores, the default is this many.
const MAX_THREADS: usize = max_threads!();

/// The threads of a back end.
#[derive(Debug)]
pub(crate) struct Threads {
    count: usize,
    workers: Option<Workers>,
}

impl Threads {
    /// `count` threads, the caller's included; 0 counts as 1.
    ///
    /// # Errors
    /// [`Error::BadArgument`] above [`MAX_THREADS`]; [`Error::OutOfMemory`] if the system refuses a thread.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let count = count.max(1);
        if count > MAX_THREADS {
            return Err(Error::BadArgument {
                op: "threads",
                what: "the number of threads",
                value: count.to_string(),
                expected: concat!("at most ", max_threads!(), " are started"),
            });
        }
        if count == 1 {
            return Ok(Self { count, workers: None });
        }
        let workers = Workers::new(count - 1)
            .ok_or_else(|| Error::refused_by_system((count - 1).saturating_mul(2 << 20)))?;
        Ok(Self { count, workers: Some(workers) })
    }

    /// Returns the number of threads, the caller's included.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Divides `items` of `work` elementary steps each into a few ranges a thread; no range is empty.
    pub(crate) fn ranges(&self, items: usize, work: usize) -> Ranges {
        self.divide(items, work, if self.count == 1 { 1 } else { self.count * PIECES })
    }

    /// As [`Threads::ranges`], with at most one range a thread.
    pub(crate) fn shares(&self, items: usize, work: usize) -> Ranges {
        self.divide(items, work, self.count)
    }

    fn divide(&self, items: usize, work: usize, most: usize) -> Ranges {
        let worth = items.saturating_mul(work) / WORTH + 1;
        Ranges { items, pieces: most.min(worth).min(items), next: 0 }
    }

    /// As [`Threads::ranges`], with every boundary but the last a multiple of `tile`.
    pub(crate) fn tile_ranges(
        &self,
        items: usize,
        tile: usize,
        work: usize,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + use<> {
        let tiles = self.ranges(items.div_ceil(tile), work.saturating_mul(tile));
        tiles.map(move |t| t.start * tile..(t.end * tile).min(items))
    }

    /// Runs `f` on every piece, on whichever thread takes it.
    ///
    /// # Errors
    /// That of the first piece, in order, for which `f` fails.
    pub(crate) fn each<P: Send>(
        &self,
        pieces: impl IntoIterator<Item = P, IntoIter: ExactSizeIterator>,
        f: impl Fn(P) -> Result<()> + Sync,
    ) -> Result<()> {
        let mut pieces = pieces.into_iter();
        let workers = match &self.workers {
            Some(workers) if pieces.len() > 1 => workers,
            _ => return pieces.try_for_each(f),
        };
        let pieces: Pieces<_> = pieces.map(|piece| Mutex::new(Some(piece))).collect();
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        workers.run(&|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = pieces.get(index) else { return };
                let piece = lock(piece).take();
                let Some(Err(error)) = piece.map(&f) else { continue };
                let mut failed = lock(&failed);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// Returns the default number of threads: [`usable_cores`], but [`MAX_THREADS`] at most.
pub(crate) fn default_threads() -> usize {
    capped(usable_cores())
}

fn capped(cores: usize) -> usize {
    cores.min(MAX_THREADS)
}

/// Returns the number of physical cores that this process may use: one for each set of sibling processors where the
/// system lists them, and otherwise every processor that it may use.
fn usable_cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = allowed_processors().map(|allowed| {
        let siblings = |cpu: &usize| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            std::fs::read_to_string(path).ok()
        };
        allowed.iter().map(siblings).collect::<Option<std::collections::BTreeSet<_>>>()
    });
    match cores {
        Some(Some(cores)) if !cores.is_empty() => available.min(cores.len()),
        _ => available,
    }
}

/// Returns the processors on which the scheduler may run this process, on Linux.
fn allowed_processors() -> Option<Vec<usize>> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_list(list)
}

/// Parses `0-3,8` as 0, 1, 2, 3, 8.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        numbers.extend((first..=last).map(usize::from));
    }
    Some(numbers)
}

/// Divides `out` (`[rows, width]`) into one part for each range of columns, which holds that range of every row. The
/// ranges follow one another and cover the width.
pub(crate) fn columns<'a>(
    out: &'a mut [f32],
    width: usize,
    ranges: &(impl Iterator<Item = Range<usize>> + Clone),
) -> Pieces<Rows<'a>> {
    let mut parts: Pieces<Rows<'_>> = ranges.clone().map(|_| Rows::new()).collect();
    if width == 0 {
        return parts;
    }
    for mut row in out.chunks_exact_mut(width) {
        for (range, part) in ranges.clone().zip(&mut parts) {
            let (head, tail) = row.split_at_mut(range.len());
            part.push(head);
            row = tail;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for count in [1, 2, 3, 7] {
            let threads = Threads::new(count).unwrap();
            for items in [0, 1, 2, 5, 100] {
                let ranges = threads.ranges(items, WORTH);
                assert_eq!(ranges.len(), (count * if count == 1 { 1 } else { PIECES }).min(items));
                assert_eq!(ranges.flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
                let mut tiled = threads.tile_ranges(items, 4, WORTH);
                assert!(tiled.all(|range| range.start % 4 == 0));
                let tiled = threads.tile_ranges(items, 4, WORTH);
                assert_eq!(tiled.flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
            }
            assert!(threads.ranges(100, 1).len() == 1, "little work is not divided");
        }
    }

    #[test]
    fn too_many_threads_are_refused() {
        for count in [MAX_THREADS + 1, 100_000, usize::MAX] {
            assert!(matches!(Threads::new(count), Err(Error::BadArgument { .. })), "{count}");
        }
        let message = Threads::new(MAX_THREADS + 1).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(&format!("at most {MAX_THREADS} are started")), "{message}");
    }

    #[test]
    fn default_thread_count_is_capped() {
        assert_eq!([1, 64, 1025, 4096].map(capped), [1, 64, 1024, 1024]);
        assert!((1..=MAX_THREADS).contains(&default_threads()));
    }

    #[test]
    fn first_error_in_order_is_returned() {
        for count in [1, 3] {
            let threads = Threads::new(count).unwrap();
            let fail = |i: i32| if i == 0 { Ok(()) } else { Err(Error::Decode(i.to_string())) };
            assert_eq!(threads.each(vec![0, 1, 2], fail), Err(Error::Decode("1".into())));
        }
    }

    #[test]
    fn processor_lists_are_parsed() {
        assert_eq!(parse_list("\t0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("x"), None);
        assert!(usable_cores() >= 1);
    }

    #[test]
    fn columns_split_every_row() {
        let mut out = [0.0; 6];
        for (i, part) in columns(&mut out, 3, &[0..1, 1..3].into_iter()).into_iter().enumerate() {
            for row in part {
                row.fill(i as f32);
            }
        }
        assert_eq!(out, [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    }
}
