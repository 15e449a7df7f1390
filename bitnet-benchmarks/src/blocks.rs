//! Blocks of memory from whom a kernel measures: the program's allocator, or a pool.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use bitnet_core::device::Device;
use bitnet_core::memory::{HybridMemoryPool, MemoryHandle};
use thiserror::Error;

/// An allocator that refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{bytes} bytes were refused: run on a machine with more free memory")]
pub struct Refused {
    /// The bytes asked for.
    pub bytes: usize,
}

/// Something that hands out blocks of memory and takes them back.
pub trait Blocks: Sync {
    /// One block, owned. Dropping it gives it back too.
    type Block: Send;

    /// Returns a block of at least `bytes` bytes, not zeroed.
    ///
    /// # Errors
    /// [`Refused`] if the memory can't be had.
    fn take(&self, bytes: usize) -> Result<Self::Block, Refused>;

    /// Gives a block back.
    fn give_back(&self, block: Self::Block);

    /// Writes eight bytes, `at` bytes into the block; `at` is a multiple of eight.
    ///
    /// # Panics
    /// If the block ends before.
    fn write(block: &mut Self::Block, at: usize, value: u64);

    /// Returns the address of the first byte.
    fn address(block: &Self::Block) -> usize;

    /// Writes every byte of a block of which `bytes` were asked for.
    fn fill(block: &mut Self::Block, bytes: usize);
}

/// What a block of the program's allocator is made of; its alignment is the block's.
pub trait Unit: Send + 'static {
    /// Writes eight bytes, `at` bytes into the unit, and nothing else.
    fn write(place: &mut MaybeUninit<Self>, at: usize, value: u64)
    where
        Self: Sized;

    /// Creates a unit all of whose bytes are written.
    fn full() -> Self;
}

/// What is written where every byte is.
const FULL: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Eight bytes that need not have been written.
type Word = MaybeUninit<u64>;

/// A cache line: what a tensor is aligned to.
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
        // What stays uninitialised is not stored.
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

/// The program's allocator, through blocks of whole `U`s: a request is rounded up to the size of one.
///
/// The allocator is called as directly as Rust calls it, so memory that the system lacks ends the process.
#[derive(Debug, Default)]
pub struct System<U>(PhantomData<fn() -> U>);

impl<U> System<U> {
    /// Returns the allocator of this program.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// More bytes than any machine has: the system's allocator is not asked for them.
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
    fn give_back(&self, block: Self::Block) {
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
    fn give_back(&self, block: MemoryHandle) {
        let given = self.0.deallocate(block);
        debug_assert!(given.is_ok(), "the pool takes its own blocks back");
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
