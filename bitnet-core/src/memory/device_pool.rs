//! One pool for each device, made when it is first needed, with that device's limit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::tensor::{BitNetTensor, TensorMetadata};
use super::{HybridMemoryPool, MemoryHandle, MemoryMetrics, MemoryPoolConfig};
use crate::device::{Device, Operation, Requirements, candidates, with_fallback};
use crate::sync::lock;
use crate::{Error, MemoryLimit, Result};

/// Copies from one device to another, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfers {
    /// Where the tensors were.
    pub from: Device,
    /// Where the copies are.
    pub to: Device,
    /// Copies made.
    pub count: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Time that the copies took, without allocation.
    pub time: Duration,
}

/// The memory of several devices: one pool for each, made when it is first needed. Clones are the same pools.
///
/// ```
/// use bitnet_core::device::{Device, LimitedCpu, copy_tensor};
/// use bitnet_core::memory::DeviceSpecificPools;
/// use bitnet_core::memory::tensor::{BitNetDType, TensorMetadata};
///
/// let pools = DeviceSpecificPools::new();
/// let small = Device::from(LimitedCpu::new(1 << 20, 1));
/// let x = pools.tensor(TensorMetadata::new(vec![4, 256], BitNetDType::F32, Device::Cpu))?;
/// let y = copy_tensor(&x, &small, &pools)?;
/// assert_eq!((y.device(), y.bytes()?), (&small, x.bytes()?));
/// assert_eq!(pools.transfers()[0].bytes, 4 * 256 * 4);
/// assert!(pools.allocate(2 << 20, 64, &small).is_err(), "the device has one MiB");
/// # Ok::<(), bitnet_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeviceSpecificPools {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    cpu: MemoryPoolConfig,
    entries: Mutex<Vec<Entry>>,
    transfers: Mutex<Vec<Transfers>>,
}

#[derive(Debug, Clone)]
struct Entry {
    device: Device,
    pool: HybridMemoryPool,
    /// Held while a limited device's memory is compared with its limit and allocated.
    gate: Arc<Mutex<()>>,
}

impl Default for DeviceSpecificPools {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceSpecificPools {
    /// Pools of which the processor's is bounded only by the system.
    pub fn new() -> Self {
        Self::with_cpu_config(MemoryPoolConfig::unbounded())
    }

    /// Pools of which the processor's has this configuration.
    pub fn with_cpu_config(cpu: MemoryPoolConfig) -> Self {
        let state = State { cpu, entries: Mutex::default(), transfers: Mutex::default() };
        Self { state: Arc::new(state) }
    }

    /// The pool of a device. Direct allocations from it count against the device's limit, but only
    /// [`DeviceSpecificPools::allocate`] and [`DeviceSpecificPools::tensor`] enforce it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system refuses the pool's first memory.
    pub fn pool(&self, device: &Device) -> Result<HybridMemoryPool> {
        self.entry(device).map(|entry| entry.pool)
    }

    /// `size` bytes of a device's memory, aligned to `align`; see [`HybridMemoryPool::allocate`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device's limit is reached, [`Error::DeviceLost`] or [`Error::DeviceFault`]; as
    /// [`HybridMemoryPool::allocate`].
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        self.within_limit(device, size, |pool| pool.allocate(size, align, device))
    }

    /// A zeroed tensor on the device that its metadata names.
    ///
    /// # Errors
    /// As [`DeviceSpecificPools::allocate`] and [`BitNetTensor::new`].
    pub fn tensor(&self, metadata: TensorMetadata) -> Result<BitNetTensor> {
        let bytes = metadata.dtype().bytes_for(metadata.elements()?)?;
        let device = metadata.device().clone();
        self.within_limit(&device, bytes, |pool| BitNetTensor::new(metadata, pool))
    }

