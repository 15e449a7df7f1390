//! Invalid safetensors files, indexes and folders: each error names file, tensor or field, and offset.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use std::path::Path;

use bitnet_formats::safetensors::{parse_header, parse_index};
use bitnet_formats::{Error, SafeTensors};
use support::*;

/// Checks that the error is [`Error::Tensor`] of this field, and its message.
macro_rules! refused_field {
    ($error:expr, $field:literal, $($words:expr),+ $(,)?) => {
        refused!($error, Error::Tensor { field: $field, .. }, $($words),+)
    };
}

/// Returns a header with one tensor `t` with these fields.
fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"t":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
}

/// Returns the error of a header with that many bytes of data.
fn refusal(json: &str, data: usize) -> Error {
    safetensors_error(&safetensors_bytes(json, &vec![0; data]))
}

const RIGHT: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}"#;

#[test]
fn the_right_file_is_read() {
    let model =
        SafeTensors::from_bytes(safetensors_bytes(RIGHT, &[1; 10]), SAFETENSORS_NAME).unwrap();
    assert_eq!(model.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(model.tensor("b").unwrap().shape, [0_usize; 0]);
    refused!(
        model.tensor("\u{1b}c").unwrap_err(),
        Error::MissingTensor { .. },
        SAFETENSORS_NAME,
        "\\u{1b}c"
    );
}

#[test]
fn every_proper_prefix_is_refused() {
    let whole = safetensors_bytes(RIGHT, &[0; 10]);
    for len in 0..whole.len() {
        assert_message(
            &parse_header(&whole[..len], SAFETENSORS_NAME).expect_err("a prefix"),
            &[SAFETENSORS_NAME],
        );
    }
}

#[test]
fn header_lengths_that_are_none() {
    refused!(
        safetensors_error(b"1234567"),
        Error::UnexpectedEnd { .. },
        SAFETENSORS_NAME,
        "header length at byte 0",
        "7 remain"
    );
    let length = |length: u64| [&length.to_le_bytes()[..], &b"{}      ".repeat(4)].concat();
    for huge in [u64::MAX, u64::MAX - 7, 100_000_001] {
        refused!(safetensors_error(&length(huge)), Error::Limit { value, .. } if value == huge, "header length at byte 0", "100000000");
    }
    refused!(
        safetensors_error(&length(33)),
        Error::UnexpectedEnd { needed: 33, available: 32, .. },
        "header at byte 8"
    );
    refused!(
        safetensors_error(&length(0)),
        Error::Header { .. },
        SAFETENSORS_NAME,
        "header length at byte 0",
        "too short"
    );
    assert!(parse_header(&length(32)[..16], SAFETENSORS_NAME).is_err());
    assert!(
        parse_header(&safetensors_bytes("{}      ", &[]), SAFETENSORS_NAME).unwrap().is_empty()
    );
}

#[test]
fn headers_that_are_not_one_object() {
    refused!(refusal(" {}", 0), Error::Header { .. }, SAFETENSORS_NAME, "header at byte 8", "'{'");
    refused!(refusal("[]", 0), Error::Header { .. }, "header at byte 8");
    refused!(refusal("{} x", 0), Error::Header { .. }, "at byte 11", "trailing");
    refused!(refusal("{}{}", 0), Error::Header { .. }, "at byte 10", "trailing");
    let not_utf8 = [&12_u64.to_le_bytes()[..], b"{\"a\xff\":{\"b\":1"].concat();
    refused!(
        safetensors_error(&not_utf8),
        Error::Header { .. },
        SAFETENSORS_NAME,
        "header at byte",
        "unicode"
    );
    let deep = format!("{{\"t\":{}", "[".repeat(100_000));
    refused!(refusal(&deep, 0), Error::Tensor { .. }, "\"t\"");
    let deep = format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000));
    refused!(refusal(&deep, 0), Error::Header { .. }, "__metadata__");
}

#[test]
fn names_twice() {
    let tensor = r#":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    refused!(
        refusal(&format!("{{\"t\"{tensor},\"u\"{tensor},\"t\"{tensor}}}"), 0),
        Error::DuplicateTensor { .. },
        SAFETENSORS_NAME,
        "\"t\""
    );
    // The same name with other escapes.
    refused!(
        refusal(&format!("{{\"t\"{tensor},\"\\u0074\"{tensor}}}"), 0),
        Error::DuplicateTensor { .. },
        "\"t\""
    );
    refused!(
        refusal(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
        Error::Header { .. },
        "__metadata__",
        "twice"
    );
    refused!(
        refusal(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0),
        Error::Header { .. },
        "__metadata__",
        "\"a\" appears twice"
    );
    let field = r#"{"t":{"dtype":"F32","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    refused_field!(refusal(field, 0), "dtype", "\"t\"", "twice");
}

