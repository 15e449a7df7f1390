//! `/proc/self/pagemap`: which pages of the process are resident.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::{Error, Result};

const PAGEMAP: &str = "/proc/self/pagemap";
/// Bits of an entry: resident; of a file or shared; mapped here alone.
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;
const ALONE: u64 = 1 << 56;
/// Entries that are read at once.
const ENTRIES: usize = 1 << 13;

/// Which pages of a range are resident.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResidentPages {
    start: usize,
    page: usize,
    present: Vec<bool>,
}

impl ResidentPages {
    /// Reads a range that begins and ends at a page.
    pub(crate) fn read(range: Range<usize>, page: usize) -> Result<Self> {
        let failed = |error: &std::io::Error| Error::file(PAGEMAP, "read the page map", error);
        let mut file = File::open(PAGEMAP).map_err(|e| failed(&e))?;
        let (first, count) = (range.start / page, range.len() / page);
        file.seek(SeekFrom::Start(first as u64 * 8)).map_err(|e| failed(&e))?;
        let mut present = Vec::with_capacity(count);
        let mut entries = vec![0u8; ENTRIES.min(count) * 8];
        while present.len() < count {
            let some = &mut entries[..(count - present.len()).min(ENTRIES) * 8];
            file.read_exact(some).map_err(|e| failed(&e))?;
            present.extend(some.as_chunks().0.iter().map(|&entry| is_resident(entry)));
        }
        Ok(Self { start: range.start, page, present })
    }

    /// Returns the resident bytes of a range.
    pub(crate) fn resident(&self, range: Range<usize>) -> u64 {
        let mut sum = 0;
        let mut at = range.start.max(self.start);
        while at < range.end {
            let index = (at - self.start) / self.page;
            let Some(&present) = self.present.get(index) else { break };
            let end = range.end.min(self.start + (index + 1) * self.page);
            sum += if present { end - at } else { 0 };
            at = end;
        }
        sum as u64
    }
}

/// Whether the page counts towards the resident set. The shared zero page, which backs pages that were read and never
/// written, does not: it is neither of a file nor mapped here alone.
fn is_resident(entry: [u8; 8]) -> bool {
    let entry = u64::from_ne_bytes(entry);
    entry & PRESENT != 0 && entry & (OF_A_FILE | ALONE) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_bytes_are_counted_to_the_byte() {
        let pages = ResidentPages { start: 4096, page: 4096, present: vec![true, false, true] };
        assert_eq!(pages.resident(4096..16384), 8192);
        assert_eq!(pages.resident(8000..8300), 192);
        assert_eq!(pages.resident(12288..12289), 1);
        assert_eq!(pages.resident(16384..20000), 0);
    }
}
