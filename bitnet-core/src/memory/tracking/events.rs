//! What a pool tells its tracker: an allocation made, an allocation given back.

use std::panic::Location;

use crate::memory::Purpose;

/// A block was handed out. The pool tells it before its user gets the handle.
#[derive(Debug, Clone, Copy)]
pub struct AllocationEvent {
    /// The first byte's address; no other live allocation of this pool has it.
    pub address: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Bytes that the block occupies.
    pub class_bytes: usize,
    /// What it is used for.
    pub purpose: Purpose,
    /// The line that asked for it.
    pub site: &'static Location<'static>,
}

/// A block was given back. The pool tells it before the block can be handed out again; told later, the record of the
/// next allocation at this address may be lost (never the other way round: nothing is invented).
#[derive(Debug, Clone, Copy)]
pub struct DeallocationEvent {
    /// The first byte's address.
    pub address: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Bytes that the block occupied.
    pub class_bytes: usize,
    /// What it was used for.
    pub purpose: Purpose,
}
