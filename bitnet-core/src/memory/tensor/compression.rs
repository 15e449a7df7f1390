//! Bytes of tensors, packed without loss: bit planes, then LZ4.
//!
//! Bytes are packed in blocks of 64 KiB. The bits of a block are first sorted by their position in the element, so that
//! bits that rarely change (signs and exponents of similar numbers, the upper bits of small integers, all bits but two
//! of trits stored as integers) become long runs, which LZ4 compresses:
//!
//! ```text
//! elements of w bytes, groups of eight; plane p = 8 k + b holds bit b of byte k of each element, eight to a byte
//! block  = plane 0, plane 1, ... plane 8 w - 1, then the bytes after the last whole group as they were
//! stored = u32 (little-endian): bytes that follow, with the top bit set where the block is stored plain; those bytes
//! ```
//!
//! The format is for memory, not for files.

use crate::device::Device;
use crate::memory::{HybridMemoryPool, MemoryHandle};
use crate::{Error, Result};

/// Bytes of a block. LZ4 refers back by less than this, so that larger blocks would save no more.
const BLOCK: usize = 64 << 10;
/// Blocks of one allocation.
const BLOCKS: usize = 16;
/// Set in a block's length where it is stored plain.
const PLAIN: u32 = 1 << 31;
/// Tensors that save less than 1 / `GAIN` of their bytes are not packed.
const GAIN: usize = 16;
/// Bytes after which packing stops if too little has been saved.
const TRIAL: usize = 4 << 20;

/// Packed bytes, in a pool.
#[derive(Default)]
pub(super) struct Packed {
    /// Of up to `BLOCKS` blocks each.
    parts: Vec<MemoryHandle>,
    size: usize,
    width: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All bytes are packed.
    Whole,
    /// Less than a sixteenth would be saved.
    Dense,
    /// It was cut short, and can be continued as long as the bytes are unchanged.
    Cut,
}

/// Bytes that are packed incrementally, from their start on.
pub(super) struct Packing {
    packed: Packed,
    /// Allocations and deallocations that it has made.
    activity: u64,
}

impl Packing {
    /// Packs elements of `width` bytes.
    pub(super) fn new(width: usize) -> Self {
        Self { packed: Packed { width, ..Packed::default() }, activity: 0 }
    }

    /// Packs more of `bytes` into `pool`, block by block while `more`, which is called before each block, returns true.
    ///
    /// # Errors
    /// Those of [`HybridMemoryPool::allocate`].
    pub(super) fn pack(
        &mut self,
        bytes: &[u8],
        pool: &HybridMemoryPool,
        more: &dyn Fn() -> bool,
    ) -> Result<Progress> {
        if bytes.is_empty() {
            return Ok(Progress::Dense);
        }
        let mut continues = more();
        if !continues {
            return Ok(Progress::Cut);
        }
        let largest = BLOCKS.min(bytes.len().div_ceil(BLOCK));
        let capacity = largest * (4 + BLOCK.max(lz4_flex::block::get_maximum_output_size(BLOCK)));
        let mut planes = pool.allocate(BLOCK.min(bytes.len()), 64, &Device::Cpu)?;
        let mut scratch = pool.allocate(capacity, 64, &Device::Cpu)?;
        self.activity += 4;
        while self.packed.size < bytes.len() {
            let (mut done, mut len, mut cut) = (0, 0, false);
            for block in bytes[self.packed.size..].chunks(BLOCK).take(BLOCKS) {
                cut = !std::mem::take(&mut continues) && !more();
                if cut {
                    break;
                }
                let (planes, out) = (&mut planes.bytes_mut()[..block.len()], scratch.bytes_mut());
                len += pack_block(block, self.packed.width, planes, &mut out[len..]);
                done += block.len();
            }
            if done > 0 {
                let mut place = pool.allocate(len, 64, &Device::Cpu)?;
                place.bytes_mut().copy_from_slice(&scratch.bytes()[..len]);
                self.packed.parts.push(place);
                self.packed.size += done;
                self.activity += 1;
            }
            if self.is_dense(bytes.len()) {
                return Ok(Progress::Dense);
            }
            if cut {
                return Ok(Progress::Cut);
            }
        }
        Ok(Progress::Whole)
    }

    /// Whether too little of `len` bytes has been saved so far.
    fn is_dense(&self, len: usize) -> bool {
        let (done, packed) = (self.packed.size, self.packed.len());
        let over = (done >= TRIAL || done == len) && packed > done - done / GAIN;
        over || (done == len && packed >= len)
    }

    /// The packed bytes, after [`Progress::Whole`].
    pub(super) fn into_packed(self) -> Packed {
        self.packed
    }

    /// Returns the allocations and deallocations since the last call.
    pub(super) fn take_activity(&mut self) -> u64 {
        std::mem::take(&mut self.activity)
    }

    /// The deallocations of dropping it.
    pub(super) fn parts(&self) -> usize {
        self.packed.parts.len()
    }
}

