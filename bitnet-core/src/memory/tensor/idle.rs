//! Tensors that are not in use: moved to other memory, or compressed.

use std::fmt;
use std::mem;
use std::sync::RwLockWriteGuard;
use std::time::{Duration, Instant};

use super::compression::{Packing, Progress};
use super::entry::{Content, Form, TensorEntry};
use crate::memory::cleanup::{Compaction, Compressed, CompressionStep};
use crate::memory::{MemoryHandle, Purpose};
use crate::{Error, Result};

/// A tensor without guards; none can be acquired while this is alive.
pub struct IdleTensor<'a> {
    entry: &'a TensorEntry,
    content: RwLockWriteGuard<'a, Content>,
}

impl<'a> IdleTensor<'a> {
    pub(super) fn new(entry: &'a TensorEntry, content: RwLockWriteGuard<'a, Content>) -> Self {
        Self { entry, content }
    }

    /// The name of the tensor.
    pub fn name(&self) -> Option<&str> {
        self.entry.name()
    }

    /// What the tensor's memory is used for.
    pub fn purpose(&self) -> Purpose {
        self.content.purpose
    }

    /// The time since a guard was last dropped.
    pub fn idle_time(&self) -> Duration {
        self.entry.idle_time()
    }

    /// The block of the tensor; `None` if it can't be moved: it is outside every pool, or shares its storage with a
    /// live view or clone.
    pub fn block(&mut self) -> Option<&MemoryHandle> {
        self.content.tensor.own_block().map(|block| &*block)
    }

    /// Moves the tensor to the block that `place` allocates, of the size of the old one, which is freed. Returns
    /// whether it was moved: false if there is no [`IdleTensor::block`].
    ///
    /// # Errors
    /// That of `place`, or [`Error::BadStorage`] for a block of another size. The tensor is then not moved.
    pub fn relocate(
        &mut self,
        place: impl FnOnce(&MemoryHandle) -> Result<MemoryHandle>,
    ) -> Result<bool> {
        let Some(block) = self.content.tensor.own_block() else { return Ok(false) };
        let mut new = place(block)?;
        if new.size() != block.size() {
            return Err(Error::BadStorage {
                what: "relocated tensor",
                got: new.size(),
                expected: format!("{} bytes", block.size()),
            });
        }
        new.bytes_mut().copy_from_slice(block.bytes());
        *block = new;
        Ok(true)
    }

    /// Moves the tensor out of sparse memory. Returns whether it was moved: false if there is no [`IdleTensor::block`],
    /// if `compaction` does not concern it, or if its bytes were not copied before the deadline.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; the tensor is then not moved.
    pub fn leave_sparse(
        &mut self,
        compaction: &Compaction<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        let tensor = &mut self.content.tensor;
        let Some(block) = tensor.own_block().filter(|block| compaction.concerns(block)) else {
            return Ok(false);
        };
        let before = block.address();
        let Some(block) = tensor.remove_block() else { return Ok(false) };
        let (block, outcome) = match compaction.relocate_until(block, deadline) {
            Ok(block) => (block, Ok(())),
            Err((block, error)) => (block, Err(error)),
        };
        let moved = block.address() != before;
        tensor.restore_block(block);
        outcome.map(|()| moved)
    }

    /// Whether the tensor is compressed.
    pub fn is_compressed(&self) -> bool {
        self.content.form.packed().is_some()
    }

    /// Compresses the tensor without loss, and frees its block. Does nothing, and returns zeros, if there is no
    /// [`IdleTensor::block`], if less than a sixteenth would be saved (which is recorded until the tensor is written),
    /// if it is compressed already, and if a guard is requested meanwhile.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no memory for the compressed bytes; the tensor is then unchanged.
    pub fn compress(&mut self) -> Result<Compressed> {
        Ok(self.compress_while(&|| true)?.done)
    }

