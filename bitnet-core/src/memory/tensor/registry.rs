//! All tensors that handles hold, so that those not in use can be moved, compressed and reported.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::entry::{RegistryInner, TensorEntry};
use super::idle::IdleTensor;
use crate::Result;
use crate::memory::cleanup::{CleanupTarget, Compacted, Compaction, Compressed, CompressionStep};
use crate::memory::heap::past;
use crate::memory::observer::without_callbacks;
use crate::memory::{Clock, HybridMemoryPool};

/// Tensors that are looked up between two checks of the clock.
const BATCH: usize = 64;

/// The tensors that [`super::TensorHandle`]s own. Clones are the same registry. It keeps no tensor alive.
#[derive(Clone)]
pub struct TensorRegistry {
    inner: Arc<RegistryInner>,
}

impl TensorRegistry {
    /// A registry that restores compressed tensors to `pool`. The tensors themselves may be in any pool, or in none.
    pub fn new(pool: &HybridMemoryPool) -> Self {
        Self::with_clock(pool, Clock::system())
    }

    /// As [`TensorRegistry::new`], with ages and idle times by this clock.
    pub fn with_clock(pool: &HybridMemoryPool, clock: Clock) -> Self {
        let registry = Self { inner: Arc::new(RegistryInner::new(pool.clone(), clock)) };
        pool.attach_registry(&registry);
        registry
    }

    pub(super) fn inner(&self) -> &Arc<RegistryInner> {
        &self.inner
    }

    /// The number of tensors that at least one handle holds.
    pub fn len(&self) -> usize {
        self.inner.lock().alive.len()
    }

