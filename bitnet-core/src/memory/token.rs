//! Handles for callers that can't own a Rust value, such as another language: plain numbers, checked when they come back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{HybridMemoryPool, MemoryHandle};
use crate::{Error, Result};

/// A block that was lent out of Rust's sight. Unlike a handle it can be copied, so the pool checks it when it comes back:
/// each token is taken once, by the pool that made it, and with the address and size that it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct BlockToken {
    /// The pool's number.
    pub pool: u64,
    /// The token's own number; no pool gives it twice.
    pub number: u64,
    /// Address of the first byte.
    pub address: usize,
    /// Bytes asked for.
    pub size: usize,
}

/// The handles that are lent out, by the number of their token.
#[derive(Debug, Default)]
pub(super) struct Lent(Mutex<(u64, BTreeMap<u64, MemoryHandle>)>);

impl Lent {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, MemoryHandle>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HybridMemoryPool {
    /// Lends a block out: it stays alive, also after the pool, until [`HybridMemoryPool::take_back`] gets its token.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the handle (its block then goes back to that pool).
    pub fn lend(&self, handle: MemoryHandle) -> Result<BlockToken> {
        if !self.made(&handle) {
            return Err(Error::ForeignHandle);
        }
        let core = self.core();
        let mut lent = core.lent.lock();
        let number = lent.0;
        lent.0 += 1;
        let token =
            BlockToken { pool: core.id, number, address: handle.address(), size: handle.size() };
        lent.1.insert(number, handle);
        Ok(token)
    }

    /// The handle of a block that was lent out.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the token; [`Error::StaleToken`] if it was taken back before or never
    /// made; [`Error::BadToken`] if its address or size are not those that it was made with. The block then stays lent.
    pub fn take_back(&self, token: BlockToken) -> Result<MemoryHandle> {
        let core = self.core();
        if token.pool != core.id {
            return Err(Error::ForeignHandle);
        }
        let mut lent = core.lent.lock();
        let Some(handle) = lent.1.get(&token.number) else {
            return Err(Error::StaleToken { number: token.number });
        };
        for (what, got, expected) in
            [("address", token.address, handle.address()), ("size", token.size, handle.size())]
        {
            if got != expected {
                return Err(Error::BadToken { what, got, expected });
            }
        }
        lent.1.remove(&token.number).ok_or(Error::StaleToken { number: token.number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn a_token_is_taken_back_once_by_its_pool_and_unchanged() {
        let pool = HybridMemoryPool::new().unwrap();
        let other = HybridMemoryPool::new().unwrap();
        let mut handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
        handle.bytes_mut().fill(9);
        let token = pool.lend(handle).unwrap();
        assert_eq!(pool.get_metrics().total_allocated, 100);

        assert!(matches!(other.take_back(token), Err(Error::ForeignHandle)));
        let inside = BlockToken { address: token.address + 64, ..token };
        assert!(matches!(pool.take_back(inside), Err(Error::BadToken { what: "address", .. })));
        let shorter = BlockToken { size: 36, ..token };
        assert!(matches!(pool.take_back(shorter), Err(Error::BadToken { what: "size", .. })));
        let invented = BlockToken { number: 7, ..token };
        assert!(matches!(pool.take_back(invented), Err(Error::StaleToken { number: 7 })));

        let handle = pool.take_back(token).unwrap();
        assert_eq!(handle.bytes(), [9; 100]);
        assert!(matches!(pool.take_back(token), Err(Error::StaleToken { .. })), "twice");
        pool.deallocate(handle).unwrap();
        let again = pool.lend(pool.allocate(100, 64, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(again.address, token.address, "the same block");
        assert!(matches!(pool.take_back(token), Err(Error::StaleToken { .. })), "an old token");
        let foreign = other.allocate(1, 1, &Device::Cpu).unwrap();
        assert!(matches!(pool.lend(foreign), Err(Error::ForeignHandle)));
    }
}