    /// A zeroed tensor of this shape and type on the best of `devices` that has memory for it: see [`candidates`].
    /// Among devices of one kind that is the one of which the smallest part is in use, so that they fill evenly. If
    /// that device fails, the tensor is placed on the next one. The device of `metadata` is ignored.
    ///
    /// ```
    /// use bitnet_core::device::{Device, LimitedCpu};
    /// use bitnet_core::memory::DeviceSpecificPools;
    /// use bitnet_core::memory::tensor::{BitNetDType, TensorMetadata};
    ///
    /// // Two devices, emulated by the processor.
    /// let devices = [1 << 20, 3 << 20].map(|bytes| Device::from(LimitedCpu::new(bytes, 1)));
    /// let pools = DeviceSpecificPools::new();
    /// let layer = TensorMetadata::new(vec![64, 256], BitNetDType::F32, Device::Cpu);
    /// let layers = (0..32).map(|_| pools.place(&layer, &devices));
    /// let layers = layers.collect::<bitnet_core::Result<Vec<_>>>()?;
    /// assert_eq!(pools.metrics(&devices[0]).total_allocated, 8 * 64 * 256 * 4);
    /// assert_eq!(pools.balance(&devices), Some(1.0));
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoDevice`] or [`Error::AllDevicesFailed`].
    pub fn place(&self, metadata: &TensorMetadata, devices: &[Device]) -> Result<BitNetTensor> {
        let needs = Requirements::for_tensor(metadata)?;
        let with_load = |device: Device| (self.load(&device).unwrap_or(0.0), device);
        let mut ready: Vec<_> = candidates(devices, &needs)?.into_iter().map(with_load).collect();
        ready.sort_by(|(a, x), (b, y)| x.kind().cmp(&y.kind()).then(a.total_cmp(b)));
        let ready: Vec<_> = ready.into_iter().map(|(_, device)| device).collect();
        let placed = with_fallback(&ready, |device| {
            let (shape, dtype) = (metadata.shape().to_vec(), metadata.dtype());
            self.tensor(TensorMetadata::new(shape, dtype, device.clone()))
        });
        placed.map(|placed| placed.value)
    }

    /// The devices that have a pool.
    pub fn devices(&self) -> Vec<Device> {
        lock(&self.state.entries).iter().map(|entry| entry.device.clone()).collect()
    }

    /// The metrics of a device's pool; zeros if it has none yet.
    pub fn metrics(&self, device: &Device) -> MemoryMetrics {
        self.existing(device).map(|entry| entry.pool.get_metrics()).unwrap_or_default()
    }

    /// Bytes that are left of a device's limit; `None` for a device that has none.
    pub fn available(&self, device: &Device) -> Option<u64> {
        let limit = limit_of(device)? as u64;
        Some(limit.saturating_sub(self.metrics(device).total_allocated))
    }

    /// The part of a device's limit that is in use; `None` for a device that has no limit.
    pub fn load(&self, device: &Device) -> Option<f64> {
        let limit = limit_of(device)?.max(1);
        Some(self.metrics(device).total_allocated as f64 / limit as f64)
    }

    /// How evenly those of `devices` that have a limit are used: the mean of their [loads](DeviceSpecificPools::load)
    /// as a part of the highest. 1 is even, 1/n is all on one of n; `None` if nothing is in use.
    pub fn balance(&self, devices: &[Device]) -> Option<f64> {
        let loads: Vec<f64> = devices.iter().filter_map(|device| self.load(device)).collect();
        let highest = loads.iter().copied().fold(0.0, f64::max);
        (highest > 0.0).then(|| loads.iter().sum::<f64>() / loads.len() as f64 / highest)
    }

    /// Removes a device's pool, as when the device is lost. Memory that is still in use remains valid, and returns to
    /// the system when it is dropped. Returns whether there was a pool.
    pub fn forget(&self, device: &Device) -> bool {
        let mut entries = lock(&self.state.entries);
        let at = entries.iter().position(|entry| entry.device == *device);
        let removed = at.map(|at| entries.remove(at));
        // Before the pool is dropped: that joins its cleanup thread, whose callbacks may lock the pools.
        drop(entries);
        removed.is_some()
    }

    /// Returns the free memory of the pools to the system. Returns the resident bytes released, as reported by the OS.
    pub fn trim(&self) -> usize {
        let pools: Vec<_> =
            lock(&self.state.entries).iter().map(|entry| entry.pool.clone()).collect();
        pools.iter().map(HybridMemoryPool::trim).sum()
    }

    /// Copies between devices so far, one entry for each pair and direction.
    pub fn transfers(&self) -> Vec<Transfers> {
        lock(&self.state.transfers).clone()
    }

    pub(crate) fn record_transfer(&self, from: &Device, to: &Device, bytes: u64, time: Duration) {
        let mut transfers = lock(&self.state.transfers);
        match transfers.iter_mut().find(|t| t.from == *from && t.to == *to) {
            Some(entry) => {
                entry.count += 1;
                entry.bytes += bytes;
                entry.time += time;
            }
            None => {
                let (from, to) = (from.clone(), to.clone());
                transfers.push(Transfers { from, to, count: 1, bytes, time });
            }
        }
    }

    fn within_limit<T>(
        &self,
        device: &Device,
        bytes: usize,
        take: impl FnOnce(&HybridMemoryPool) -> Result<T>,
    ) -> Result<T> {
        device.begin(Operation::Allocation)?;
        let entry = self.entry(device)?;
        let Some(limit) = limit_of(device) else { return take(&entry.pool) };
        let _gate = lock(&entry.gate);
        let live = entry.pool.get_metrics().total_allocated as usize;
        if bytes > limit.saturating_sub(live) {
            return Err(Error::OutOfMemory { bytes, live, limit, met: MemoryLimit::Device });
        }
        take(&entry.pool)
    }

    fn existing(&self, device: &Device) -> Option<Entry> {
        lock(&self.state.entries).iter().find(|entry| entry.device == *device).cloned()
    }

    fn entry(&self, device: &Device) -> Result<Entry> {
        let mut entries = lock(&self.state.entries);
        if let Some(entry) = entries.iter().find(|entry| entry.device == *device) {
            return Ok(entry.clone());
        }
        let config = match limit_of(device) {
            None => self.state.cpu.clone(),
            Some(limit) => limited_config(limit),
        };
        let pool = HybridMemoryPool::with_config(config)?;
        let entry = Entry { device: device.clone(), pool, gate: Arc::default() };
        entries.push(entry.clone());
        Ok(entry)
    }
}

fn limit_of(device: &Device) -> Option<usize> {
    match device {
        Device::LimitedCpu(limited) => Some(limited.memory_limit()),
        Device::Cpu => None,
    }
}

/// Limits that allow the device's limit in either size of block, and rounding.
fn limited_config(limit: usize) -> MemoryPoolConfig {
    let most = limit.saturating_mul(2).max(4 << 20).min(isize::MAX as usize);
    MemoryPoolConfig {
        max_small_pool_size: most,
        max_large_pool_size: most,
        ..MemoryPoolConfig::unbounded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{FaultPlan, LimitedCpu, available_devices};
    use crate::memory::tensor::BitNetDType;

    fn bytes_tensor(bytes: usize, device: &Device) -> TensorMetadata {
        TensorMetadata::new(vec![bytes], BitNetDType::I8, device.clone())
    }

    #[test]
    fn each_device_has_its_own_pool_and_limit() {
        let pools = DeviceSpecificPools::new();
        let (a, b) = (LimitedCpu::new(1_000_000, 1), LimitedCpu::new(2_000_000, 1));
        let (a, b) = (Device::from(a), Device::from(b));
        assert!(pools.devices().is_empty(), "pools are made when they are needed");
        let mut all_of_a = pools.allocate(1_000_000, 64, &a).unwrap();
        all_of_a.bytes_mut().fill(1);
        let error = pools.allocate(1, 64, &a).unwrap_err();
        let met = MemoryLimit::Device;
        assert_eq!(error, Error::OutOfMemory { bytes: 1, live: 1_000_000, limit: 1_000_000, met });
        let of_b = pools.tensor(bytes_tensor(1_500_000, &b)).unwrap();
        assert_eq!((pools.available(&a), pools.available(&b)), (Some(0), Some(500_000)));
        assert_eq!(pools.available(&Device::Cpu), None);
        assert_eq!(pools.devices(), [a.clone(), b.clone()]);
        drop(all_of_a);
        assert!(pools.allocate(1_000_000, 64, &a).is_ok(), "freed memory can be allocated again");
        assert_eq!(pools.metrics(&b).total_allocated, 1_500_000);
        assert!(pools.forget(&b) && !pools.forget(&b));
        assert_eq!(of_b.bytes().unwrap().len(), 1_500_000, "memory in use outlives its pool");
        assert_eq!(pools.metrics(&b), MemoryMetrics::default());
        assert!(pools.trim() > 0, "written pages are resident until then");
    }

    #[test]
    fn limits_hold_under_concurrent_allocation() {
        let pools = DeviceSpecificPools::new();
        let device = Device::from(LimitedCpu::new(100 * 1000, 4));
        let live: Vec<_> = std::thread::scope(|scope| {
            let take = || {
                let blocks = (0..50).filter_map(|_| pools.allocate(1000, 64, &device).ok());
                blocks.collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(live.len(), 100);
        assert_eq!(pools.metrics(&device).total_allocated, 100 * 1000);
    }

    #[test]
    fn devices_of_one_kind_fill_evenly() {
        let pools = DeviceSpecificPools::new();
        let limits = [1 << 20, 1 << 20, 2 << 20, 4 << 20];
        let devices = limits.map(|limit| Device::from(LimitedCpu::new(limit, 1)));
        assert_eq!((pools.balance(&devices), pools.balance(&[Device::Cpu])), (None, None));
        let mut placed = Vec::new();
        for at in 0..250 {
            let size = 1000 + at * 7919 % 40_000;
            placed.push(pools.place(&bytes_tensor(size, &Device::Cpu), &devices).unwrap());
        }
        // The smallest devices differ from the others by at most one of the largest tensors, a 25th of their memory.
        assert!(pools.balance(&devices).unwrap() > 0.9, "{:?}", pools.balance(&devices));
        assert!(devices.iter().all(|device| (0.5..=1.0).contains(&pools.load(device).unwrap())));
        placed.retain(|tensor| tensor.device() == &devices[0]);
        assert_eq!(pools.balance(&devices), Some(0.25), "all on one of four");
        let next = pools.place(&bytes_tensor(10, &Device::Cpu), &devices).unwrap();
        assert_ne!(next.device(), &devices[0]);
    }

    #[test]
    fn tensors_are_placed_where_they_fit() {
        let pools = DeviceSpecificPools::new();
        let small = LimitedCpu::new(1000, 1);
        let devices = [Device::Cpu, Device::from(small.clone())];
        let metadata = bytes_tensor(600, &Device::Cpu);
        let first = pools.place(&metadata, &devices).unwrap();
        assert_eq!(first.device(), &devices[1], "the limited device comes first");
        let second = pools.place(&metadata, &devices).unwrap();
        assert_eq!(second.device(), &Device::Cpu, "what is in use counts");
        drop(first);
        small.inject(FaultPlan::none().fail(Operation::Allocation, 1));
        assert_eq!(pools.place(&metadata, &devices).unwrap().device(), &Device::Cpu, "it failed");
        assert_eq!(pools.place(&metadata, &devices).unwrap().device(), &devices[1]);
        assert_eq!(pools.place(&metadata, &available_devices()).unwrap().device(), &Device::Cpu);
        let huge = bytes_tensor(1 << 60, &Device::Cpu);
        assert!(matches!(pools.place(&huge, &devices), Err(Error::NoDevice { .. })));
    }
}
