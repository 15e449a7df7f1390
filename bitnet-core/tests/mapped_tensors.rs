//! Tensors over parts of files: read-only and copy-on-write, and files that are cut short under them.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::mapped::{FileMap, MapMode};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule, TensorMetadata};
use bitnet_core::tensor::{self, Reduction};

/// Numbers in a file; large enough that every system's pages fit in often.
const NUMBERS: usize = 1 << 18;

fn file_of_numbers(folder: &Path) -> PathBuf {
    let path = folder.join("numbers");
    let bytes: Vec<u8> = (0..NUMBERS).flat_map(|i| (i as f32 + 1.0).to_le_bytes()).collect();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn f32s(len: usize) -> TensorMetadata {
    TensorMetadata::new(vec![len], BitNetDType::F32, Device::Cpu)
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_part_of_a_file_is_a_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let mut tensor = BitNetTensor::map_file(&path, 40, f32s(3), MapMode::ReadOnly).unwrap();
    assert_eq!(tensor.f32().unwrap(), [11.0, 12.0, 13.0]);
    assert!(matches!(tensor.f32_mut(), Err(Error::NotWritable { .. })));
    tensor.check().unwrap();
    let odd = BitNetTensor::map_file(&path, 41, f32s(3), MapMode::ReadOnly).unwrap();
    assert!(matches!(odd.f32(), Err(Error::BadStorage { .. })), "not aligned to its type");
    assert_eq!(odd.bytes().unwrap().len(), 12);
    let map = FileMap::open(&path, .., MapMode::ReadOnly).unwrap();
    assert_eq!((map.range(), map.bytes().len()), (0..4 * NUMBERS as u64, 4 * NUMBERS));
    map.release(5..4 * NUMBERS - 3);
    assert_eq!(map.bytes()[4..8], 2f32.to_le_bytes(), "released pages come back");
    let part = FileMap::open(&path, 100..300_000, MapMode::ReadOnly).unwrap();
    part.release(0..usize::MAX);
    part.release(usize::MAX - 1..usize::MAX);
    assert_eq!(part.bytes(), &map.bytes()[100..300_000]);
}

#[test]
fn writes_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let open = || BitNetTensor::map_file(&path, 0, f32s(NUMBERS), MapMode::CopyOnWrite).unwrap();
    let (mut one, other) = (open(), open());
    one.f32_mut().unwrap()[NUMBERS / 2] = -1.0;
    assert_eq!(one.f32().unwrap()[NUMBERS / 2 - 1..][..3], [131072.0, -1.0, 131074.0]);
    assert_eq!(other.f32().unwrap()[NUMBERS / 2], 131073.0);
    let view = one.narrow(0, 0..2).unwrap();
    assert!(matches!(one.f32_mut(), Err(Error::NotWritable { .. })), "a view is alive");
    assert_eq!(view.f32().unwrap(), [1.0, 2.0]);
    one.check().unwrap();
    let pool = HybridMemoryPool::new().unwrap();
    let copy = view.to_contiguous(&pool).unwrap();
    drop((one, view, other));
    assert_eq!(copy.f32().unwrap(), [1.0, 2.0]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[2 * NUMBERS..][..4], 131073f32.to_le_bytes(), "the file is as it was");
}

#[test]
fn absent_ranges_and_irregular_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let len = 4 * NUMBERS as u64;
    let open = |range| FileMap::open(&path, range, MapMode::ReadOnly);
    for range in [0..len + 1, len + 1..len + 1, len..len - 1, len..u64::MAX, u64::MAX..u64::MAX] {
        assert!(matches!(open(range.clone()), Err(Error::NotInFile { .. })), "{range:?}");
    }
    for mode in [MapMode::ReadOnly, MapMode::CopyOnWrite] {
        let empty = FileMap::open(&path, len.., mode).unwrap();
        assert_eq!(empty.bytes(), []);
        empty.check().unwrap();
    }
    let far = BitNetTensor::map_file(&path, u64::MAX, f32s(1), MapMode::ReadOnly);
    assert!(matches!(far, Err(Error::SizeOverflow { .. })));
    let huge = BitNetTensor::map_file(&path, 0, f32s(usize::MAX), MapMode::ReadOnly);
    assert!(matches!(huge, Err(Error::SizeOverflow { .. })));
    let folder_itself = FileMap::open(folder.path(), .., MapMode::ReadOnly);
    assert!(matches!(folder_itself, Err(Error::NotRegularFile { kind: "a directory", .. })));
    let absent = FileMap::open(&folder.path().join("absent"), .., MapMode::ReadOnly);
    let kind = std::io::ErrorKind::NotFound;
    assert!(matches!(absent, Err(Error::File { kind: found, .. }) if found == kind));
}