    /// Whether no handle is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` for each tensor without guards that has been idle for at least `older_than`, oldest first, until
    /// it breaks. Tensors in use are skipped: this never waits for a guard. A request for a guard of the visited tensor
    /// waits until `visit` has returned, and so do callbacks of memory pressure on this thread.
    pub fn for_each_idle(
        &self,
        older_than: Duration,
        visit: impl FnMut(&mut IdleTensor<'_>) -> ControlFlow<()>,
    ) {
        self.inner.for_each_idle_while(older_than, &|| true, visit);
        // Callbacks were deferred meanwhile.
        self.inner.pool.inner().report_usage();
    }

    /// Compresses each tensor that has been idle for at least `older_than`, as [`IdleTensor::compress`] does. Reading
    /// or writing one later restores it.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no memory for the compressed bytes; earlier tensors remain compressed.
    pub fn compress_idle(&self, older_than: Duration) -> Result<Compressed> {
        let mut done = Compressed::default();
        let mut failed = None;
        self.for_each_idle(older_than, |tensor| match tensor.compress() {
            Ok(one) => {
                done.add(one);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        failed.map_or(Ok(done), Err)
    }
}

impl RegistryInner {
    /// As [`TensorRegistry::for_each_idle`], as long as `more` returns true. Returns whether all tensors were visited.
    fn for_each_idle_while(
        &self,
        older_than: Duration,
        more: &dyn Fn() -> bool,
        mut visit: impl FnMut(&mut IdleTensor<'_>) -> ControlFlow<()>,
    ) -> bool {
        let mut from = 0;
        // Tensors that `visit` makes are not visited.
        let end = self.lock().next;
        loop {
            if !more() {
                return false;
            }
            // `visit` may make and drop handles, so the list is not locked meanwhile.
            let batch: Vec<(u64, Weak<TensorEntry>)> = {
                let entries = self.lock();
                let alive = entries.alive.range(from..end).take(BATCH);
                alive.map(|(&id, entry)| (id, Weak::clone(entry))).collect()
            };
            let Some(&(last, _)) = batch.last() else { return true };
            from = last + 1;
            for entry in batch.iter().filter_map(|(_, entry)| entry.upgrade()) {
                let Some(mut content) = entry.try_own() else { continue };
                if entry.idle_time() < older_than || entry.is_requested() {
                    content.stop_packing();
                    continue;
                }
                // A callback might wait for the tensor that is locked here.
                let visited = || visit(&mut IdleTensor::new(&entry, content));
                if without_callbacks(visited).is_break() {
                    return true;
                }
            }
        }
    }
}

impl CleanupTarget for RegistryInner {
    fn free_vacated(&self, deadline: Option<Instant>) -> CompressionStep {
        self.free_vacated_while(&|| !past(deadline))
    }

    fn compress(&self, idle: Duration, deadline: Option<Instant>) -> CompressionStep {
        let more = || !past(deadline);
        let mut sum = CompressionStep::default();
        let had_time = self.for_each_idle_while(idle, &more, |tensor| {
            // There may be memory for smaller ones.
            sum.add(tensor.compress_while(&more).unwrap_or_default());
            sum.was_cut |= !more();
            if sum.was_cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        sum.was_cut |= !had_time;
        sum
    }

    fn compact(
        &self,
        compaction: &Compaction<'_>,
        idle: Duration,
        deadline: Option<Instant>,
        done: &mut Compacted,
    ) -> bool {
        let mut cut = false;
        let had_time = self.for_each_idle_while(idle, &|| !past(deadline), |tensor| {
            if past(deadline) {
                cut = true;
                return ControlFlow::Break(());
            }
            let Some(block) = tensor.block().filter(|block| compaction.concerns(block)) else {
                return ControlFlow::Continue(());
            };
            let size = block.size();
            match tensor.leave_sparse(compaction, deadline) {
                Ok(true) => {
                    done.tensors += 1;
                    done.bytes += size;
                }
                Ok(false) => cut = true,
                Err(_) => done.refused += 1,
            }
            ControlFlow::Continue(())
        });
        had_time && !cut
    }
}

impl HybridMemoryPool {
    /// Registers the tensors of `registry` to be moved and compressed by cleanups of this pool. A registry made from
    /// this pool is attached already; one with tensors of several pools has to be
    /// attached to each. Does not keep the registry alive.
    pub fn attach_registry(&self, registry: &TensorRegistry) {
        let inner: Weak<RegistryInner> = Arc::downgrade(&registry.inner);
        self.cleaner().attach(inner);
    }
}

impl fmt::Debug for TensorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorRegistry({} tensors)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::device::Device;
    use crate::memory::MemoryPoolConfig;
    use crate::memory::tensor::{BitNetTensor, TensorHandle};

    /// Returns true `count` times.
    fn times(count: usize) -> impl Fn() -> bool {
        let left = Cell::new(count);
        move || left.replace(left.get().saturating_sub(1)) > 0
    }

    #[test]
    fn callbacks_are_deferred_until_a_visit_returns() {
        let limit = 8 << 20;
        let config = MemoryPoolConfig {
            max_small_pool_size: limit / 2,
            max_large_pool_size: limit / 2,
            enable_advanced_tracking: true,
            ..MemoryPoolConfig::unbounded()
        };
        let pool = HybridMemoryPool::with_config(config).unwrap();
        let registry = TensorRegistry::new(&pool);
        let handle = TensorHandle::new(BitNetTensor::zeros(&[100], &pool).unwrap(), &registry);
        let visiting = Arc::new(AtomicBool::new(false));
        let during = Arc::new(AtomicBool::new(false));
        let (seen, ran) = (Arc::clone(&visiting), Arc::clone(&during));
        let called = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&called);
        pool.register_pressure_callback(Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            ran.fetch_or(seen.load(Ordering::SeqCst), Ordering::SeqCst);
        }));
        let mut blocks = Vec::new();
        registry.for_each_idle(Duration::ZERO, |_| {
            visiting.store(true, Ordering::SeqCst);
            while let Ok(block) = pool.allocate(1 << 19, 64, &Device::Cpu) {
                blocks.push(block);
            }
            visiting.store(false, Ordering::SeqCst);
            ControlFlow::Continue(())
        });
        assert!(blocks.len() > 5 && !during.load(Ordering::SeqCst));
        assert!(called.load(Ordering::SeqCst) > 0, "they run afterwards");
        drop((handle, blocks));
    }

    #[test]
    fn each_tensor_is_visited_once_across_batches() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let make = || TensorHandle::new(BitNetTensor::zeros(&[1], &pool).unwrap(), &registry);
        let mut handles: Vec<_> = (0..3 * BATCH + 1).map(|_| make()).collect();
        let mut seen = 0;
        registry.for_each_idle(Duration::ZERO, |_| {
            seen += 1;
            handles.push(make());
            ControlFlow::Continue(())
        });
        assert_eq!(seen, 3 * BATCH + 1);
        let mut seen = 0;
        let count = |_: &mut IdleTensor<'_>| {
            seen += 1;
            ControlFlow::Continue(())
        };
        assert!(!registry.inner.for_each_idle_while(Duration::ZERO, &times(2), count));
        assert_eq!(seen, 2 * BATCH);
    }
}