    /// As [`IdleTensor::compress`], in small pieces as long as `more`, which is called before each piece, returns true.
    /// Interrupted by it or by a request for a guard, the work continues with the next call, unless the tensor has been
    /// written meanwhile; until all is packed the tensor is unchanged.
    ///
    /// # Errors
    /// As [`IdleTensor::compress`].
    pub(in crate::memory) fn compress_while(
        &mut self,
        more: &dyn Fn() -> bool,
    ) -> Result<CompressionStep> {
        let mut step = CompressionStep::default();
        let Content { tensor, purpose, form } = &mut *self.content;
        let (elements, bytes) = tensor.dtype().packing();
        let width = if elements == 1 { bytes } else { 1 };
        if let (Form::Plain | Form::Begun(_), Some(block)) = (&*form, tensor.own_block()) {
            let mut packing = match mem::replace(form, Form::Plain) {
                Form::Begun(packing) => packing,
                _ => Packing::new(width),
            };
            let pool = self.entry.inner().pool.for_purpose(*purpose);
            let entry = self.entry;
            let progress =
                packing.pack(block.bytes(), &pool, &|| !entry.is_requested() && more())?;
            step.activity = packing.take_activity();
            match progress {
                Progress::Cut => {
                    step.was_cut = !entry.is_requested();
                    *form = Form::Begun(packing);
                }
                Progress::Dense => {
                    step.activity += packing.parts() as u64;
                    *form = Form::Dense;
                }
                Progress::Whole => {
                    let packed = packing.into_packed();
                    let (bytes_before, bytes_after) = (packed.unpacked_len(), packed.len());
                    step.done = Compressed { tensors: 1, bytes_before, bytes_after };
                    *form = Form::Packed(packed);
                    let inner = self.entry.inner();
                    inner.vacated().extend(tensor.remove_block());
                    step.add(inner.free_vacated_while(more));
                }
            }
        }
        Ok(step)
    }
}