#[test]
fn changed_files_are_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let tensor = BitNetTensor::map_file(&path, 0, f32s(4), MapMode::CopyOnWrite).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert!(matches!(tensor.check(), Err(Error::FileChanged { .. })));
}

#[cfg(unix)]
#[test]
fn every_read_of_a_truncated_tensor_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let pool = HybridMemoryPool::new().unwrap();
    for mode in [MapMode::ReadOnly, MapMode::CopyOnWrite] {
        std::fs::remove_file(&path).unwrap();
        file_of_numbers(folder.path());
        let side = 1 << 9;
        let metadata = TensorMetadata::new(vec![side, side], BitNetDType::F32, Device::Cpu);
        let mut tensor = BitNetTensor::map_file(&path, 0, metadata, mode).unwrap();
        let turned = tensor.transpose(0, 1).unwrap();
        let first = tensor.narrow(0, 0..1).unwrap();
        assert_eq!(first.f32().unwrap()[1], 2.0);
        cut(&path, NUMBERS as u64);
        let refused = |what: &str, found: Result<(), Error>| {
            let now = NUMBERS as u64;
            let expected = matches!(found, Err(Error::FileTruncated { now: is, .. }) if is == now);
            assert!(expected, "{what}, {mode:?}: {found:?}");
        };
        let sum = |x| tensor::reduce(Reduction::Sum, x, None, false, &pool).map(drop);
        let mut out = vec![0.0; side * side];
        refused("bytes", tensor.bytes().map(drop));
        refused("f32", tensor.f32().map(drop));
        refused("a part that is still there", first.f32().map(drop));
        refused("read", tensor.read(&mut out));
        refused("read of a strided view", turned.read(&mut out));
        refused("to_contiguous", turned.to_contiguous(&pool).map(drop));
        refused("sum", sum(&tensor));
        refused("sum of a strided view", sum(&turned));
        let half = tensor.cast(BitNetDType::F16, CastRule::Saturating, &pool);
        refused("cast", half.map(drop));
        drop((turned, first));
        if mode == MapMode::CopyOnWrite {
            refused("f32_mut", tensor.f32_mut().map(drop));
        }
    }
}

/// Returns the name of a test function as the test harness spells it.
#[cfg(unix)]
fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").unwrap().1
}

/// In a separate process, which an unhandled signal would end.
#[cfg(unix)]
#[test]
fn truncation_under_a_tensor_is_an_error_not_a_crash() {
    const CHILD: &str = "BITNET_CORE_CUT_FILE_CHILD";
    if let Some(mode) = std::env::var_os(CHILD) {
        let mode = if mode == "write" { MapMode::CopyOnWrite } else { MapMode::ReadOnly };
        use_a_file_that_is_cut(mode);
        println!("survived");
        return;
    }
    for mode in ["read", "write"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                test_name(truncation_under_a_tensor_is_an_error_not_a_crash),
                "--nocapture",
            ])
            .env(CHILD, mode)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("survived"), "{mode}: {output:?}");
    }
}

#[cfg(unix)]
fn use_a_file_that_is_cut(mode: MapMode) {
    let folder = tempfile::tempdir().unwrap();
    let path = file_of_numbers(folder.path());
    let open = || BitNetTensor::map_file(&path, 0, f32s(NUMBERS), mode).unwrap();
    let (mut tensor, spare) = (open(), open());
    if mode == MapMode::CopyOnWrite {
        let numbers = tensor.f32_mut().unwrap();
        (numbers[0], numbers[NUMBERS - 1]) = (-1.0, -2.0);
    }
    // A read during the truncation.
    if mode == MapMode::CopyOnWrite {
        let numbers = tensor.f32_mut().unwrap();
        cut(&path, NUMBERS as u64);
        assert_eq!((numbers[0], numbers[1]), (-1.0, 2.0));
        numbers[NUMBERS / 2..].fill(3.0);
        assert!(numbers[NUMBERS / 2..].iter().all(|&number| number == 3.0));
    } else {
        let numbers = tensor.f32().unwrap();
        cut(&path, NUMBERS as u64);
        assert_eq!((numbers[0], numbers[1]), (1.0, 2.0));
        assert_eq!(numbers[NUMBERS / 2..].iter().sum::<f32>(), 0.0, "a signal that is answered");
    }
    // Also detected before the lost pages are touched.
    assert!(matches!(spare.check(), Err(Error::FileTruncated { .. })));
    let now = NUMBERS as u64;
    let found = tensor.check();
    assert!(matches!(found, Err(Error::FileTruncated { now: found, .. }) if found == now));
    // Growing the file does not restore the lost pages.
    cut(&path, 4 * NUMBERS as u64);
    assert!(matches!(tensor.check(), Err(Error::FileTruncated { .. })));
    drop((tensor, spare));
    open().check().unwrap();
}
