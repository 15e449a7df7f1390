//! Tensors in safetensors files: writing, reading, mapping, and interoperability with the Python package
//! (`scripts/golden/tensor_files.py` generated its file and its readings).

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::{Path, PathBuf};

use bitnet_core::Error as MemoryError;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
use bitnet_formats::{Error, SafeTensors, safetensors};
use serde_json::Value as Json;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/safetensors").join(name)
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn numbers(tensor: &BitNetTensor) -> Vec<f32> {
    tensor.to_f32(&pool()).unwrap().f32().unwrap().to_vec()
}

/// A tensor of each type, with numbers that all types represent, and two unusual shapes.
fn tensors(pool: &HybridMemoryPool) -> Vec<(&'static str, BitNetTensor)> {
    let of = |shape: &[usize], numbers: &[f32], dtype| {
        BitNetTensor::from_f32_as(shape, numbers, dtype, CastRule::Checked, pool).unwrap()
    };
    let signs = [1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0];
    vec![
        ("layer.f32", of(&[2, 3], &[0.1, -1.5, 3.0e38, 0.0, 1.0e-40, 7.0], BitNetDType::F32)),
        ("layer.f16", of(&[3], &[1.0, -2.5, 65504.0], BitNetDType::F16)),
        ("layer.bf16", of(&[2, 1], &[1.5, -2.0], BitNetDType::BF16)),
        ("layer.i8", of(&[5], &[-128.0, -1.0, 0.0, 1.0, 127.0], BitNetDType::I8)),
        ("layer.i4", of(&[3], &[-8.0, 7.0, -1.0], BitNetDType::I4)),
        ("layer.i2", of(&[5, 1], &[-2.0, -1.0, 0.0, 1.0, -1.0], BitNetDType::I2)),
        ("layer.i1", of(&[11], &signs, BitNetDType::I1)),
        ("layer.trits", of(&[2, 3], &[-1.0, 0.0, 1.0, 1.0, 0.0, -1.0], BitNetDType::BitNet158)),
        ("one \"number\"", of(&[], &[42.0], BitNetDType::F32)),
        ("none", of(&[0, 7], &[], BitNetDType::BF16)),
    ]
}

fn write(path: &Path) {
    let pool = pool();
    let tensors = tensors(&pool);
    let named: Vec<(&str, &BitNetTensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
    let notes = [("origin".to_owned(), "a test".to_owned())];
    safetensors::write_tensors(path, &named, &notes).unwrap();
}

#[test]
fn what_is_written_is_read_and_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path);
    let file = SafeTensors::open(&path).unwrap();
    let pool = pool();
    for (name, tensor) in tensors(&pool) {
        let loaded = file.load(name, &pool).unwrap();
        assert_eq!(loaded.metadata(), tensor.metadata(), "{name}");
        assert_eq!(loaded.bytes().unwrap(), tensor.bytes().unwrap(), "{name}");
        let mapped = file.mapped(name).unwrap();
        assert_eq!(mapped.metadata(), tensor.metadata(), "{name}");
        assert_eq!(mapped.bytes().unwrap(), tensor.bytes().unwrap(), "{name}");
        mapped.check().unwrap();
    }
    let mapped = file.mapped("layer.f32").unwrap();
    drop(file);
    assert_eq!(mapped.f32().unwrap()[1], -1.5, "the tensor keeps the file mapped");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(9).unwrap();
    assert!(matches!(mapped.check(), Err(MemoryError::FileTruncated { .. })));
    assert!(matches!(mapped.bytes(), Err(MemoryError::FileTruncated { .. })), "not zeros");
    assert!(matches!(mapped.f32(), Err(MemoryError::FileTruncated { .. })), "not zeros");
}

#[test]
fn the_python_package_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.safetensors");
    write(&path);
    let bytes = std::fs::read(&path).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden("written.safetensors"), &bytes).unwrap();
    }
    assert!(bytes == std::fs::read(golden("written.safetensors")).unwrap());
    let read = json("written.json");
    assert_eq!(read["metadata"]["origin"], "a test");
    let pool = pool();
    let tensors = tensors(&pool);
    assert_eq!(read["tensors"].as_object().unwrap().len(), tensors.len());
    for (name, tensor) in tensors {
        let found = &read["tensors"][name];
        let whole = match tensor.dtype() {
            BitNetDType::F32 => "torch.float32",
            BitNetDType::F16 => "torch.float16",
            BitNetDType::BF16 => "torch.bfloat16",
            BitNetDType::I8 => "torch.int8",
            _ => "torch.uint8",
        };
        let bytes = tensor.bytes().unwrap();
        assert_eq!(found["dtype"], whole, "{name}");
        if whole == "torch.uint8" {
            assert_eq!(found["shape"], serde_json::json!([bytes.len()]), "{name}");
        } else {
            assert_eq!(found["shape"], serde_json::json!(tensor.shape()), "{name}");
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found["hex"], hex, "{name}");
    }
}

