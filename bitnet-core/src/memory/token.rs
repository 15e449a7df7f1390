//! Handles for callers that can't own a Rust value, such as another language: plain numbers, checked when they return.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::heap::MemoryHandle;
use crate::sync::lock;
use crate::{Error, Result};

/// A handle as plain numbers. Unlike a handle it can be copied, so the pool checks it when it returns: each token is
/// accepted once, by the pool that made it, with the address and size that it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct BlockToken {
    /// The pool's number.
    pub pool: u64,
    /// The token's number, unique in its pool.
    pub number: u64,
    /// Address of the first byte.
    pub address: usize,
    /// Bytes requested.
    pub size: usize,
}

/// The handles behind the tokens of a pool, by number. Handles whose tokens are not redeemed are leaked with the pool.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<Issued>);

#[derive(Debug, Default)]
struct Issued {
    next: u64,
    handles: BTreeMap<u64, MemoryHandle>,
}

impl Drop for Tokens {
    fn drop(&mut self) {
        std::mem::forget(std::mem::take(&mut lock(&self.0).handles));
    }
}

impl Tokens {
    /// Stores `handle`, a block of the pool with this id, and returns its token.
    pub(super) fn issue(&self, pool: u64, handle: MemoryHandle) -> BlockToken {
        let mut issued = lock(&self.0);
        let number = issued.next;
        issued.next += 1;
        let token = BlockToken { pool, number, address: handle.address(), size: handle.size() };
        issued.handles.insert(number, handle);
        token
    }

    /// Returns the handle behind `token`, checked as by [`crate::memory::HybridMemoryPool::from_token`].
    pub(super) fn redeem(&self, token: BlockToken) -> Result<MemoryHandle> {
        let mut issued = lock(&self.0);
        let stale = Error::StaleToken { number: token.number };
        let Some(handle) = issued.handles.get(&token.number) else { return Err(stale) };
        for (what, got, expected) in
            [("address", token.address, handle.address()), ("size", token.size, handle.size())]
        {
            if got != expected {
                return Err(Error::BadToken { what, got, expected });
            }
        }
        issued.handles.remove(&token.number).ok_or(stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::memory::HybridMemoryPool;

    #[test]
    fn tokens_are_accepted_once_by_their_pool_and_unchanged() {
        let pool = HybridMemoryPool::new().unwrap();
        let other = HybridMemoryPool::new().unwrap();
        let mut handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
        handle.bytes_mut().fill(9);
        let token = pool.into_token(handle).unwrap();
        assert_eq!(pool.get_metrics().total_allocated, 100);

        assert!(matches!(other.from_token(token), Err(Error::ForeignHandle)));
        let inside = BlockToken { address: token.address + 64, ..token };
        assert!(matches!(pool.from_token(inside), Err(Error::BadToken { what: "address", .. })));
        let shorter = BlockToken { size: 36, ..token };
        assert!(matches!(pool.from_token(shorter), Err(Error::BadToken { what: "size", .. })));
        let invented = BlockToken { number: 7, ..token };
        assert!(matches!(pool.from_token(invented), Err(Error::StaleToken { number: 7 })));

        let handle = pool.from_token(token).unwrap();
        assert_eq!(handle.bytes(), [9; 100]);
        assert!(matches!(pool.from_token(token), Err(Error::StaleToken { .. })), "twice");
        pool.deallocate(handle).unwrap();
        let again = pool.into_token(pool.allocate(100, 64, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(again.address, token.address, "the same block");
        assert!(matches!(pool.from_token(token), Err(Error::StaleToken { .. })), "an old token");
        let foreign = other.allocate(1, 1, &Device::Cpu).unwrap();
        assert!(matches!(pool.into_token(foreign), Err(Error::ForeignHandle)));
    }
}