impl Packed {
    /// The bytes that were packed, into a new block of `pool`, with its purpose.
    ///
    /// # Errors
    /// Those of [`HybridMemoryPool::allocate`], and [`Error::BadStorage`] if the packed bytes have been overwritten.
    pub(super) fn unpack(&self, pool: &HybridMemoryPool) -> Result<MemoryHandle> {
        let mut out = pool.allocate(self.size, 64, &Device::Cpu)?;
        let mut planes = pool.allocate(BLOCK.min(self.size), 64, &Device::Cpu)?;
        let damaged = || Error::BadStorage {
            what: "compressed tensor",
            got: self.len(),
            expected: "the packed bytes: memory has been overwritten".into(),
        };
        let mut blocks = out.bytes_mut().chunks_mut(BLOCK);
        for part in &self.parts {
            let mut from = part.bytes();
            while !from.is_empty() {
                let block = blocks.next().ok_or_else(damaged)?;
                let planes = &mut planes.bytes_mut()[..block.len()];
                from = unpack_block(from, self.width, planes, block).ok_or_else(damaged)?;
            }
        }
        if blocks.next().is_some() {
            return Err(damaged());
        }
        Ok(out)
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(MemoryHandle::size).sum()
    }

    /// Bytes before it was packed.
    pub(super) fn unpacked_len(&self) -> usize {
        self.size
    }
}

/// Packs a block. Returns the bytes written to `out`, which holds the largest block. `planes` is as long as `block`.
fn pack_block(block: &[u8], width: usize, planes: &mut [u8], out: &mut [u8]) -> usize {
    split_planes(block, width, planes);
    let (head, body) = out.split_at_mut(4);
    let packed = lz4_flex::block::compress_into(planes, body).ok().filter(|&n| n < block.len());
    let (len, flag) = match packed {
        Some(len) => (len, 0),
        None => {
            body[..block.len()].copy_from_slice(block);
            (block.len(), PLAIN)
        }
    };
    // A block is far below 2^31 bytes.
    head.copy_from_slice(&(len as u32 | flag).to_le_bytes());
    4 + len
}

/// Unpacks a block. Returns the rest of `from`; `None` if it does not unpack to as many bytes as `block` has.
fn unpack_block<'a>(
    from: &'a [u8],
    width: usize,
    planes: &mut [u8],
    block: &mut [u8],
) -> Option<&'a [u8]> {
    let (head, rest) = from.split_first_chunk::<4>()?;
    let head = u32::from_le_bytes(*head);
    let (body, rest) = rest.split_at_checked((head & !PLAIN) as usize)?;
    if head & PLAIN != 0 {
        if body.len() != block.len() {
            return None;
        }
        block.copy_from_slice(body);
    } else {
        let written = lz4_flex::block::decompress_into(body, planes).ok()?;
        if written != block.len() {
            return None;
        }
        join_planes(planes, width, block);
    }
    Some(rest)
}

/// Sorts the bits of `block` by their position in an element of `width` bytes.
fn split_planes(block: &[u8], width: usize, planes: &mut [u8]) {
    let groups = block.len() / (8 * width);
    let (whole, rest) = block.split_at(groups * 8 * width);
    for byte in 0..width {
        for group in 0..groups {
            let first = group * 8 * width + byte;
            let lane: [u8; 8] = std::array::from_fn(|i| whole[first + i * width]);
            let turned = transposed(u64::from_le_bytes(lane)).to_le_bytes();
            for (bit, value) in turned.into_iter().enumerate() {
                planes[(8 * byte + bit) * groups + group] = value;
            }
        }
    }
    planes[whole.len()..].copy_from_slice(rest);
}

/// The inverse of [`split_planes`].
fn join_planes(planes: &[u8], width: usize, block: &mut [u8]) {
    let groups = block.len() / (8 * width);
    let whole = groups * 8 * width;
    for byte in 0..width {
        for group in 0..groups {
            let turned: [u8; 8] =
                std::array::from_fn(|bit| planes[(8 * byte + bit) * groups + group]);
            let lane = transposed(u64::from_le_bytes(turned)).to_le_bytes();
            let first = group * 8 * width + byte;
            for (i, value) in lane.into_iter().enumerate() {
                block[first + i * width] = value;
            }
        }
    }
    block[whole..].copy_from_slice(&planes[whole..]);
}

