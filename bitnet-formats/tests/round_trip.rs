//! Round trips of writers and readers.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use std::io;

use bitnet_formats::gguf::{GgmlType, GgufWriter, Value};
use bitnet_formats::safetensors::{self, Dtype, TensorSpec};
use bitnet_formats::{Error, GgufFile, SafeTensors};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Every type except Q2_0, whose two block lengths share an id.
const TYPES: [GgmlType; 15] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::Bf16,
    GgmlType::Q4_0,
    GgmlType::Q8_0,
    GgmlType::Q6K,
    GgmlType::Tq1_0,
    GgmlType::Tq2_0,
    GgmlType::I2S,
    GgmlType::Pq2_0,
    GgmlType::Ptq1_0,
    GgmlType::Q1_0,
    GgmlType::Iq1Bn,
    GgmlType::Iq2Bn,
    GgmlType::Iq2BnR4,
];

const DTYPES: [Dtype; 6] =
    [Dtype::Bool, Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::I64, Dtype::F64];

#[derive(Debug, Clone)]
enum Setting {
    Unsigned(u64),
    Signed(i32),
    Float(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i32>),
}

fn setting() -> impl Strategy<Value = Setting> {
    prop_oneof![
        any::<u64>().prop_map(Setting::Unsigned),
        any::<i32>().prop_map(Setting::Signed),
        (-1e30_f32..1e30).prop_map(Setting::Float),
        any::<bool>().prop_map(Setting::Bool),
        ".{0,20}".prop_map(Setting::Text),
        vec(".{0,8}", 0..6).prop_map(Setting::Texts),
        vec(-1e30_f32..1e30, 0..6).prop_map(Setting::Floats),
        vec(any::<i32>(), 0..6).prop_map(Setting::Integers),
    ]
}

fn put(writer: &mut GgufWriter, key: &str, setting: &Setting) -> Result<(), Error> {
    match setting {
        Setting::Unsigned(value) => writer.put(key, Value::U64(*value)),
        Setting::Signed(value) => writer.put(key, Value::I32(*value)),
        Setting::Float(value) => writer.put(key, Value::F32(*value)),
        Setting::Bool(value) => writer.put(key, Value::Bool(*value)),
        Setting::Text(value) => writer.put(key, Value::String(value)),
        Setting::Texts(values) => writer.put_strings(key, values),
        Setting::Floats(values) => writer.put_f32s(key, values),
        Setting::Integers(values) => writer.put_i32s(key, values),
    }
}

fn assert_reads(file: &GgufFile, key: &str, setting: &Setting) {
    let keys = file.metadata();
    match setting {
        Setting::Unsigned(value) => assert_eq!(keys.get_u64(key).unwrap(), *value),
        Setting::Signed(value) => assert_eq!(keys.value(key).unwrap(), Some(Value::I32(*value))),
        Setting::Float(value) => assert_eq!(keys.get_f32(key).unwrap(), *value),
        Setting::Bool(value) => assert_eq!(keys.get_bool(key).unwrap(), *value),
        Setting::Text(value) => assert_eq!(keys.get_str(key).unwrap(), value),
        Setting::Texts(values) => assert_eq!(keys.get_array_str(key).unwrap(), *values),
        Setting::Floats(values) => {
            assert_eq!(keys.opt_array_f32(key).unwrap().as_ref(), Some(values))
        }
        Setting::Integers(values) => {
            assert_eq!(keys.opt_array_i32(key).unwrap().as_ref(), Some(values))
        }
    }
}

