//! Sizes of memory pages.

use crate::os::files::{Files, number};

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes of a page.
    pub bytes: u64,
    /// Reserved pages in all.
    pub reserved: u64,
    /// The unused part of them.
    pub free: Option<u64>,
}

/// When the system uses transparent huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransparentHugePages {
    /// Wherever they fit.
    Always,
    /// Where a program advises them.
    Madvise,
    /// Never.
    Never,
}

impl TransparentHugePages {
    /// Reads `always [madvise] never`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('[')?.1.split_once(']')?.0 {
            "always" => Some(Self::Always),
            "madvise" => Some(Self::Madvise),
            "never" => Some(Self::Never),
            _ => None,
        }
    }

    pub(super) fn of(files: Files<'_>) -> Option<Self> {
        Self::parse(&files("/sys/kernel/mm/transparent_hugepage/enabled")?)
    }
}

/// Huge pages of each size from 16 KiB to 16 GiB that the system has.
pub(super) fn huge_pages(files: Files<'_>) -> Vec<HugePages> {
    (4..=24u32)
        .filter_map(|log| {
            let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", 1u64 << log);
            Some(HugePages {
                bytes: 1 << (log + 10),
                reserved: number(files, &format!("{folder}/nr_hugepages"))?,
                free: number(files, &format!("{folder}/free_hugepages")),
            })
        })
        .collect()
}

/// Returns the page size from the auxiliary vector of this process.
pub(super) fn page_bytes() -> Option<usize> {
    page_bytes_of(&std::fs::read("/proc/self/auxv").ok()?)
}

/// The page size in an auxiliary vector: the value of key `AT_PAGESZ` (6).
fn page_bytes_of(auxiliary: &[u8]) -> Option<usize> {
    const AT_PAGESZ: usize = 6;
    let word = size_of::<usize>();
    auxiliary.chunks_exact(2 * word).find_map(|pair| {
        let key = usize::from_ne_bytes(pair[..word].try_into().ok()?);
        let value = usize::from_ne_bytes(pair[word..].try_into().ok()?);
        (key == AT_PAGESZ && value.is_power_of_two()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_is_read_from_the_auxiliary_vector() {
        let words = |list: &[usize]| -> Vec<u8> {
            list.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        assert_eq!(page_bytes_of(&words(&[33, 7, 6, 65536, 0, 0])), Some(65536));
        assert_eq!(page_bytes_of(&words(&[33, 6, 0, 0])), None);
        assert_eq!(page_bytes_of(&words(&[6, 4095])), None);
        assert_eq!(page_bytes_of(&[6, 0, 0]), None);
    }

    #[test]
    fn transparent_huge_page_modes_are_parsed() {
        let parse = TransparentHugePages::parse;
        assert_eq!(parse("always [madvise] never\n"), Some(TransparentHugePages::Madvise));
        assert_eq!(parse("[always] madvise never"), Some(TransparentHugePages::Always));
        assert_eq!(parse("always madvise [never]"), Some(TransparentHugePages::Never));
        for bad in ["", "always", "[", "[sometimes]"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
