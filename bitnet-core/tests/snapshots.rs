//! Snapshots of tensors round-trip through another process, and damaged ones are refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::mapped::MapMode;
use bitnet_core::memory::tensor::{
    BitNetDType, BitNetTensor, TensorHandle, TensorMetadata, TensorRegistry,
};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, Purpose, snapshot};
use proptest::prelude::*;

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/snapshot/version1.snapshot")
}

fn read(bytes: &[u8]) -> bitnet_core::Result<Vec<snapshot::Restored>> {
    snapshot::read(bytes, bytes.len() as u64, &pool())
}

/// (name, type, purpose, shape, bytes), as `scripts/golden/snapshot.py` has them.
type Expected = (&'static str, BitNetDType, Purpose, Vec<usize>, Vec<u8>);

fn expected() -> Vec<Expected> {
    use BitNetDType::{BF16, BitNet158, F16, F32, I1, I2, I4, I8};
    let floats = [0.5f32, -1.25, 3.0e38, -0.0, 1.0e-45, 7.0];
    let halves = [0x3c00u16, 0xc100, 0x7bff].map(u16::to_ne_bytes).concat();
    vec![
        ("weights/f32", F32, Purpose::Weights, vec![2, 3], floats.map(f32::to_ne_bytes).concat()),
        ("half", F16, Purpose::Activations, vec![3], halves),
        (
            "brain",
            BF16,
            Purpose::Gradients,
            vec![2, 1],
            [0x3fc0u16, 0xc000].map(u16::to_ne_bytes).concat(),
        ),
        ("bytes", I8, Purpose::Data, vec![4], vec![128, 255, 0, 127]),
        ("nibbles", I4, Purpose::KvCache, vec![3], vec![0x2f, 0x08]),
        ("two bits", I2, Purpose::OptimizerState, vec![5], vec![0b0100_1110, 0b11]),
        ("signs", I1, Purpose::General, vec![9], vec![0b1010_0101, 1]),
        ("trits: −1, 0, 1", BitNet158, Purpose::Weights, vec![6], vec![102, 2]),
        ("one number", F32, Purpose::General, vec![], 42f32.to_ne_bytes().to_vec()),
        ("", F32, Purpose::General, vec![0, 7], vec![]),
    ]
}

fn written(tensors: &[Expected]) -> Vec<u8> {
    let pool = pool();
    let mut writer = snapshot::Writer::new(Vec::new()).unwrap();
    for (name, dtype, purpose, shape, bytes) in tensors {
        let metadata = TensorMetadata::new(shape.clone(), *dtype, Device::Cpu);
        let mut tensor = BitNetTensor::new(metadata, &pool.for_purpose(*purpose)).unwrap();
        tensor.bytes_mut().unwrap().copy_from_slice(bytes);
        writer.add(name, &tensor).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn the_golden_file_round_trips_to_the_byte() {
    let bytes = std::fs::read(golden()).unwrap();
    let found = read(&bytes).unwrap();
    assert_eq!(found.len(), expected().len());
    for (found, (name, dtype, purpose, shape, bytes)) in found.iter().zip(expected()) {
        assert_eq!(found.name, name);
        let tensor = &found.tensor;
        assert_eq!(
            (tensor.dtype(), tensor.purpose(), tensor.shape()),
            (dtype, purpose, &shape[..])
        );
        assert_eq!(tensor.bytes().unwrap(), bytes, "{name}");
        assert_eq!(found.offset % snapshot::ALIGNMENT, 0);
    }
    assert_eq!(written(&expected()), bytes);
}

#[test]
fn tensors_of_a_snapshot_can_be_mapped_in_place() {
    let bytes = std::fs::read(golden()).unwrap();
    let place = read(&bytes).unwrap()[0].offset;
    let metadata = TensorMetadata::new(vec![2, 3], BitNetDType::F32, Device::Cpu);
    let mapped = BitNetTensor::map_file(&golden(), place, metadata, MapMode::CopyOnWrite).unwrap();
    if cfg!(target_endian = "little") {
        assert_eq!(mapped.f32().unwrap()[..3], [0.5, -1.25, 3.0e38]);
    }
}

#[test]
fn truncations_and_bit_flips_are_refused() {
    let mut whole = std::fs::read(golden()).unwrap();
    for len in 0..whole.len() {
        let refused = read(&whole[..len]);
        assert!(matches!(refused, Err(Error::BadSnapshot { .. })), "{len} bytes: {refused:?}");
    }
    for bit in 0..8 * whole.len() {
        whole[bit / 8] ^= 1 << (bit % 8);
        let refused = read(&whole);
        assert!(matches!(refused, Err(Error::BadSnapshot { .. })), "bit {bit}: {refused:?}");
        whole[bit / 8] ^= 1 << (bit % 8);
    }
    read(&whole).unwrap();
    // Bytes after it are not read.
    let mut stream = [whole.clone(), vec![7; 3]].concat();
    let mut rest = &stream[..];
    snapshot::read(&mut rest, u64::MAX, &pool()).unwrap();
    assert_eq!(rest, [7; 3]);
    stream.clear();
    assert!(read(&stream).is_err());
}

/// The golden file with bytes of its first tensor's record replaced from `at` on.
fn resealed(at: usize, with: &[u8]) -> Vec<u8> {
    reseal(std::fs::read(golden()).unwrap(), 16, at, with).0
}

/// Replaces bytes of the tensor's record that begins at `start`, from its byte `at` on, and updates its checksum. Also
/// returns the offset of the data.
fn reseal(mut bytes: Vec<u8>, start: usize, at: usize, with: &[u8]) -> (Vec<u8>, usize) {
    let dims = 8 * usize::from(bytes[start + 3]);
    let name = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap()) as usize;
    let end = (start + 16 + dims + name + 4).next_multiple_of(64) - 4;
    bytes[start + at..start + at + with.len()].copy_from_slice(with);
    let sum = crc32fast::hash(&bytes[start..end]).to_le_bytes();
    bytes[end..end + 4].copy_from_slice(&sum);
    (bytes, end + 4)
}

#[test]
fn duplicate_names_are_refused() {
    let one = |name| (name, BitNetDType::I8, Purpose::General, vec![3], vec![1, 2, 3]);
    let bytes = written(&[one("a"), one("b")]);
    let (bytes, data) = reseal(bytes, 16, 0, &[]);
    let (bytes, _) = reseal(bytes, data + 3 + 4, 24, b"b");
    assert_eq!(read(&bytes).unwrap().len(), 2, "nothing was changed so far");
    let (bytes, _) = reseal(bytes, data + 3 + 4, 24, b"a");
    let refused = read(&bytes);
    assert!(
        matches!(&refused, Err(Error::BadSnapshot { problem, .. }) if problem.contains("twice"))
    );
}

#[test]
fn false_lengths_allocate_nothing() {
    let same = 24u64.to_le_bytes();
    read(&resealed(8, &same)).unwrap();
    let unbounded = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
    let refused = |bytes: &[u8]| {
        let found = snapshot::read(bytes, bytes.len() as u64, &unbounded);
        assert!(matches!(found, Err(Error::BadSnapshot { .. })), "{found:?}");
        let most = unbounded.get_metrics().peak_allocated;
        assert!(most <= bytes.len() as u64, "{most} bytes were allocated");
    };
    for length in [0, 23, 28, 1 << 20, 1 << 40, 1 << 63, u64::MAX - 63, u64::MAX] {
        refused(&resealed(8, &length.to_le_bytes()));
        // With a shape that agrees: [length / 4, 1].
        let shape =
            [(length / 4 * 4).to_le_bytes(), (length / 4).to_le_bytes(), 1u64.to_le_bytes()];
        refused(&resealed(8, &shape.concat()));
    }
    for extents in [[u64::MAX, 2], [1 << 32, 1 << 32], [u64::MAX, u64::MAX], [0, 6]] {
        refused(&resealed(16, &extents.map(u64::to_le_bytes).concat()));
    }
    for (at, with) in [
        (0, vec![2]),
        (1, vec![0]),
        (1, vec![9]),
        (2, vec![7]),
        (3, vec![33]),
        (3, vec![255]),
        (4, u32::MAX.to_le_bytes().to_vec()),
        (4, 65_537u32.to_le_bytes().to_vec()),
        (32, vec![0xff]),
        (43, vec![1]),
    ] {
        refused(&resealed(at, &with));
    }
}

#[test]
fn unsupported_tensors_are_not_written() {
    let pool = pool();
    let tensor = BitNetTensor::zeros(&[2, 3], &pool).unwrap();
    let mut writer = snapshot::Writer::new(Vec::new()).unwrap();
    writer.add("a", &tensor).unwrap();
    assert!(matches!(writer.add("a", &tensor), Err(Error::BadArgument { what: "name", .. })));
    let long = "n".repeat(65_537);
    assert!(matches!(writer.add(&long, &tensor), Err(Error::BadArgument { what: "name", .. })));
    let strided = tensor.transpose(0, 1).unwrap();
    assert!(matches!(writer.add("b", &strided), Err(Error::NotContiguous { .. })));
    let deep = BitNetTensor::zeros(&[1; 33], &pool).unwrap();
    assert!(matches!(writer.add("c", &deep), Err(Error::BadArgument { what: "shape", .. })));
}

#[test]
fn a_registry_is_written_and_restored() {
    let first = pool();
    let registry = TensorRegistry::new(&first);
    let weights = first.for_purpose(Purpose::Weights);
    let make = |name: &str, value: f32| {
        let tensor = BitNetTensor::from_f32(&[1000], &[value; 1000], &weights).unwrap();
        TensorHandle::named(name, tensor, &registry)
    };
    let handles = [make("one", 1.0), make("two", 2.0)];
    let nameless = TensorHandle::new(BitNetTensor::zeros(&[5], &first).unwrap(), &registry);
    registry.compress_idle(Duration::ZERO).unwrap();
    assert!(handles[0].is_compressed());
    let mut bytes = Vec::new();
    assert_eq!(snapshot::write(&mut bytes, &registry).unwrap(), 2);
    drop((handles, nameless));

    let second = pool();
    let registry = TensorRegistry::new(&second);
    let handles = snapshot::restore(&bytes[..], bytes.len() as u64, &second, &registry).unwrap();
    assert_eq!((handles[0].name(), handles[1].name()), (Some("one"), Some("two")));
    assert_eq!(handles[1].read().unwrap().f32().unwrap(), [2.0; 1000]);
    assert_eq!(second.allocated_by_purpose()[Purpose::Weights.index()], 8000);
    // A snapshot without its end restores nothing.
    let cut = snapshot::restore(&bytes[..bytes.len() - 1], u64::MAX, &second, &registry);
    assert!(cut.is_err());
    assert_eq!((registry.len(), second.get_metrics().total_allocated), (2, 8000));
}

/// Returns the name of a test function as the test harness spells it.
fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").unwrap().1
}

#[test]
fn another_process_restores_the_same_bytes() {
    const CHILD: &str = "BITNET_CORE_SNAPSHOT_CHILD";
    if let Some(path) = std::env::var_os(CHILD) {
        let bytes = std::fs::read(path).unwrap();
        for one in read(&bytes).unwrap() {
            println!("restored {} {:x?}", one.name, one.tensor.bytes().unwrap());
        }
        return;
    }
    let values: Vec<f32> =
        (0..40_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
    let pool = pool();
    let tensor = BitNetTensor::from_f32(&[200, 200], &values, &pool).unwrap();
    let mut writer = snapshot::Writer::new(Vec::new()).unwrap();
    writer.add("numbers", &tensor).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test_name(another_process_restores_the_same_bytes), "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = format!("restored numbers {:x?}", tensor.bytes().unwrap());
    assert!(text.contains(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tensors_round_trip(
        lens in prop::collection::vec((0usize..200, 0usize..8), 0..6),
        seed in any::<u8>(),
    ) {
        let all: Vec<BitNetDType> = expected().iter().map(|one| one.1).take(8).collect();
        let pool = pool();
        let mut writer = snapshot::Writer::new(Vec::new()).unwrap();
        let mut tensors = Vec::new();
        for (at, &(len, dtype)) in lens.iter().enumerate() {
            let metadata = TensorMetadata::new(vec![len], all[dtype], Device::Cpu);
            let mut tensor = BitNetTensor::new(metadata, &pool).unwrap();
            for (i, byte) in tensor.bytes_mut().unwrap().iter_mut().enumerate() {
                *byte = seed.wrapping_mul(31).wrapping_add((i * (at + 1)) as u8);
            }
            writer.add(&format!("t{at}"), &tensor).unwrap();
            tensors.push(tensor);
        }
        let bytes = writer.finish().unwrap();
        let found = read(&bytes).unwrap();
        prop_assert_eq!(found.len(), tensors.len());
        for (found, tensor) in found.iter().zip(&tensors) {
            prop_assert_eq!(found.tensor.metadata(), tensor.metadata());
            prop_assert_eq!(found.tensor.bytes().unwrap(), tensor.bytes().unwrap());
        }
    }

    #[test]
    fn any_other_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        let headed = [&std::fs::read(golden()).unwrap()[..16], &bytes].concat();
        prop_assert!(read(&headed).is_err());
    }
}

#[test]
fn refused_snapshots_leave_no_memory() {
    let pool = HybridMemoryPool::new().unwrap();
    let deep = BitNetTensor::zeros(&[1; 33], &pool).unwrap();
    let fine = BitNetTensor::from_f32(&[1], &[4.0], &pool).unwrap();
    let mut bytes = Vec::new();
    let mut writer = snapshot::Writer::new(&mut bytes).unwrap();
    assert!(matches!(writer.add("x", &deep), Err(Error::BadArgument { .. })));
    assert!(matches!(writer.add(&"n".repeat(65537), &fine), Err(Error::BadArgument { .. })));
    writer.add("x", &fine).unwrap();
    assert!(matches!(writer.add("x", &fine), Err(Error::BadArgument { .. })));
    writer.finish().unwrap();
    let restored = snapshot::read(&bytes[..], bytes.len() as u64, &pool).unwrap();
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0].tensor.f32().unwrap(), [4.0]);
}