impl fmt::Debug for IdleTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdleTensor({}, {:?})", self.entry, self.content.tensor)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::ops::ControlFlow;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::memory::tensor::BitNetTensor;
    use crate::memory::tensor::{TensorHandle, TensorRegistry};
    use crate::memory::{HybridMemoryPool, ManualClock};

    /// Returns true `count` times.
    fn times(count: usize) -> impl Fn() -> bool {
        let left = Cell::new(count);
        move || left.replace(left.get().saturating_sub(1)) > 0
    }

    fn step(registry: &TensorRegistry, idle: Duration, pieces: usize) -> Option<CompressionStep> {
        let mut done = None;
        registry.for_each_idle(idle, |tensor| {
            done = Some(tensor.compress_while(&times(pieces)).unwrap());
            ControlFlow::Break(())
        });
        done
    }

    /// A tensor of 16 blocks of 64 KiB.
    fn tensor(pool: &HybridMemoryPool) -> BitNetTensor {
        let values: Vec<f32> = (0..1 << 18).map(|at| (at % 100) as f32).collect();
        BitNetTensor::from_f32(&[1 << 18], &values, pool).unwrap()
    }

    #[test]
    fn interrupted_compression_resumes_unless_the_tensor_is_written() {
        let pool = HybridMemoryPool::new().unwrap();
        let manual = ManualClock::new();
        let registry = TensorRegistry::with_clock(&pool, manual.clock());
        let handle = TensorHandle::new(tensor(&pool), &registry);
        let held = || pool.get_metrics().total_allocated as usize;
        let plain = held();
        let cut = |pieces| {
            let step = step(&registry, Duration::ZERO, pieces).unwrap();
            assert!(step.was_cut && step.done == Compressed::default() && !handle.is_compressed());
        };
        cut(10);
        assert!(held() > plain, "packed parts are retained");
        assert_eq!(handle.read().unwrap().f32().unwrap()[77], 77.0, "reads retain them");
        let whole = step(&registry, Duration::ZERO, 6).unwrap();
        assert!(!whole.was_cut && whole.done.tensors == 1, "{whole:?}: six blocks remained");
        assert!(handle.is_compressed());
        assert_eq!(held(), whole.done.bytes_after);

        handle.write().unwrap().f32_mut().unwrap()[0] = 5.0;
        assert_eq!(held(), plain);
        cut(15);
        handle.write().unwrap().f32_mut().unwrap()[1 << 17] = 6.0;
        assert_eq!(held(), plain, "writes drop them");
        cut(15);
        assert!(step(&registry, Duration::ZERO, 16).unwrap().done.tensors == 1);
        let read = handle.read().unwrap();
        assert_eq!([0, 1 << 17, 99].map(|at| read.f32().unwrap()[at]), [5.0, 6.0, 99.0]);
        drop(read);

        manual.advance(Duration::from_secs(9));
        cut(3);
        drop(handle.read().unwrap());
        manual.advance(Duration::from_secs(1));
        assert_eq!(step(&registry, Duration::from_secs(2), 100), None);
        assert_eq!(held(), plain, "it is in use again");
        cut(3);
        drop(handle);
        assert_eq!(held(), 0);
    }

    #[test]
    fn guards_wait_for_one_block_at_most() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let handle = TensorHandle::new(tensor(&pool), &registry);
        for writes in [false, true] {
            let seen = std::thread::scope(|scope| {
                let request = RefCell::new(None);
                registry.for_each_idle(Duration::ZERO, |tensor| {
                    let entry = tensor.entry;
                    let pieces = AtomicU64::new(0);
                    let more = || {
                        // A guard is requested in the middle of the packing.
                        if pieces.fetch_add(1, Ordering::SeqCst) == 5 {
                            *request.borrow_mut() = Some(scope.spawn(|| {
                                if writes {
                                    handle.write().unwrap().f32().unwrap()[77]
                                } else {
                                    handle.read().unwrap().f32().unwrap()[77]
                                }
                            }));
                            while !entry.is_requested() {
                                std::thread::yield_now();
                            }
                        }
                        true
                    };
                    let step = tensor.compress_while(&more).unwrap();
                    assert_eq!((step.done.tensors, step.was_cut), (0, false), "{step:?}");
                    assert_eq!(pieces.into_inner(), 6);
                    ControlFlow::Continue(())
                });
                request.into_inner().unwrap().join().unwrap()
            });
            assert_eq!(seen, 77.0);
        }
        assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    }

    #[test]
    fn steps_count_their_calls_of_the_pool() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let calls = || pool.get_metrics().allocations + pool.get_metrics().deallocations;
        let mut random = 88_172_645_463_325_252u64;
        let noise: Vec<f32> = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            f32::from_bits((random >> 32) as u32)
        })
        .take(1 << 16)
        .collect();
        let noise = BitNetTensor::from_f32(&[1 << 16], &noise, &pool).unwrap();
        for (tensor, pieces) in [(noise, 100), (tensor(&pool), 5), (tensor(&pool), 100)] {
            let handle = TensorHandle::new(tensor, &registry);
            let before = calls();
            let step = step(&registry, Duration::ZERO, pieces).unwrap();
            assert_eq!(step.activity, calls() - before, "{step:?}");
            drop(handle);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_blocks_are_discarded_in_pieces() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let bytes = 36 << 20;
        let handle =
            TensorHandle::new(BitNetTensor::scratch(&[bytes / 4], &pool).unwrap(), &registry);
        handle.write().unwrap().bytes_mut().unwrap().fill(1);
        let blocks = bytes / (64 << 10);
        let first = step(&registry, Duration::ZERO, blocks + 4).unwrap();
        assert!(first.done.tensors == 1 && first.was_cut && handle.is_compressed());
        assert_eq!(first.returned, 8 << 20, "four pieces");
        let second = registry.inner().free_vacated_while(&times(10));
        assert!(second.was_cut && second.returned <= 20 << 20, "{second:?}");
        let last = registry.inner().free_vacated_while(&times(1000));
        assert_eq!((last.was_cut, last.activity), (false, 1));
        assert_eq!(first.returned + second.returned + last.returned, bytes);
        assert!(handle.read().unwrap().bytes().unwrap().iter().all(|&byte| byte == 1));
    }
}
