//! The accounts of a pool.

/// What a pool holds, in bytes and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryMetrics {
    /// Bytes asked for by the allocations that are alive.
    pub total_allocated: u64,
    /// The largest value that `total_allocated` has had: exact while one thread allocates, and within 128 KiB for each
    /// further one (4 MiB for one that allocates blocks of 1 MiB and more).
    pub peak_allocated: u64,
    /// Bytes of address space that the pool has from the system. Pages in it count as memory only once they are touched.
    pub reserved: u64,
    /// Allocations made so far.
    pub allocations: u64,
    /// Allocations given back so far.
    pub deallocations: u64,
}