#[test]
fn offsets_that_are_not_the_data() {
    let offsets = |offsets: &str, data| refusal(&one("\"U8\"", "[4]", offsets), data);
    refused_field!(
        offsets("[4,0]", 4),
        "data_offsets",
        SAFETENSORS_NAME,
        "\"t\"",
        "byte 10",
        "begins at 4"
    );
    refused_field!(offsets("[0,4]", 3), "data_offsets", "\"t\"", "ends at 4", "3 bytes");
    refused_field!(offsets("[0,18446744073709551615]", 4), "data_offsets", "18446744073709551615");
    refused_field!(offsets("[18446744073709551612,0]", 4), "data_offsets", "\"t\"");
    refused_field!(offsets("[4,8]", 8), "data_offsets", "\"t\"", "hole", "0..4");
    refused!(
        offsets("[0,4]", 8),
        Error::Header { .. },
        SAFETENSORS_NAME,
        "4 bytes follow the last tensor",
        "byte 65"
    );
    refused_field!(offsets("[0]", 4), "data_offsets", "\"t\"", "length 1");
    refused_field!(offsets("[0,4,4]", 4), "data_offsets", "\"t\"", "trailing");
    refused!(refusal("{}", 4), Error::Header { .. }, "4 bytes follow");

    let two = |first: &str, second: &str, data| {
        let tensor = |name, offsets| {
            format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#)
        };
        refusal(&format!("{{{},{}}}", tensor("t", first), tensor("u", second)), data)
    };
    refused_field!(two("[0,4]", "[2,6]", 6), "data_offsets", "\"u\"", "inside another tensor");
    refused_field!(two("[0,4]", "[0,4]", 4), "data_offsets", "inside another tensor");
    refused_field!(two("[0,4]", "[8,12]", 12), "data_offsets", "\"u\"", "hole", "4..8");
}