/// Bit `b` of byte `i` becomes bit `i` of byte `b`: squares of one,
/// two and four bits are exchanged across the diagonal.
fn transposed(square: u64) -> u64 {
    let mut x = square;
    for (shift, mask) in
        [(7, 0x00aa_00aa_00aa_00aa_u64), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)]
    {
        let exchanged = (x ^ (x >> shift)) & mask;
        x ^= exchanged ^ (exchanged << shift);
    }
    x
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::ManualClock;

    fn pool() -> HybridMemoryPool {
        HybridMemoryPool::new().unwrap()
    }

    /// The bytes packed without a break; `None` if they are dense.
    fn pack(bytes: &[u8], width: usize, pool: &HybridMemoryPool) -> Option<Packed> {
        let mut packing = Packing::new(width);
        match packing.pack(bytes, pool, &|| true).unwrap() {
            Progress::Whole => Some(packing.into_packed()),
            Progress::Dense => None,
            Progress::Cut => panic!("cut"),
        }
    }

    #[test]
    fn the_clock_is_checked_between_blocks() {
        let pool = pool();
        let bytes: Vec<u8> = (0..20 * BLOCK + 5).map(|at| (at / 1000) as u8).collect();
        let (manual, second) = (ManualClock::new(), Duration::from_secs(1));
        let clock = manual.clock();
        let mut packing = Packing::new(1);
        let until = |end| {
            let (manual, clock) = (&manual, &clock);
            move || {
                manual.advance(second);
                clock.now() <= end * second
            }
        };
        assert_eq!(packing.pack(&bytes, &pool, &until(3)), Ok(Progress::Cut));
        assert_eq!(packing.packed.size, 3 * BLOCK, "a block a second");
        assert_eq!(packing.pack(&bytes, &pool, &until(4)), Ok(Progress::Cut));
        assert_eq!((packing.packed.size, packing.parts()), (3 * BLOCK, 1), "no time at all");
        assert_eq!(packing.pack(&bytes, &pool, &until(22)), Ok(Progress::Cut));
        assert_eq!((packing.packed.size, packing.parts()), (20 * BLOCK, 3));
        assert_eq!(packing.pack(&bytes, &pool, &until(60)), Ok(Progress::Whole));
        assert!(packing.into_packed().unpack(&pool).unwrap().bytes() == bytes);
        assert_eq!(pool.get_metrics().total_allocated, 0);
    }

    #[test]
    fn activity_counts_the_calls_of_the_pool() {
        let pool = pool();
        let calls = || pool.get_metrics().allocations + pool.get_metrics().deallocations;
        let bytes: Vec<u8> = (0..40 * BLOCK).map(|at| (at / 1000) as u8).collect();
        let mut packing = Packing::new(1);
        let calls_of_more = std::cell::Cell::new(0);
        let some = || calls_of_more.replace(calls_of_more.get() + 1) < 20;
        assert_eq!(packing.pack(&bytes, &pool, &some), Ok(Progress::Cut));
        assert_eq!((packing.take_activity(), packing.parts()), (calls(), 2));
        packing.pack(&bytes, &pool, &|| true).unwrap();
        let before = calls();
        let parts = packing.parts() as u64;
        drop(packing);
        assert_eq!(calls(), before + parts);
    }

    #[test]
    fn bit_squares_are_transposed() {
        for (byte, bit) in [(0, 0), (0, 7), (3, 5), (7, 1)] {
            assert_eq!(transposed(1 << (8 * byte + bit)), 1 << (8 * bit + byte));
        }
    }

    #[test]
    fn sizes_around_block_limits_round_trip() {
        let pool = pool();
        let all: Vec<u8> =
            (0..(2 * BLOCK * BLOCKS + 100) as u32).map(|i| (i / 700) as u8).collect();
        for size in
            [64, 65, BLOCK - 1, BLOCK, BLOCK + 9, BLOCK * BLOCKS, BLOCK * BLOCKS + 1, all.len()]
        {
            for width in [1, 2, 4, 8] {
                let packed = pack(&all[..size], width, &pool);
                let Some(packed) = packed else { continue };
                assert!(packed.len() < size && packed.unpacked_len() == size);
                assert!(packed.unpack(&pool).unwrap().bytes() == &all[..size], "{size} {width}");
            }
        }
        assert_eq!(pool.get_metrics().total_allocated, 0);
    }

    #[test]
    fn overwritten_bytes_are_an_error() {
        let pool = pool();
        let bytes = vec![5u8; 100_000];
        for at in [0, 1, 3, 4, 5, 20] {
            let mut packed = pack(&bytes, 1, &pool).unwrap();
            let place = &mut packed.parts[0].bytes_mut()[at];
            *place ^= 0xff;
            match packed.unpack(&pool) {
                Err(Error::BadStorage { what: "compressed tensor", .. }) => {}
                // A changed literal is not detected.
                Ok(out) => assert_eq!(out.size(), bytes.len()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_round_trip(
            bytes in prop::collection::vec(prop_oneof![9 => 0u8..3, 1 => any::<u8>()], 0..3000),
            width in prop::sample::select(vec![1usize, 2, 4, 8]),
        ) {
            let pool = pool();
            if let Some(packed) = pack(&bytes, width, &pool) {
                prop_assert!(packed.len() < bytes.len());
                let out = packed.unpack(&pool).unwrap();
                prop_assert_eq!(out.bytes(), &bytes[..]);
            }
        }
    }
}
