//! Cleaning the memory of every device that has a pool.

use super::{CleanupReport, Strategy};
use crate::device::Device;
use crate::memory::DeviceSpecificPools;

impl DeviceSpecificPools {
    /// Cleans the pool of each device as [`crate::memory::HybridMemoryPool::cleanup`] does, each within the
    /// `max_cleanup_time` of its own configuration; returns the reports in the order in which the pools were made.
    pub fn cleanup(&self, strategy: Strategy) -> Vec<(Device, CleanupReport)> {
        let reports = self.devices().into_iter().filter_map(|device| {
            // The pool exists, so this can't fail.
            let report = self.pool(&device).ok()?.cleanup(strategy);
            Some((device, report))
        });
        reports.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::LimitedCpu;

    #[test]
    fn each_device_is_cleaned_by_its_own_pool() {
        let pools = DeviceSpecificPools::new();
        assert!(pools.cleanup(Strategy::OnDemand).is_empty(), "no pool is made for it");
        let small = Device::from(LimitedCpu::new(64 << 20, 1));
        for (device, bytes) in [(&Device::Cpu, 24 << 20), (&small, 8 << 20)] {
            let mut block = pools.allocate(bytes, 64, device).unwrap();
            block.bytes_mut().fill(1);
        }
        let reports = pools.cleanup(Strategy::OnDemand);
        assert_eq!(
            reports.iter().map(|(device, _)| device).collect::<Vec<_>>(),
            [&Device::Cpu, &small]
        );
        for ((_, report), bytes) in reports.iter().zip([24 << 20, 8 << 20]) {
            if report.resident_before.is_some() {
                assert!(report.was_cut || report.returned() >= bytes, "{report}");
            }
        }
        assert_eq!(pools.pool(&small).unwrap().cleanup_metrics().runs(Strategy::OnDemand), 1);
    }
}