/// Returns bytes unique to one tensor.
fn pattern(name: &str, nbytes: u64) -> Vec<u8> {
    let seed = name.bytes().fold(17_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    (0..nbytes).map(|index| seed.wrapping_add(index as u8)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn gguf(
        settings in btree_map("[a-z_.]{1,30}", setting(), 0..8),
        // Writer and reader reject the name "..".
        tensors in btree_map("[a-z0-9_][a-z0-9._]{0,63}", (0..TYPES.len(), 1_u64..4, 1_u64..40), 0..8),
        alignment in prop_oneof![Just(None), (3_u32..10).prop_map(|power| Some(1 << power))],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut writer = GgufWriter::new();
        for (key, setting) in &settings {
            put(&mut writer, key, setting).unwrap();
        }
        if let Some(alignment) = alignment {
            writer.put("general.alignment", Value::U32(alignment)).unwrap();
        }
        for (name, (kind, blocks, rows)) in &tensors {
            let columns = blocks * TYPES[*kind].block().0;
            let rows = rows * TYPES[*kind].interleaved_rows();
            writer.add_tensor(name, &[columns, rows], TYPES[*kind]).unwrap();
        }
        writer.write(&path, |tensor, sink| sink.write_all(&pattern(&tensor.name, tensor.nbytes))).unwrap();

        let file = GgufFile::open(&path).unwrap();
        prop_assert_eq!(file.version(), 3);
        prop_assert_eq!(file.metadata().len(), settings.len() + usize::from(alignment.is_some()));
        for ((key, setting), (found, _)) in settings.iter().zip(file.metadata().iter()) {
            prop_assert_eq!(key, found);
            assert_reads(&file, key, setting);
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (found, pending) in file.tensors().iter().zip(writer.tensors()) {
            prop_assert_eq!(&found.name, &pending.name);
            prop_assert_eq!(&found.dims, &pending.dims);
            prop_assert_eq!(found.ggml_type, pending.ggml_type);
            prop_assert_eq!(found.offset % u64::from(alignment.unwrap_or(32)), 0);
            prop_assert_eq!(&*file.data(found).unwrap(), &*pattern(&found.name, found.nbytes));
        }
    }

    #[test]
    fn safetensors(
        tensors in btree_map(".{0,20}", (0_usize..6, vec(0_usize..5, 0..4)), 0..8),
        notes in btree_map(".{0,10}", ".{0,10}", 0..3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let specs: Vec<TensorSpec> = tensors
            .into_iter()
            .map(|(name, (dtype, shape))| TensorSpec { name, dtype: DTYPES[dtype], shape })
            .collect();
        let notes: Vec<(String, String)> = notes.into_iter().collect();
        safetensors::write(&path, &specs, &notes, |tensor, sink| {
            sink.write_all(&pattern(&tensor.name, tensor.nbytes().unwrap()))
        })
        .unwrap();

        let model = SafeTensors::open(&path).unwrap();
        prop_assert_eq!(model.len(), specs.len());
        prop_assert_eq!(model.metadata(), &notes[..]);
        for spec in &specs {
            let tensor = model.tensor(&spec.name).unwrap();
            prop_assert_eq!((tensor.dtype, &tensor.shape), (spec.dtype, &spec.shape));
            prop_assert_eq!(&*tensor.data, &*pattern(&spec.name, spec.nbytes().unwrap()));
            prop_assert_eq!(tensor.data.offset() % tensor.dtype.size() as u64, 0);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..400), version in 2_u32..4, keys in 0_u64..4, tensors in 0_u64..4) {
        let _ = bitnet_formats::gguf::parse(&bytes, "x");
        let _ = safetensors::parse_header(&bytes, "x");
        let _ = safetensors::parse_index(&bytes, "x");
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(tensors.to_le_bytes());
        file.extend(keys.to_le_bytes());
        file.extend(&bytes);
        let _ = bitnet_formats::gguf::parse(&file, "x");
        let json = bytes.escape_ascii().to_string().replace("\\x", "");
        let _ = safetensors::parse_header(&support::safetensors_bytes(&json, &[]), "x");
        let _ = safetensors::parse_index(json.as_bytes(), "x");
    }
}

/// Replaces each byte of a valid file by every value: an error or a readable model, never a panic.
#[test]
fn gguf_survives_every_changed_byte() {
    let bytes = std::fs::read(support::golden("tiny.gguf")).unwrap();
    for place in 0..bytes.len() {
        for change in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[place] = change;
            let Ok(file) = GgufFile::from_bytes(changed, "x") else { continue };
            assert!(file.metadata().iter().count() == file.metadata().len());
            for tensor in file.tensors() {
                assert_eq!(file.data(tensor).unwrap().len() as u64, tensor.nbytes);
            }
        }
    }
}

#[test]
fn safetensors_never_panics_on_a_changed_byte() {
    let bytes = std::fs::read(support::golden("tiny.safetensors")).unwrap();
    for place in 0..bytes.len() {
        for change in [0x00, b'0', b'9', b'"', b'{', b']', 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[place] = change;
            let Ok(model) = SafeTensors::from_bytes(changed, "x") else { continue };
            assert_eq!(model.tensors().count(), model.len());
        }
    }
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, b"before").unwrap();
    let mut writer = GgufWriter::new();
    writer.add_tensor("t", &[8], GgmlType::F32).unwrap();
    let refused_with = |supply: &mut dyn FnMut(&mut dyn io::Write) -> io::Result<()>| {
        let error = writer.write(&path, |_, sink| supply(sink)).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file was left"
        );
        error
    };
    refused!(
        refused_with(&mut |sink| sink.write_all(&[0; 31])),
        Error::Tensor { field: "data", .. },
        "model.gguf",
        "\"t\"",
        "1 of its 32"
    );
    refused!(
        refused_with(&mut |sink| sink.write_all(&[0; 33])),
        Error::Tensor { field: "data", .. },
        "\"t\"",
        "more than its 32"
    );
    refused!(
        refused_with(&mut |_| Err(io::Error::other("no source"))),
        Error::Io { .. },
        "model.gguf",
        "no source"
    );

    let spec = TensorSpec { name: "t".to_owned(), dtype: Dtype::U8, shape: vec![4] };
    let short =
        safetensors::write(&path, &[spec], &[], |_, sink| sink.write_all(&[0; 3])).unwrap_err();
    refused!(short, Error::Tensor { field: "data", .. }, "\"t\"", "1 of its 4");
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
}

#[test]
fn writer_rejects_what_the_reader_rejects() {
    let mut writer = GgufWriter::new();
    writer.add_tensor("t", &[8], GgmlType::F32).unwrap();
    refused!(
        writer.add_tensor("t", &[8], GgmlType::F32).unwrap_err(),
        Error::DuplicateTensor { .. },
        "\"t\""
    );
    refused!(
        writer.add_tensor("u", &[100], GgmlType::Tq2_0).unwrap_err(),
        Error::Tensor { field: "dimensions", .. },
        "\"u\"",
        "TQ2_0"
    );
    refused!(
        writer.add_tensor("", &[8], GgmlType::F32).unwrap_err(),
        Error::Tensor { field: "name", .. },
        "64 bytes"
    );
    refused!(
        writer.add_tensor(&"n".repeat(65), &[8], GgmlType::F32).unwrap_err(),
        Error::Tensor { field: "name", .. },
        "64 bytes"
    );
    for name in ["..", "../t", "t/..", "a\\..\\b"] {
        refused!(
            writer.add_tensor(name, &[8], GgmlType::F32).unwrap_err(),
            Error::Tensor { field: "name", .. },
            "path out of the model"
        );
    }
    for dims in [&[][..], &[8, 1, 1, 1, 1], &[8, 0]] {
        refused!(
            writer.add_tensor("u", dims, GgmlType::F32).unwrap_err(),
            Error::Tensor { field: "dimensions", .. },
            "\"u\""
        );
    }
    writer.add_tensor("..t", &[8], GgmlType::F32).unwrap();
    refused!(writer.put("a\nb", Value::Bool(true)).unwrap_err(), Error::Key { .. }, "a\\nb");
    refused!(
        writer.put("general.alignment", Value::U32(4)).unwrap_err(),
        Error::Key { .. },
        "general.alignment"
    );
}

#[test]
fn metadata_is_copied_between_files() {
    let source = GgufFile::open(&support::golden("tiny.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.gguf");
    let mut writer = GgufWriter::new();
    writer.put("general.name", Value::String("copy")).unwrap();
    writer.copy_metadata(source.metadata(), |key| key != "tiny.u8").unwrap();
    writer.put("tiny.u16", Value::U16(1)).unwrap();
    writer.write(&path, |_, _| Ok(())).unwrap();
    let copy = GgufFile::open(&path).unwrap();
    let mut expected: Vec<(&str, Value<'_>)> = vec![("general.name", Value::String("copy"))];
    expected.extend(source.metadata().iter().filter(|(key, _)| *key != "tiny.u8"));
    for (key, value) in &mut expected {
        if *key == "tiny.u16" {
            *value = Value::U16(1);
        }
    }
    assert_eq!(copy.metadata().iter().collect::<Vec<_>>(), expected);
}
