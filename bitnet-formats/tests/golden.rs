//! Files of the Python packages `gguf` and `safetensors` are read like by those packages
//! (`tests/golden/make.py` generated files and readings).

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use bitnet_formats::gguf::{Value, ValueType};
use bitnet_formats::{GgufFile, SafeTensors};
use serde_json::Value as Json;
use support::{from_hex, golden};

fn reading(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Returns the package's names of the value types.
fn package_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::U8 => "UINT8",
        ValueType::I8 => "INT8",
        ValueType::U16 => "UINT16",
        ValueType::I16 => "INT16",
        ValueType::U32 => "UINT32",
        ValueType::I32 => "INT32",
        ValueType::F32 => "FLOAT32",
        ValueType::Bool => "BOOL",
        ValueType::String => "STRING",
        ValueType::Array => "ARRAY",
        ValueType::U64 => "UINT64",
        ValueType::I64 => "INT64",
        ValueType::F64 => "FLOAT64",
    }
}

fn to_json(value: Value<'_>) -> Json {
    match value {
        Value::F32(value) => f64::from(value).into(),
        Value::F64(value) => value.into(),
        Value::Bool(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Array(array) => array.iter().map(to_json).collect(),
        integer => match integer.as_u64() {
            Some(value) => value.into(),
            None => integer.as_i64().unwrap().into(),
        },
    }
}

#[test]
fn gguf_reads_as_the_gguf_package_reads() {
    let expected = reading("tiny.gguf.json");
    let file = GgufFile::open(&golden("tiny.gguf")).unwrap();

    let keys = expected["keys"].as_object().unwrap();
    assert_eq!(file.metadata().len(), keys.len());
    for ((key, value), (expected_key, expected)) in file.metadata().iter().zip(keys) {
        assert_eq!(key, expected_key);
        let mut types = vec![package_name(value.value_type())];
        types.extend(value.as_array().map(|array| package_name(array.element())));
        assert_eq!(serde_json::json!(types), expected["types"], "{key}");
        assert_eq!(to_json(value), expected["value"], "{key}");
    }

    let tensors = expected["tensors"].as_array().unwrap();
    assert_eq!(file.tensors().len(), tensors.len());
    for (tensor, expected) in file.tensors().iter().zip(tensors) {
        assert_eq!(tensor.name, expected["name"].as_str().unwrap());
        assert_eq!(serde_json::json!(tensor.dims), expected["dims"], "{}", tensor.name);
        assert_eq!(
            u64::from(tensor.ggml_type.id()),
            expected["type"].as_u64().unwrap(),
            "{}",
            tensor.name
        );
        assert_eq!(tensor.offset, expected["offset"].as_u64().unwrap(), "{}", tensor.name);
        assert_eq!(
            *file.data(tensor).unwrap(),
            *from_hex(expected["hex"].as_str().unwrap()),
            "{}",
            tensor.name
        );
    }
    file.check().unwrap();
}

#[test]
fn typed_getters_convert_and_refuse() {
    let file = GgufFile::open(&golden("tiny.gguf")).unwrap();
    let keys = file.metadata();
    assert_eq!(keys.get_u32("tiny.u8").unwrap(), 255);
    assert_eq!(keys.get_u64("tiny.u32").unwrap(), u64::from(u32::MAX));
    assert_eq!(keys.get_f32("tiny.f64").unwrap(), 0.1);
    assert!(keys.get_bool("tiny.bool").unwrap());
    assert_eq!(keys.get_str("tiny.string").unwrap(), "Ġtern → ary\n");
    assert_eq!(keys.get_array_str("tiny.strings").unwrap(), ["<unk>", "", "▁a", "😀"]);
    assert_eq!(keys.opt_array_i32("tiny.ints").unwrap().unwrap(), [-1, 0, 1]);
    assert_eq!(keys.opt_array_f32("tiny.floats").unwrap().unwrap(), [0.0, -1.5, 2.25]);
    assert_eq!(keys.opt_array_len("tiny.bools").unwrap(), Some(2));
    assert_eq!(keys.opt_u32("tiny.absent").unwrap(), None);

    let key_type = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    };
    key_type(
        keys.get_u32("tiny.u64").unwrap_err().to_string(),
        &["tiny.gguf", "tiny.u64", "the u64 18446744073709551615", "2^32-1"],
    );
    key_type(
        keys.opt_u64("tiny.i8").unwrap_err().to_string(),
        &["tiny.i8", "the i8 -128", "an integer of 0 to"],
    );
    key_type(
        keys.opt_f32("tiny.u8").unwrap_err().to_string(),
        &["tiny.u8", "the u8 255", "a float"],
    );
    key_type(
        keys.get_array_str("tiny.ints").unwrap_err().to_string(),
        &["tiny.ints", "an array of 3 i32"],
    );
    key_type(
        keys.get_str("tiny.absent").unwrap_err().to_string(),
        &["tiny.gguf", "tiny.absent", "missing", "a string"],
    );
}

#[test]
fn safetensors_reads_like_the_python_package() {
    let expected = reading("tiny.safetensors.json");
    let model = SafeTensors::open(&golden("tiny.safetensors")).unwrap();

    let mut metadata = model.metadata().to_vec();
    metadata.sort();
    let notes: Vec<(String, String)> = expected["metadata"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(metadata, notes);

    let tensors = expected["tensors"].as_array().unwrap();
    assert_eq!(model.len(), tensors.len());
    for expected in tensors {
        let tensor = model.tensor(expected["name"].as_str().unwrap()).unwrap();
        assert_eq!(tensor.dtype.name(), expected["dtype"].as_str().unwrap(), "{}", tensor.name);
        assert_eq!(serde_json::json!(tensor.shape), expected["shape"], "{}", tensor.name);
        assert_eq!(*tensor.data, *from_hex(expected["hex"].as_str().unwrap()), "{}", tensor.name);
    }
    let mut names: Vec<&str> = model.names().collect();
    names.sort_unstable();
    let expected: Vec<&str> =
        tensors.iter().map(|tensor| tensor["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected);
    assert_eq!(model.tensors().count(), tensors.len());
}
