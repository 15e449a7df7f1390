//! The reference back end passes its own suite, on the host and with memory of a device.

use bitnet_core::Error;
use bitnet_core::backend::{Operations, Tensors};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_testing::DeviceBackend;

#[test]
fn reference_conforms() {
    bitnet_testing::conformance(&ReferenceBackend, &[]);
}

#[test]
fn a_back_end_with_memory_of_its_own_conforms() {
    bitnet_testing::conformance(&DeviceBackend::default(), &[]);
}

#[test]
fn the_host_reads_device_memory_through_the_back_end_alone() {
    let (backend, pool) = (DeviceBackend::default(), HybridMemoryPool::new().unwrap());
    let host = BitNetTensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0], &pool).unwrap();
    let mut x = backend.to_device(host).unwrap();
    assert!(matches!(x.f32(), Err(Error::NotOnHost { .. })));
    assert!(matches!(x.f32_mut(), Err(Error::NotOnHost { .. })));
    let row = x.narrow(0, 1..2).unwrap();
    assert_eq!(backend.to_host(row.clone(), &pool).unwrap().f32().unwrap(), [3.0, 4.0]);
    let twice = backend.rows(&[(&x, 1), (&x, 1)], &pool).unwrap();
    assert!(
        matches!(backend.add(&mut x, &twice), Err(Error::NotWritable { .. })),
        "a view is alive"
    );
    drop(row);
    backend.add(&mut x, &twice).unwrap();
    assert_eq!(backend.to_host(x, &pool).unwrap().f32().unwrap(), [4.0, 6.0, 6.0, 8.0]);
    assert_eq!(backend.take_copied(), 6);
}

#[test]
#[should_panic(expected = "is not the name of a case")]
fn unknown_skip_is_refused() {
    bitnet_testing::conformance(&ReferenceBackend, &["no such case"]);
}