#[test]
fn shapes_that_are_none() {
    let shape = |shape: &str, data| refusal(&one("\"F32\"", shape, "[0,4]"), data);
    refused_field!(shape("[9223372036854775807,3]", 4), "shape", SAFETENSORS_NAME, "\"t\"", "2^64");
    refused_field!(shape("[4611686018427387905]", 4), "shape", "\"t\"", "2^64");
    refused_field!(shape("[-1]", 4), "shape", "\"t\"", "-1");
    refused_field!(shape("[1.5]", 4), "shape", "\"t\"", "1.5");
    refused_field!(shape("[1e400]", 4), "shape", "\"t\"", "out of range");
    refused_field!(shape("[\"1\"]", 4), "shape", "\"t\"");
    refused_field!(shape("null", 4), "shape", "\"t\"", "null");
    refused_field!(shape("[2]", 4), "data_offsets", "\"t\"", "4 bytes", "has 8");
    refused_field!(shape(&format!("[{}1]", "1,".repeat(32)), 4), "shape", "more than 32");
    refused_field!(
        refusal(r#"{"t":{"dtype":"F32","data_offsets":[0,4]}}"#, 4),
        "shape",
        "\"t\"",
        "missing"
    );
    refused!(
        refusal(r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}"#, 4),
        Error::Tensor { .. },
        "\"x\" is unknown"
    );
    refused!(refusal(r#"{"t":7}"#, 4), Error::Tensor { .. }, "\"t\"", "7");
}

#[test]
fn dtypes_and_notes_that_are_none() {
    for dtype in ["F128", "F4", "F6_E2M3", "f32", "", "\\u001b[31m"] {
        let error = refusal(&one(&format!("\"{dtype}\""), "[1]", "[0,4]"), 4);
        refused!(
            error,
            Error::UnsupportedType { .. },
            SAFETENSORS_NAME,
            "\"t\"",
            "byte 10",
            "dtype"
        );
    }
    refused_field!(refusal(&one("7", "[1]", "[0,4]"), 4), "dtype", "\"t\"", "7");
    for notes in [r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{}}"#, "[]", "\"x\""] {
        let error = refusal(&format!("{{\"__metadata__\":{notes}}}"), 0);
        refused!(error, Error::Header { .. }, SAFETENSORS_NAME, "__metadata__", "at byte");
    }
}

#[test]
fn names_with_control_characters_are_escaped() {
    let json = r#"{"\u001b]0;owned\u0007\n":{"dtype":"U8","shape":[1],"data_offsets":[0,2]}}"#;
    refused!(refusal(json, 2), Error::Tensor { .. }, "\\u{1b}]0;owned");
    let long = format!("{{\"{}\":7}}", "n".repeat(1_000_000));
    refused!(refusal(&long, 0), Error::Tensor { .. }, "nnn...nnn");
    // The parser quotes invalid values in its message.
    let value = format!("{{\"t\":\"{}\\u001b[2J\"}}", "v".repeat(10_000));
    refused!(refusal(&value, 0), Error::Tensor { .. }, "\"t\"");
}

#[test]
fn other_formats() {
    refused!(
        safetensors_error(b"PK\x03\x04\x14\0\x08\x08archive/data.pkl"),
        Error::Pickle { .. },
        SAFETENSORS_NAME,
        "zip",
        "save_file"
    );
    refused!(
        safetensors_error(b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94."),
        Error::Pickle { .. },
        SAFETENSORS_NAME,
        "pickle"
    );
    refused!(
        safetensors_error(b"GGUF\x03\0\0\0\0\0\0\0"),
        Error::WrongFormat { .. },
        SAFETENSORS_NAME,
        "GGUF"
    );
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// Returns a file with one tensor of that name.
fn shard(tensor: &str) -> Vec<u8> {
    safetensors_bytes(
        &format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#),
        tensor.repeat(2).as_bytes(),
    )
}

const INDEX: &str = "model.safetensors.index.json";

/// Returns the error of an index next to two valid files, `x.safetensors`
/// with tensor a and `y.safetensors` with tensor b.
fn index_refusal(index: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "x.safetensors", shard("a"));
    write(folder.path(), "y.safetensors", shard("b"));
    write(folder.path(), INDEX, index);
    SafeTensors::open(folder.path()).expect_err("the index must be refused")
}

#[test]
fn a_sharded_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "x.safetensors", shard("a"));
    write(folder.path(), "y.safetensors", shard("b"));
    write(
        folder.path(),
        INDEX,
        r#"{"metadata":{"total_size":4},"weight_map":{"b":"y.safetensors","a":"x.safetensors"}}"#,
    );
    for path in [folder.path().to_owned(), folder.path().join(INDEX)] {
        let model = SafeTensors::open(&path).unwrap();
        assert_eq!(model.names().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(*model.tensor("a").unwrap().data, *b"aa");
        assert_eq!(*model.tensor("b").unwrap().data, *b"bb");
        assert!(model.find("c").is_none());
        model.check().unwrap();
    }
}

#[test]
fn tensors_of_an_index_are_those_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    write(&folder.path().join("sub"), "y.safetensors", shard("b"));
    write(folder.path(), INDEX, r#"{"weight_map":{"a":"sub/y.safetensors"}}"#);
    let model = SafeTensors::open(folder.path()).unwrap();
    assert_eq!(model.names().collect::<Vec<_>>(), ["b"], "the index lacks it");
    assert_eq!(*model.tensor("b").unwrap().data, *b"bb");
    assert_eq!(model.absent().collect::<Vec<_>>(), [("a", "sub/y.safetensors")]);
    assert!(model.find("a").is_none());
    let error = model.tensor("a").unwrap_err();
    refused!(error, Error::Shard { .. }, INDEX, "y.safetensors", "\"a\"");
}

#[cfg(unix)]
#[test]
fn links_out_of_a_subfolder_are_refused() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(other.path(), "y.safetensors", shard("b"));
    std::os::unix::fs::symlink(other.path(), folder.path().join("sub")).unwrap();
    write(folder.path(), INDEX, r#"{"weight_map":{"b":"sub/y.safetensors"}}"#);
    let error = SafeTensors::open(folder.path()).unwrap_err();
    refused!(error, Error::Shard { .. }, INDEX, "sub/y.safetensors", "out of the model's folder");
}

#[test]
fn indexes_that_point_elsewhere() {
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "sub/../../x.safetensors",
        "sub/",
        "..",
        "",
        "C:x",
        "a\\\\b",
        "./x.safetensors",
        "x\\u0000",
    ] {
        let error = index_refusal(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#));
        refused!(error, Error::Shard { .. }, INDEX, "tensor \"a\"", "its own folder");
    }
    refused!(
        index_refusal(r#"{"weight_map":{"a":"z.safetensors"}}"#),
        Error::Shard { .. },
        INDEX,
        "z.safetensors",
        "missing"
    );
    refused_field!(index_refusal(r#"{"weight_map":{"a":7}}"#), "weight_map", INDEX, "\"a\"", "7");
    refused_field!(
        index_refusal(r#"{"weight_map":{"a":["x.safetensors"]}}"#),
        "weight_map",
        "\"a\""
    );
    let twice = r#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#;
    refused!(index_refusal(twice), Error::DuplicateTensor { .. }, INDEX, "\"a\"");
    refused!(
        index_refusal(r#"{"weight_map":{},"weight_map":{}}"#),
        Error::Header { .. },
        INDEX,
        "weight_map",
        "twice"
    );
    refused!(
        index_refusal(r#"{"metadata":{}}"#),
        Error::Header { .. },
        INDEX,
        "weight_map",
        "missing"
    );
    refused!(index_refusal(r#"{"weight_map":[]}"#), Error::Header { .. }, INDEX, "weight_map");
    refused!(index_refusal("[1"), Error::Header { .. }, INDEX, "index at byte");
    refused!(
        index_refusal(&format!("{{\"metadata\":{}", "[".repeat(100_000))),
        Error::Header { .. },
        INDEX,
        "index at byte"
    );
    let trailing = r#"{"weight_map":{"a":"x.safetensors"}} x"#;
    refused!(index_refusal(trailing), Error::Header { .. }, INDEX, "trailing", "at byte 37");
}

#[test]
fn an_index_as_bytes() {
    let index = parse_index(br#"{"weight_map":{"a":"x","b":"y","c":"x"}}"#, "index").unwrap();
    assert_eq!(index.files, ["x", "y"]);
    assert_eq!(index.tensors, [("a".to_owned(), 0), ("b".to_owned(), 1), ("c".to_owned(), 0)]);
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "x.safetensors", shard("a"));
    let folder = tempfile::tempdir().unwrap();
    let link = |target: &Path, name: &str| {
        std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap()
    };
    link(&outside.path().join("x.safetensors"), "x.safetensors");
    write(folder.path(), INDEX, r#"{"weight_map":{"a":"x.safetensors"}}"#);
    let error = SafeTensors::open(folder.path()).unwrap_err();
    refused!(error, Error::Shard { .. }, INDEX, "x.safetensors", "link out of the model's folder");

    // Links inside the folder are harmless, and a Hugging Face cache consists of links to its blobs.
    write(folder.path(), "real.safetensors", shard("a"));
    std::fs::remove_file(folder.path().join("x.safetensors")).unwrap();
    link(Path::new("real.safetensors"), "x.safetensors");
    assert_eq!(SafeTensors::open(folder.path()).unwrap().len(), 1);

    let revision = outside.path().join("models--o--n/snapshots/main");
    let blobs = outside.path().join("models--o--n/blobs");
    std::fs::create_dir_all(&revision).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    write(&blobs, "0123", shard("a"));
    write(&revision, INDEX, r#"{"weight_map":{"a":"x.safetensors"}}"#);
    std::os::unix::fs::symlink("../../blobs/0123", revision.join("x.safetensors")).unwrap();
    assert_eq!(SafeTensors::open(&revision).unwrap().len(), 1);

    // If models share contents, their blobs are links to those of the cache.
    let shared = outside.path().join("blobs/01");
    std::fs::create_dir_all(&shared).unwrap();
    write(&shared, "01ab", shard("a"));
    std::fs::remove_file(blobs.join("0123")).unwrap();
    std::os::unix::fs::symlink("../../blobs/01/01ab", blobs.join("0123")).unwrap();
    assert_eq!(SafeTensors::open(&revision).unwrap().len(), 1);
    std::fs::remove_file(blobs.join("0123")).unwrap();
    std::os::unix::fs::symlink("../../x.safetensors", blobs.join("0123")).unwrap();
    let error = SafeTensors::open(&revision).unwrap_err();
    refused!(error, Error::Shard { .. }, INDEX, "x.safetensors", "link out of the model's folder");
}

#[test]
fn folders_without_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = || SafeTensors::open(folder.path()).unwrap_err();
    let name = folder.path().to_string_lossy().into_owned();
    refused!(refusal(), Error::Folder { .. }, &name, "no .safetensors file");
    write(folder.path(), "pytorch_model.bin", b"PK\x03\x04");
    refused!(refusal(), Error::Pickle { .. }, "pytorch_model.bin", ".safetensors");
    write(folder.path(), "x.safetensors", shard("a"));
    assert_eq!(SafeTensors::open(folder.path()).unwrap().len(), 1);
    write(folder.path(), "y.safetensors", shard("b"));
    refused!(refusal(), Error::Folder { .. }, &name, "2 .safetensors files", "give one of them");
    write(folder.path(), "model.safetensors", shard("c"));
    assert_eq!(SafeTensors::open(folder.path()).unwrap().names().collect::<Vec<_>>(), ["c"]);
}
