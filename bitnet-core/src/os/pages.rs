//! Pages of memory: mapping, unmapping, discarding, residence.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The unit in which pools account for pages, in bytes. The system's pages may be larger.
pub(crate) const GRANULE: usize = 4096;

/// Pages from the system. A test can make requests fail.
#[derive(Debug)]
pub(crate) struct Pages {
    /// How many more maps succeed; `usize::MAX` is no bound.
    remaining: AtomicUsize,
}

impl Default for Pages {
    fn default() -> Self {
        Self { remaining: AtomicUsize::new(usize::MAX) }
    }
}

impl Pages {
    /// Lets `count` more maps succeed and all later ones fail; `None` removes the bound.
    pub(crate) fn fail_after(&self, count: Option<usize>) {
        self.remaining.store(count.unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    /// The address of `bytes` zero bytes, aligned to `align` (a power of two); `None` if the system refuses.
    /// `bytes` must be a multiple of [`GRANULE`] and above zero.
    pub(crate) fn map(&self, bytes: usize, align: usize) -> Option<usize> {
        let allowed = self.remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            if left == usize::MAX { Some(left) } else { left.checked_sub(1) }
        });
        allowed.ok()?;
        imp::map(bytes, align.max(GRANULE))
    }

    /// Unmaps a whole mapping.
    ///
    /// # Safety
    /// `map` returned `address` for these `bytes` and `align`, and it is no longer used.
    pub(crate) unsafe fn unmap(&self, address: usize, bytes: usize, align: usize) {
        // SAFETY: the caller guarantees the same.
        unsafe { imp::unmap(address, bytes, align.max(GRANULE)) };
    }

    /// Discards the pages of a part of a mapping, which remains mapped: the bytes then read as zero. Returns false,
    /// without an effect, where the system can't.
    ///
    /// # Safety
    /// The range is in a mapping made by `map`, and is not read or written during the call.
    pub(crate) unsafe fn discard(&self, address: usize, bytes: usize) -> bool {
        // SAFETY: the caller guarantees the same.
        unsafe { imp::discard(address, bytes) }
    }

    /// Advises huge pages for the part of the range that can have them.
    pub(crate) fn advise_huge(&self, address: usize, bytes: usize) {
        const HUGE: usize = 2 << 20;
        let from = address.next_multiple_of(HUGE);
        let to = (address + bytes) / HUGE * HUGE;
        if from < to {
            imp::advise_huge(from, to - from);
        }
    }

    /// Returns the resident bytes of the range; `None` where the system does not report them.
    pub(crate) fn resident(&self, address: usize, bytes: usize) -> Option<usize> {
        imp::resident(address, bytes)
    }
}

#[cfg(unix)]
pub(crate) use imp::page_size;

#[cfg(unix)]
mod imp {
    use std::ptr::with_exposed_provenance_mut;
    use std::sync::OnceLock;

    use super::GRANULE;

    /// The size of a memory page in bytes, a power of two. Safe in signal handlers after the first call.
    pub(crate) fn page_size() -> usize {
        static PAGE: OnceLock<usize> = OnceLock::new();
        *PAGE.get_or_init(|| {
            // SAFETY: `sysconf` only reads a number of the system.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            usize::try_from(page).ok().filter(|p| p.is_power_of_two()).unwrap_or(GRANULE)
        })
    }

    pub(super) fn map(bytes: usize, align: usize) -> Option<usize> {
        let page = page_size();
        let slack = if align > page { align } else { 0 };
        let whole = bytes.checked_next_multiple_of(page)?.checked_add(slack)?;
        // SAFETY: a fresh private mapping at an address of the system's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                whole,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.expose_provenance();
        let aligned = start.next_multiple_of(align);
        let end = aligned + bytes.next_multiple_of(page);
        drop_range(start, aligned - start);
        drop_range(end, start + whole - end);
        Some(aligned)
    }

    /// Unmaps a range of whole pages that only this module has seen.
    fn drop_range(address: usize, bytes: usize) {
        if bytes > 0 {
            // SAFETY: the range is a part of a mapping of `map` that was never returned, or that its user released.
            unsafe { libc::munmap(with_exposed_provenance_mut(address), bytes) };
        }
    }

    /// # Safety
    /// As [`super::Pages::unmap`].
    pub(super) unsafe fn unmap(address: usize, bytes: usize, _align: usize) {
        drop_range(address, bytes.next_multiple_of(page_size()));
    }

