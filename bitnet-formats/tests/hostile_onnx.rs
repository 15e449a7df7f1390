//! ONNX files that are right, wrong and hostile: each error names file, tensor or field.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use std::path::{Path, PathBuf};

use bitnet_formats::onnx::{Attribute, DataType};
use bitnet_formats::{Error, OnnxModel};
use proptest::prelude::*;
use support::*;

const NAME: &str = "hostile.onnx";

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field whose value is text, bytes or a message.
fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// A field whose value is a number.
fn int(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

/// A model whose graph has these fields.
fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [int(1, 10), bytes(2, "test"), bytes(7, graph.concat())].concat()
}

/// The fields of a tensor of bytes.
fn tensor(name: &str, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| int(1, *dim)).collect();
    [dims, int(2, 2), bytes(8, name), bytes(9, raw)].concat()
}

/// The fields of a tensor in another file.
fn elsewhere(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| int(1, *dim)).collect();
    let entry = |(key, value): &(&str, &str)| bytes(13, [bytes(1, key), bytes(2, value)].concat());
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    [dims, int(2, 2), bytes(8, name), entries, int(14, 1)].concat()
}

fn refusal(graph: &[Vec<u8>]) -> Error {
    OnnxModel::from_bytes(model(graph), NAME).expect_err("a wrong file")
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/onnx").join(path)
}

#[test]
fn a_graph_is_read_as_it_was_written() {
    let attributes = [
        bytes(5, [bytes(1, "K"), int(3, -7), int(20, 2)].concat()),
        bytes(
            5,
            [bytes(1, "axes"), int(8, 1), bytes(8, [varint(2), varint(300)].concat())].concat(),
        ),
        bytes(5, [bytes(1, "epsilon"), varint(2 << 3 | 5), 0.5f32.to_le_bytes().to_vec()].concat()),
        bytes(5, [bytes(1, "body"), bytes(6, [0xff; 9])].concat()),
    ];
    let node = [
        bytes(1, "a"),
        bytes(1, ""),
        bytes(1, "b"),
        bytes(2, "y"),
        bytes(3, "/x"),
        bytes(4, "Op"),
        attributes.concat(),
        bytes(7, "com.microsoft"),
    ];
    let value = bytes(5, [bytes(1, "value"), bytes(5, tensor("", &[2], &[7, 8]))].concat());
    let constant = [bytes(2, "c"), bytes(4, "Constant"), value];
    let floats =
        [bytes(1, [varint(1), varint(2)].concat()), int(2, 1), bytes(4, [0; 8]), bytes(8, "f")];
    let read = OnnxModel::from_bytes(
        model(&[
            bytes(1, node.concat()),
            bytes(1, constant.concat()),
            bytes(2, "the graph's name"),
            bytes(5, tensor("b", &[2, 3], &[1, 2, 3, 4, 5, 6])),
            bytes(5, floats.concat()),
        ]),
        NAME,
    )
    .unwrap();
    let found = &read.nodes()[0];
    assert_eq!((&*found.op_type, &*found.domain, &*found.name), ("Op", "com.microsoft", "/x"));
    assert_eq!(
        [found.input(0), found.input(1), found.input(2), found.input(3)],
        [Some("a"), None, Some("b"), None]
    );
    assert_eq!(
        (found.int("K"), found.float("epsilon"), found.int("none")),
        (Some(-7), Some(0.5), None)
    );
    assert_eq!(found.attributes[1].1, Attribute::Ints(vec![1, 2, 300]));
    assert_eq!(read.producer("y"), Some(found));
    let b = read.find("b").unwrap();
    assert_eq!((b.data_type, &*b.shape, b.elements()), (DataType::UINT8, &[2, 3][..], 6));
    assert_eq!(read.data(b).unwrap()[..], [1, 2, 3, 4, 5, 6]);
    assert_eq!(read.data(read.find("c").unwrap()).unwrap()[..], [7, 8], "the value of a Constant");
    let f = read.find("f").unwrap();
    assert_eq!((f.shape.as_slice(), read.data(f).unwrap().len()), (&[1, 2][..], 8), "float_data");
}

#[test]
fn what_is_no_model_is_refused() {
    for other in [&b""[..], b"\x08\x0a", b"\x08\x0a\x12\x04test"] {
        let error = OnnxModel::from_bytes(other.to_vec(), NAME).unwrap_err();
        refused!(error, Error::WrongFormat { .. }, NAME, "an ONNX model with a graph");
    }
    let twice = [model(&[]), model(&[])].concat();
    refused!(OnnxModel::from_bytes(twice, NAME).unwrap_err(), Error::Header { .. }, "second graph");
    let pickle = OnnxModel::from_bytes(b"PK\x03\x04rest".to_vec(), NAME).unwrap_err();
    refused!(pickle, Error::Pickle { .. }, NAME);
    for (graph, words) in [
        (vec![0x0b], "wire type 3"),
        (vec![0x00, 0x00], "number 0"),
        ([&[0x08][..], &[0xff; 10]].concat(), "64 bits"),
        (bytes(1, bytes(4, [0xff, 0xfe])), "not UTF-8"),
    ] {
        refused!(refusal(&[graph]), Error::Header { .. }, NAME, words);
    }
    refused!(
        refusal(&[vec![0x0a, 0x7f]]),
        Error::UnexpectedEnd { needed: 127, .. },
        NAME,
        "GraphProto"
    );
    let long = bytes(1, bytes(3, "x".repeat(5000)));
    refused!(refusal(&[long]), Error::Limit { value: 5000, .. }, "the name of a node");
}