#[test]
fn what_the_python_package_wrote_is_read() {
    let file = SafeTensors::open(&golden("python.safetensors")).unwrap();
    let expected = json("python.json");
    let expected = expected.as_object().unwrap();
    assert_eq!(file.len(), expected.len());
    let pool = pool();
    for (name, expected) in expected {
        let loaded = file.load(name, &pool);
        if name == "inexact" {
            assert!(matches!(loaded, Err(Error::Tensor { .. })), "0.1 is no f32: {loaded:?}");
            continue;
        }
        let loaded = loaded.unwrap();
        if name == "trits" {
            assert_eq!((loaded.dtype(), loaded.shape()), (BitNetDType::BitNet158, &[7, 1][..]));
            assert_eq!(numbers(&loaded), [-1.0, 0.0, 1.0, 1.0, 0.0, -1.0, 1.0]);
            continue;
        }
        assert_eq!(serde_json::json!(loaded.shape()), expected["shape"], "{name}");
        let found: Vec<f64> = numbers(&loaded).into_iter().map(f64::from).collect();
        let numbers: Vec<f64> =
            expected["numbers"].as_array().unwrap().iter().map(number).collect();
        assert_eq!(found, numbers, "{name}");
    }
    for (name, dtype) in [
        ("f32", BitNetDType::F32),
        ("f16", BitNetDType::F16),
        ("bf16", BitNetDType::BF16),
        ("i8", BitNetDType::I8),
        ("i64", BitNetDType::F32),
        ("bool", BitNetDType::F32),
    ] {
        assert_eq!(file.load(name, &pool).unwrap().dtype(), dtype, "{name}");
    }
    assert!(matches!(file.mapped("i64"), Err(Error::UnsupportedType { .. })));
    assert_eq!(file.mapped("i8").unwrap().dtype(), BitNetDType::I8);
    assert!(matches!(file.load("absent", &pool), Err(Error::MissingTensor { .. })));
}

/// Returns a number of the JSON file; booleans count as 0 and 1.
fn number(value: &Json) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn descriptions_of_packed_elements_are_validated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let spec = safetensors::TensorSpec {
        name: "t".to_owned(),
        dtype: safetensors::Dtype::U8,
        shape: vec![2],
    };
    let load = |packed: &str| {
        let notes = [("bitnet.packed".to_owned(), packed.to_owned())];
        let data = |_: &_, sink: &mut dyn std::io::Write| sink.write_all(&[1, 2]);
        safetensors::write(&path, std::slice::from_ref(&spec), &notes, data).unwrap();
        SafeTensors::open(&path).unwrap().load("t", &pool())
    };
    let good = load(r#"{"t": {"dtype": "I2", "shape": [7]}}"#).unwrap();
    assert_eq!((good.dtype(), good.shape()), (BitNetDType::I2, &[7][..]));
    assert_eq!(
        load(r#"{"other": {"dtype": "I2", "shape": [7]}}"#).unwrap().dtype(),
        BitNetDType::F32
    );
    let deep = format!(r#"{{"t": {{"dtype": "I8", "shape": [{}]}}}}"#, "1,".repeat(40) + "2");
    for bad in [
        "",
        "[]",
        "{",
        r#"{"t": 1}"#,
        r#"{"t": {"dtype": "I2"}}"#,
        r#"{"t": {"dtype": "I3", "shape": [7]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [9]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [4]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [18446744073709551615, 2]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [18446744073709551616]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [-7]}}"#,
        r#"{"t": {"dtype": "I2", "shape": [7], "more": 0}}"#,
        &deep,
    ] {
        assert!(matches!(load(bad), Err(Error::Key { .. })), "{bad}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let pool = pool();
    let tensor = BitNetTensor::zeros(&[2, 3], &pool).unwrap();
    let strided = tensor.transpose(0, 1).unwrap();
    let refused = safetensors::write_tensors(&path, &[("t", &strided)], &[]);
    assert!(matches!(refused, Err(Error::Memory(MemoryError::NotContiguous { .. }))));
    let refused = safetensors::write_tensors(&path, &[("t", &tensor), ("t", &tensor)], &[]);
    assert!(matches!(refused, Err(Error::DuplicateTensor { .. })));
    let notes = [("bitnet.packed".to_owned(), "{}".to_owned())];
    let refused = safetensors::write_tensors(&path, &[("t", &tensor)], &notes);
    assert!(matches!(refused, Err(Error::Key { .. })));
    assert!(!path.exists());
}