    /// # Safety
    /// As [`super::Pages::discard`].
    pub(super) unsafe fn discard(address: usize, bytes: usize) -> bool {
        if !cfg!(target_os = "linux") {
            // Elsewhere the advice does not promise zeros.
            return false;
        }
        let page = page_size();
        let from = address.next_multiple_of(page);
        let to = (address + bytes) / page * page;
        if from >= to {
            return false;
        }
        let start = with_exposed_provenance_mut(from);
        // SAFETY: the range is in a private mapping of ours; the caller guarantees that it is unused.
        unsafe { libc::madvise(start, to - from, libc::MADV_DONTNEED) == 0 }
    }

    pub(super) fn advise_huge(address: usize, bytes: usize) {
        #[cfg(target_os = "linux")]
        {
            let start = with_exposed_provenance_mut(address);
            // SAFETY: the advice changes no byte, only how the system backs them.
            unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (address, bytes);
    }

    /// Pages of one query.
    #[cfg(target_os = "linux")]
    const QUERY_PAGES: usize = 4096;

    #[cfg(target_os = "linux")]
    pub(super) fn resident(address: usize, bytes: usize) -> Option<usize> {
        let page = page_size();
        let mut map = [0u8; QUERY_PAGES];
        let mut sum = 0;
        let (mut at, end) = (address / page * page, address + bytes);
        while at < end {
            let pages = (end - at).div_ceil(page).min(QUERY_PAGES);
            let start = with_exposed_provenance_mut(at);
            // SAFETY: `map` has a byte for each of the pages; the call reads no memory of the range itself.
            if unsafe { libc::mincore(start, pages * page, map.as_mut_ptr()) } != 0 {
                return None;
            }
            sum += map[..pages].iter().filter(|&&state| state & 1 == 1).count() * page;
            at += pages * page;
        }
        Some(sum)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn resident(_address: usize, _bytes: usize) -> Option<usize> {
        None
    }
}

#[cfg(not(unix))]
mod imp {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::with_exposed_provenance_mut;

    pub(super) fn map(bytes: usize, align: usize) -> Option<usize> {
        let layout = Layout::from_size_align(bytes.max(1), align).ok()?;
        // SAFETY: the layout's size is above zero.
        let start = unsafe { alloc_zeroed(layout) };
        (!start.is_null()).then(|| start.expose_provenance())
    }

    /// # Safety
    /// As [`super::Pages::unmap`].
    pub(super) unsafe fn unmap(address: usize, bytes: usize, align: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes.max(1), align) {
            // SAFETY: `map` made this block with this layout, and the caller no longer uses it.
            unsafe { dealloc(with_exposed_provenance_mut(address), layout) };
        }
    }

    /// # Safety
    /// None: nothing is done.
    pub(super) unsafe fn discard(_address: usize, _bytes: usize) -> bool {
        false
    }

    pub(super) fn advise_huge(_address: usize, _bytes: usize) {}

    pub(super) fn resident(_address: usize, _bytes: usize) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(address: usize, bytes: usize, value: u8) {
        // SAFETY: the tests pass ranges of mappings that they own.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_bytes(value, bytes) };
    }

    fn byte(address: usize) -> u8 {
        // SAFETY: as in `fill`.
        unsafe { std::ptr::with_exposed_provenance::<u8>(address).read() }
    }

    #[test]
    fn pages_are_zero_aligned_and_discarded() {
        let pages = Pages::default();
        for align in [GRANULE, 64 << 10, 4 << 20] {
            let bytes = 8 << 20;
            let at = pages.map(bytes, align).unwrap();
            assert_eq!(at % align, 0);
            assert_eq!(byte(at + bytes - 1), 0);
            fill(at, bytes / 2, 7);
            if let Some(resident) = pages.resident(at, bytes) {
                assert!(resident >= bytes / 2, "{resident}");
            }
            // SAFETY: the range is the test's own.
            if unsafe { pages.discard(at, bytes / 4) } {
                assert_eq!((byte(at), byte(at + bytes / 4)), (0, 7));
                assert!(pages.resident(at, bytes / 4).unwrap() <= GRANULE);
            }
            // SAFETY: the mapping is no longer used.
            unsafe { pages.unmap(at, bytes, align) };
        }
    }

    #[test]
    fn refusals_return_none() {
        let pages = Pages::default();
        assert_eq!(pages.map(isize::MAX as usize / GRANULE * GRANULE, GRANULE), None);
        pages.fail_after(Some(1));
        let at = pages.map(GRANULE, GRANULE).unwrap();
        assert_eq!(pages.map(GRANULE, GRANULE), None);
        pages.fail_after(None);
        // SAFETY: the mapping is no longer used.
        unsafe { pages.unmap(at, GRANULE, GRANULE) };
        assert!(pages.map(GRANULE, GRANULE).is_some());
    }
}