#[test]
fn tensors_that_lie_are_refused_by_name() {
    let wrong = |fields: Vec<u8>| refusal(&[bytes(5, fields)]);
    for (fields, field, words) in [
        (tensor("t", &[-1], &[]), "dims", "-1"),
        (tensor("t", &[i64::MAX, 3], &[]), "dims", "too large"),
        (tensor("t", &[5], &[0; 4]), "raw_data", "take 5"),
        (tensor("t", &[], &[0; 2]), "raw_data", "take 1"),
        (elsewhere("t", &[1], &[]), "location", "missing"),
        (
            elsewhere("t", &[1], &[("location", "../up.data")]),
            "location",
            "leaves the model's folder",
        ),
        (
            elsewhere("t", &[1], &[("location", "/etc/passwd")]),
            "location",
            "leaves the model's folder",
        ),
        (elsewhere("t", &[1], &[("location", "a"), ("offset", "-1")]), "offset", "not a number"),
        (elsewhere("t", &[1], &[("location", "a")]), "location", "in memory"),
    ] {
        let error = wrong(fields);
        let found = matches!(&error, Error::Tensor { field: got, .. } if *got == field);
        assert!(found, "{field}: {error}");
        assert_message(&error, &[NAME, "tensor \"t\"", words]);
    }
    let dims = int(1, 1).repeat(17);
    refused!(wrong(dims), Error::Limit { value: 17, .. }, "dimensions");
    let same = bytes(5, tensor("t", &[1], &[0]));
    refused!(refusal(&[same.clone(), same]), Error::DuplicateTensor { .. }, "\"t\"");
    let typed = [int(1, 2), int(2, 2), bytes(5, [1, 2]), bytes(8, "t")].concat();
    let read = OnnxModel::from_bytes(model(&[bytes(5, typed)]), NAME).unwrap();
    let error = read.data(read.find("t").unwrap()).unwrap_err();
    refused!(error, Error::UnsupportedType { .. }, "\"t\"", "UINT8", "raw_data");
}

#[test]
fn external_data_is_checked_against_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    std::fs::write(folder.path().join("d"), [1, 2, 3, 4]).unwrap();
    let open = |entries: &[(&str, &str)]| {
        std::fs::write(&path, model(&[bytes(5, elsewhere("t", &[2], entries))])).unwrap();
        OnnxModel::open(&path)
    };
    let read = open(&[("location", "d"), ("offset", "1"), ("length", "2")]).unwrap();
    assert_eq!(read.data(read.find("t").unwrap()).unwrap()[..], [2, 3]);
    assert_eq!(read.files().count(), 2);
    let read = open(&[("location", "d")]).unwrap();
    assert_eq!(read.data(read.find("t").unwrap()).unwrap()[..], [1, 2], "without a length");
    for (entries, words) in [
        (&[("location", "d"), ("offset", "3"), ("length", "2")][..], "has 4 bytes"),
        (&[("location", "d"), ("offset", "18446744073709551615")], "has 4 bytes"),
        (&[("location", "d"), ("length", "3")], "take 2"),
        (&[("location", "none")], "put it next to the model"),
    ] {
        let error = open(entries).unwrap_err();
        refused!(error, Error::Tensor { .. }, "tensor \"t\"", words);
    }
    #[cfg(unix)]
    {
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let error = open(&[("location", "link")]).unwrap_err();
        refused!(error, Error::Tensor { .. }, "a link out of the model's folder");
    }
}

#[test]
fn models_of_the_onnx_package_are_read() {
    let read = OnnxModel::open(&golden("onnx-qwen3-q2f16/onnx/model_q2f16.onnx")).unwrap();
    let weight = read.find("model_layers_1_mlp_up_proj_MatMul_weight_quant").unwrap();
    assert_eq!(weight.shape, [256, 2, 32]);
    assert_eq!(read.data(weight).unwrap().len(), 256 * 64);
    let node = read.nodes().iter().find(|node| node.name == "/lm_head/MatMul_Quant").unwrap();
    assert_eq!([node.int("bits"), node.int("K"), node.int("N")], [Some(2), Some(256), Some(48)]);
    assert_eq!(read.producer(node.input(1).unwrap()).unwrap().op_type, "Reshape");
    read.check().unwrap();
}

#[test]
fn every_prefix_of_a_model_is_an_error_or_a_smaller_model() {
    let whole = std::fs::read(golden("onnx-llama-q2/model_q2.onnx")).unwrap();
    for len in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        if let Err(error) = OnnxModel::from_bytes(whole[..len].to_vec(), NAME) {
            assert_message(&error, &[NAME]);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = OnnxModel::from_bytes(bytes, NAME);
    }

    /// Bytes with the structure of a graph reach the inner messages.
    #[test]
    fn no_fields_make_it_panic(
        fields in prop::collection::vec((0_usize..5, 1_u64..21, any::<i64>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut graph = Vec::new();
        for (depth, field, number, value) in fields {
            let inner = match depth {
                0 => int(field, number),
                1 => bytes(field, value),
                2 => bytes(5, bytes(field, value)),
                3 => bytes(1, bytes(5, bytes(field, value))),
                _ => bytes(5, [int(field, number), bytes(field, value)].concat()),
            };
            graph.push(inner);
        }
        if let Ok(read) = OnnxModel::from_bytes(model(&graph), NAME) {
            for tensor in read.initializers() {
                if let (Ok(data), Some(bytes)) = (read.data(tensor), tensor.data_type.bytes_for(tensor.elements())) {
                    prop_assert_eq!(data.len(), bytes);
                }
            }
        }
    }

    /// A golden file with some bytes changed.
    #[test]
    fn no_damage_makes_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = std::fs::read(golden("onnx-qwen3-q2f16/onnx/model_q2f16.onnx")).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = OnnxModel::from_bytes(bytes, NAME);
    }
}
