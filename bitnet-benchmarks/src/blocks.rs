//! The measured sources of memory blocks: the program's allocator, or a pool.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use bitnet_core::device::Device;
use bitnet_core::memory::{HybridMemoryPool, MemoryHandle};
use thiserror::Error;

/// A failed allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("can't allocate {bytes} bytes: run on a machine with more free memory")]
pub struct Refused {
    /// The requested bytes.
    pub bytes: usize,
}

/// A source of memory blocks.
pub trait Blocks: Sync {
    /// An owned block. Dropping it frees it as well.
    type Block: Send;

    /// Returns a block of at least `bytes` bytes, not zeroed.
    ///
    /// # Errors
    /// [`Refused`] if the allocation fails.
    fn take(&self, bytes: usize) -> Result<Self::Block, Refused>;

    /// Frees a block.
    fn free(&self, block: Self::Block);

    /// Writes eight bytes at offset `at`, a multiple of eight.
    ///
    /// # Panics
    /// If the block is shorter.
    fn write(block: &mut Self::Block, at: usize, value: u64);

    /// Returns the address of the first byte.
    fn address(block: &Self::Block) -> usize;

    /// Writes every byte of a block of `bytes` requested bytes.
    fn fill(block: &mut Self::Block, bytes: usize);
}

/// The unit of a block of the program's allocator, which determines its alignment.
pub trait Unit: Send + 'static {
    /// Writes exactly eight bytes at offset `at` of the unit.
    fn write(place: &mut MaybeUninit<Self>, at: usize, value: u64)
    where
        Self: Sized;

    /// Creates a unit with all bytes written.
    fn full() -> Self;
}

/// The fill value.
const FULL: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Eight possibly uninitialised bytes.
type Word = MaybeUninit<u64>;

/// A cache line, the alignment of tensors.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Line([Word; 8]);

/// The alignment that `malloc` gives.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct Pair([Word; 2]);

impl Unit for Line {
    #[inline]
    fn write(place: &mut MaybeUninit<Self>, at: usize, value: u64) {
        // Uninitialised bytes are not stored.
        let mut words = [Word::uninit(); 8];
        words[at / 8].write(value);
        place.write(Self(words));
    }

    fn full() -> Self {
        Self([Word::new(FULL); 8])
    }
}

impl Unit for Pair {
    #[inline]
    fn write(place: &mut MaybeUninit<Self>, at: usize, value: u64) {
        let mut words = [Word::uninit(); 2];
        words[at / 8].write(value);
        place.write(Self(words));
    }

    fn full() -> Self {
        Self([Word::new(FULL); 2])
    }
}

/// The program's allocator, with blocks of whole `U`s; requests are rounded up to a multiple of its size.
///
/// The allocator is called directly, so exhausted memory aborts the process.
#[derive(Debug, Default)]
pub struct System<U>(PhantomData<fn() -> U>);

impl<U> System<U> {
    /// Returns the allocator of this program.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// The limit of a request, above which the system's allocator is not called.
const IMPOSSIBLE: usize = isize::MAX as usize / 2;

impl<U: Unit> Blocks for System<U> {
    type Block = Box<[MaybeUninit<U>]>;

    #[inline]
    fn take(&self, bytes: usize) -> Result<Self::Block, Refused> {
        if bytes >= IMPOSSIBLE {
            return Err(Refused { bytes });
        }
        Ok(Box::new_uninit_slice(bytes.div_ceil(size_of::<U>()).max(1)))
    }

    #[inline]
    fn free(&self, block: Self::Block) {
        drop(block);
    }

    #[inline]
    fn write(block: &mut Self::Block, at: usize, value: u64) {
        U::write(&mut block[at / size_of::<U>()], at % size_of::<U>(), value);
    }

    fn fill(block: &mut Self::Block, bytes: usize) {
        for unit in &mut block[..bytes.div_ceil(size_of::<U>())] {
            unit.write(U::full());
        }
    }

    #[inline]
    fn address(block: &Self::Block) -> usize {
        block.as_ptr().addr()
    }
}

/// A pool of this project; its blocks are aligned to cache lines.
#[derive(Debug)]
pub struct Pool(pub HybridMemoryPool);

/// The alignment of a tensor.
const TENSOR: usize = 64;

impl Blocks for Pool {
    type Block = MemoryHandle;

    #[inline]
    fn take(&self, bytes: usize) -> Result<MemoryHandle, Refused> {
        self.0.allocate(bytes, TENSOR, &Device::Cpu).map_err(|_| Refused { bytes })
    }

    #[inline]
    fn free(&self, block: MemoryHandle) {
        let freed = self.0.deallocate(block);
        debug_assert!(freed.is_ok(), "the pool frees its own blocks");
    }

    #[inline]
    fn write(block: &mut MemoryHandle, at: usize, value: u64) {
        block.bytes_mut()[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn fill(block: &mut MemoryHandle, bytes: usize) {
        block.bytes_mut()[..bytes].fill(0x5a);
    }

    #[inline]
    fn address(block: &MemoryHandle) -> usize {
        block.bytes().as_ptr().addr()
    }
}
