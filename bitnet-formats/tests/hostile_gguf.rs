//! GGUF files that lie: each is refused with an error that names file, field or tensor, and offset.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use bitnet_formats::gguf::{GgmlType, GgufWriter, Value, parse};
use bitnet_formats::{Error, GgufFile};
use support::*;

const F32: u32 = 0;

fn u32_key(key: &str, value: u32) -> Gguf {
    Gguf::new().key(key.as_bytes(), U32, &value.to_le_bytes())
}

/// One f32 tensor of eight elements: the smallest right file, for the wrong ones to differ from.
fn right() -> Gguf {
    Gguf::new().tensor(b"t", &[8], F32, 0).data(&[0; 32])
}

#[test]
fn the_right_file_is_read() {
    let parsed = parse(&right().bytes(), GGUF_NAME).unwrap();
    assert_eq!((parsed.version, parsed.alignment, parsed.tensors.len()), (3, 32, 1));
    assert_eq!(parsed.data_start, parsed.tensors[0].offset);
}

#[test]
fn every_proper_prefix_is_refused() {
    let whole = u32_key("a.b", 7).tensor(b"t", &[8], F32, 0).data(&[0; 32]).bytes();
    for len in 0..whole.len() {
        let error = parse(&whole[..len], GGUF_NAME).expect_err("a prefix");
        assert_message(&error, &[GGUF_NAME]);
    }
}

#[test]
fn shorter_than_a_header() {
    refused!(
        gguf_error(b""),
        Error::UnexpectedEnd { .. },
        GGUF_NAME,
        "magic at byte 0",
        "0 remain"
    );
    refused!(gguf_error(b"GGU"), Error::UnexpectedEnd { .. }, "magic at byte 0", "3 remain");
    refused!(gguf_error(b"GGUF"), Error::UnexpectedEnd { .. }, "version at byte 4");
}

#[test]
fn wrong_magic_version_and_byte_order() {
    let magic = |magic: &[u8; 4]| Gguf { magic: *magic, ..right() }.bytes();
    refused!(
        gguf_error(&magic(b"FUGG")),
        Error::WrongFormat { .. },
        GGUF_NAME,
        "bytes at 0",
        "\"FUGG\"",
        "GGUF"
    );
    refused!(gguf_error(&magic(b"tjgg")), Error::WrongFormat { .. }, "before GGUF", "convert");
    refused!(gguf_error(&magic(b"\x1b[2J")), Error::WrongFormat { .. }, "\\x1b[2J");
    for version in [0_u32, 1, 4, u32::MAX] {
        let file = Gguf { version: version.to_le_bytes(), ..right() };
        refused!(gguf_error(&file.bytes()), Error::UnsupportedVersion { version: found, .. } if found == version, GGUF_NAME, "byte 4", "convert");
    }
    let file = Gguf { version: 3_u32.to_be_bytes(), ..right() };
    refused!(
        gguf_error(&file.bytes()),
        Error::BigEndian { .. },
        GGUF_NAME,
        "byte 4",
        "gguf-convert-endian"
    );
    let second = Gguf { version: 2_u32.to_le_bytes(), ..right() };
    assert_eq!(parse(&second.bytes(), GGUF_NAME).unwrap().version, 2);
}

#[test]
fn counts_beyond_the_file() {
    for count in [u64::MAX, 1 << 60] {
        let file = Gguf { tensor_count: Some(count), ..right() };
        refused!(gguf_error(&file.bytes()), Error::Limit { value, .. } if value == count, GGUF_NAME, "tensor count at byte 8");
        let file = Gguf { key_count: Some(count), ..right() };
        refused!(gguf_error(&file.bytes()), Error::Limit { value, .. } if value == count, "key count at byte 16");
    }
    let file = Gguf { tensor_count: Some(1000), ..right() };
    refused!(
        gguf_error(&file.bytes()),
        Error::UnexpectedEnd { needed: 33_000, .. },
        "tensor count of 1000 at byte 8"
    );
    let file = Gguf { key_count: Some(1000), ..right() };
    refused!(
        gguf_error(&file.bytes()),
        Error::UnexpectedEnd { needed: 14_000, .. },
        "key count of 1000 at byte 16"
    );
}

#[test]
fn string_lengths_beyond_the_file() {
    for len in [u64::MAX, 1 << 63] {
        let file = Gguf::new().raw_key([&len.to_le_bytes()[..], &[0; 16]].concat());
        refused!(
            gguf_error(&file.bytes()),
            Error::Limit { .. },
            GGUF_NAME,
            "length of key 0 at byte 24"
        );
        let file = Gguf::new().key(b"general.name", STRING, &len.to_le_bytes());
        refused!(gguf_error(&file.bytes()), Error::UnexpectedEnd { needed, .. } if needed == len, "\"general.name\"", "at byte 56");
        let file = Gguf::new().raw_tensor([&len.to_le_bytes()[..], &[0; 40]].concat());
        refused!(
            gguf_error(&file.bytes()),
            Error::Limit { .. },
            "length of tensor name 0 at byte 24"
        );
    }
    let file =
        Gguf::new().key(b"general.name", STRING, &[&5_u64.to_le_bytes()[..], b"four"].concat());
    refused!(
        gguf_error(&file.header()),
        Error::UnexpectedEnd { needed: 5, available: 4, .. },
        "general.name"
    );
}

#[test]
fn keys_that_are_not_names() {
    let key = |key: &[u8]| Gguf::new().key(key, U8, &[1]).bytes();
    refused!(gguf_error(&key(b"")), Error::Header { .. }, GGUF_NAME, "key 0 at byte 24", "empty");
    refused!(
        gguf_error(&key(&[b'k'; 65_536])),
        Error::Limit { value: 65_536, .. },
        "length of key 0 at byte 24"
    );
    refused!(gguf_error(&key(b"a\xff")), Error::Header { .. }, "key 0 at byte 24", "not UTF-8");
    refused!(
        gguf_error(&key(b"a\0b")),
        Error::Header { .. },
        "key 0 at byte 24",
        "a\\0b",
        "control"
    );
    refused!(
        gguf_error(&key(b"\x1b[31m\n")),
        Error::Header { .. },
        "key 0 at byte 24",
        "\\u{1b}[31m\\n"
    );
    assert!(parse(&key(&[b'k'; 65_535]), GGUF_NAME).is_ok());
}

#[test]
fn all_keys_together_are_bounded() {
    let mut file = Gguf::new();
    for index in 0..140 {
        let mut key = vec![b'k'; 65_000];
        key.extend(format!("{index}").as_bytes());
        file = file.key(&key, U8, &[1]);
    }
    refused!(gguf_error(&file.bytes()), Error::Limit { .. }, GGUF_NAME, "all keys together");
}

#[test]
fn values_that_are_not_of_their_type() {
    for id in [13, 255, u32::MAX] {
        let file = Gguf::new().key(b"a.b", id, &[0; 8]);
        refused!(
            gguf_error(&file.bytes()),
            Error::Key { .. },
            GGUF_NAME,
            "\"a.b\" at byte 35",
            &format!("type {id}")
        );
        let file = Gguf::new().key(b"a.b", ARRAY, &array(id, 1 << 60, &[]));
        refused!(
            gguf_error(&file.bytes()),
            Error::Key { .. },
            "\"a.b\" at byte 39",
            &format!("type {id}")
        );
    }
    let file = Gguf::new().key(b"a.b", BOOL, &[2]);
    refused!(gguf_error(&file.bytes()), Error::Key { .. }, "\"a.b\" at byte 39", "not 2");
    let file = Gguf::new().key(b"a.b", ARRAY, &array(BOOL, 3, &[0, 1, 255]));
    refused!(gguf_error(&file.bytes()), Error::Key { .. }, "\"a.b\" at byte 53", "not 255");
    let file = Gguf::new().key(b"a.b", STRING, &string(b"\xc3\x28"));
    refused!(gguf_error(&file.bytes()), Error::Key { .. }, "\"a.b\" at byte 39", "not UTF-8");
    let file = Gguf::new().key(
        b"a.b",
        ARRAY,
        &array(STRING, 2, &[string(b"ok"), string(b"\xff")].concat()),
    );
    refused!(gguf_error(&file.bytes()), Error::Key { .. }, "\"a.b\" at byte 61", "not UTF-8");
}

#[test]
fn arrays_beyond_the_file() {
    for element in [U8, U32, BOOL, STRING, ARRAY, 12] {
        let file = Gguf::new().key(b"a.b", ARRAY, &array(element, 1 << 60, &[]));
        refused!(
            gguf_error(&file.bytes()),
            Error::Limit { value: 0x1000_0000_0000_0000, .. },
            "\"a.b\" at byte 43"
        );
        let file = Gguf::new().key(b"a.b", ARRAY, &array(element, 1 << 20, &[]));
        refused!(gguf_error(&file.bytes()), Error::UnexpectedEnd { .. }, GGUF_NAME, "\"a.b\"");
    }
}

#[test]
fn arrays_of_arrays_without_end() {
    let nested = array(ARRAY, 1, &[]).repeat(10_000);
    let file = Gguf::new().key(b"a.b", ARRAY, &nested);
    refused!(gguf_error(&file.bytes()), Error::Limit { .. }, GGUF_NAME, "nested arrays", "\"a.b\"");
    // Two levels are no attack.
    let file = Gguf::new().key(
        b"a.b",
        ARRAY,
        &array(ARRAY, 2, &[array(U8, 1, &[7]), array(U8, 0, &[])].concat()),
    );
    let opened = GgufFile::from_bytes(file.bytes(), GGUF_NAME).unwrap();
    let Some(Value::Array(outer)) = opened.metadata().value("a.b").unwrap() else {
        panic!("not an array")
    };
    let lengths: Vec<usize> = outer.iter().map(|inner| inner.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [1, 0]);
}

#[test]
fn the_same_key_twice() {
    let file = u32_key("a.b", 1).key(b"a.b", U8, &[1]);
    refused!(
        gguf_error(&file.bytes()),
        Error::DuplicateKey { .. },
        GGUF_NAME,
        "\"a.b\"",
        "at byte 43"
    );
}

#[test]
fn alignments_that_are_none() {
    for alignment in [0, 3, 4, 13, 1 << 31] {
        let file = u32_key("general.alignment", alignment);
        refused!(
            gguf_error(&file.bytes()),
            Error::Key { .. },
            GGUF_NAME,
            "general.alignment",
            "at byte 24",
            &alignment.to_string()
        );
    }
    let file = Gguf::new().key(b"general.alignment", I32, &32_i32.to_le_bytes());
    refused!(
        gguf_error(&file.bytes()),
        Error::KeyType { .. },
        GGUF_NAME,
        "general.alignment",
        "a u32",
        "the i32 32"
    );
    let file = Gguf::new().key(b"general.alignment", STRING, &string(b"32"));
    refused!(
        gguf_error(&file.bytes()),
        Error::KeyType { .. },
        "general.alignment",
        "the string \"32\""
    );
    let mut file = u32_key("general.alignment", 8)
        .tensor(b"t", &[2], F32, 0)
        .tensor(b"u", &[2], F32, 8)
        .data(&[0; 16]);
    file.alignment = 8;
    assert_eq!(parse(&file.bytes(), GGUF_NAME).unwrap().alignment, 8);
}

#[test]
fn dimensions_that_are_none() {
    for count in [0_u32, 5, u32::MAX] {
        let mut bytes = string(b"t");
        bytes.extend(count.to_le_bytes());
        bytes.extend([1; 64]);
        let file = Gguf::new().raw_tensor(bytes);
        refused!(
            gguf_error(&file.bytes()),
            Error::Tensor { field: "dimensions", .. },
            GGUF_NAME,
            "\"t\"",
            "byte 33",
            &format!("{count} of them")
        );
    }
    let file = Gguf::new().tensor(b"t", &[4, 0], F32, 0).data(&[0; 32]);
    refused!(
        gguf_error(&file.bytes()),
        Error::Tensor { field: "dimensions", .. },
        "\"t\"",
        "dimension 1 is 0"
    );
    let int32_max = u64::from(u32::MAX >> 1);
    for dims in
        [vec![u64::MAX], vec![1 << 63], vec![4 * int32_max, 4 * int32_max], vec![1 << 62, 4, 1, 1]]
    {
        let file = Gguf::new().tensor(b"t", &dims, F32, 0).data(&[0; 32]);
        refused!(
            gguf_error(&file.bytes()),
            Error::Tensor { field: "dimensions", .. },
            "\"t\"",
            "2^63-1"
        );
    }
    // The number of elements fits, their bytes do not.
    let file = Gguf::new().tensor(b"t", &[i64::MAX as u64], F32, 0).data(&[0; 32]);
    refused!(
        gguf_error(&file.bytes()),
        Error::Tensor { field: "dimensions", .. },
        "\"t\"",
        "the size below 2^64"
    );
}

#[test]
fn sizes_whose_sum_wraps() {
    let half = 0x7FFF_FFFF_FFFF_FFC0 / 4;
    let file = Gguf::new()
        .tensor(b"t", &[half], F32, 0)
        .tensor(b"u", &[half], F32, 0x7FFF_FFFF_FFFF_FFC0)
        .tensor(b"v", &[32], F32, 0xFFFF_FFFF_FFFF_FF80)
        .data(&[0; 128]);
    refused!(
        gguf_error(&file.bytes()),
        Error::Tensor { field: "offset", .. },
        GGUF_NAME,
        "\"t\"",
        "9223372036854775744"
    );
}

#[test]
fn rows_that_are_not_whole_blocks() {
    for (id, name, dims) in [
        (2, "Q4_0", [16, 2]),
        (8, "Q8_0", [31, 32]),
        (14, "Q6_K", [128, 2]),
        (34, "TQ1_0", [255, 256]),
        (35, "TQ2_0", [128, 2]),
        (36, "I2_S", [3, 5]),
        (42, "Q2_0", [32, 4]),
    ] {
        let file = Gguf::new().tensor(b"t", &dims, id, 0).data(&[0; 8192]);
        refused!(
            gguf_error(&file.bytes()),
            Error::Tensor { field: "dimensions", .. },
            GGUF_NAME,
            "\"t\"",
            name,
            "multiple"
        );
    }
}

#[test]
fn types_that_are_not_read() {
    let file =
        |id: u32| gguf_error(&Gguf::new().tensor(b"t", &[256], id, 0).data(&[0; 1024]).bytes());
    for (id, name, advice) in [
        (12, "Q4_K", "llama-quantize"),
        (4, "Q4_2", "removed"),
        (31, "Q4_0_4_4", "removed"),
        (37, "I8_S", "write the model again"),
        (38, "TL1 (bitnet.cpp)", "i2_s"),
        (39, "TL2 (bitnet.cpp) or MXFP4 (ggml)", "i2_s"),
        (135, "IQ2_BN", "ik_llama"),
        (43, "unknown type id 43", "newer"),
        (u32::MAX, "unknown type id 4294967295", "newer"),
    ] {
        refused!(
            file(id),
            Error::UnsupportedType { .. },
            GGUF_NAME,
            "\"t\"",
            "at byte 45",
            name,
            advice
        );
    }
}

#[test]
fn offsets_that_point_elsewhere() {
    let at = |offset: u64| {
        gguf_error(&Gguf::new().tensor(b"t", &[8], F32, offset).data(&[0; 64]).bytes())
    };
    refused!(
        at(u64::MAX),
        Error::Tensor { field: "offset", .. },
        GGUF_NAME,
        "\"t\"",
        "byte 49",
        "18446744073709551615"
    );
    refused!(at(u64::MAX - 31), Error::Tensor { field: "offset", .. }, "\"t\"", "end of the file");
    refused!(
        at(16),
        Error::Tensor { field: "offset", .. },
        "\"t\"",
        "byte 49",
        "not a multiple of the alignment 32"
    );
    refused!(at(64), Error::Tensor { field: "offset", .. }, "\"t\"", "end of the file");
    refused!(at(32), Error::Tensor { field: "data", .. }, "\"t\"", "hole", "the header");

    let two = |first: u64, second: u64, data: usize| {
        let file = Gguf::new().tensor(b"t", &[16], F32, first).tensor(b"u", &[16], F32, second);
        file.data(&vec![0; data]).bytes()
    };
    refused!(
        gguf_error(&two(0, 32, 128)),
        Error::Tensor { field: "data", .. },
        "\"u\"",
        "overlaps t"
    );
    refused!(gguf_error(&two(0, 0, 64)), Error::Tensor { field: "data", .. }, "overlaps");
    refused!(gguf_error(&two(0, 96, 160)), Error::Tensor { field: "data", .. }, "\"u\"", "hole");
    // Another order than that of the descriptions leads nobody astray.
    let parsed = parse(&two(64, 0, 128), GGUF_NAME).unwrap();
    assert_eq!(parsed.tensors[0].offset, parsed.tensors[1].offset + 64);
}

#[test]
fn data_too_short_or_too_long() {
    let whole = right().bytes();
    refused!(
        gguf_error(&whole[..whole.len() - 1]),
        Error::Tensor { field: "offset", .. },
        GGUF_NAME,
        "\"t\"",
        "end of the file"
    );
    let long = [&whole[..], b"PK\x03\x04"].concat();
    refused!(
        gguf_error(&long),
        Error::Header { .. },
        GGUF_NAME,
        "4 bytes follow the last tensor",
        &whole.len().to_string()
    );
    // Padding behind the last tensor is usual, and so is its absence.
    let short = Gguf::new().tensor(b"t", &[1], F32, 0);
    assert!(parse(&short.clone().data(&[0; 4]).bytes(), GGUF_NAME).is_ok());
    assert!(parse(&short.data(&[0; 32]).bytes(), GGUF_NAME).is_ok());
}

#[test]
fn tensor_names_that_are_none() {
    let name =
        |name: &[u8]| gguf_error(&Gguf::new().tensor(name, &[8], F32, 0).data(&[0; 32]).bytes());
    refused!(name(b""), Error::Header { .. }, GGUF_NAME, "tensor name 0 at byte 24", "empty");
    refused!(
        name(&[b'n'; 65]),
        Error::Limit { value: 65, limit: 64, .. },
        "tensor name 0 at byte 24"
    );
    refused!(name(b"a\xffb"), Error::Header { .. }, "tensor name 0 at byte 24", "UTF-8");
    refused!(
        name(b"\x1b]0;x\x07"),
        Error::Header { .. },
        "tensor name 0 at byte 24",
        "\\u{1b}]0;x"
    );
    refused!(name(b"a\nb"), Error::Header { .. }, "a\\nb");
    refused!(
        name(b"../../etc/passwd"),
        Error::Tensor { field: "name", .. },
        "../../etc/passwd",
        "path"
    );
    let twice = Gguf::new().tensor(b"t", &[8], F32, 0).tensor(b"t", &[8], F32, 32).data(&[0; 64]);
    refused!(
        gguf_error(&twice.bytes()),
        Error::DuplicateTensor { .. },
        GGUF_NAME,
        "\"t\"",
        "at byte 57"
    );
    let longest = Gguf::new().tensor(&[b'n'; 64], &[8], F32, 0).data(&[0; 32]);
    assert!(parse(&longest.bytes(), GGUF_NAME).is_ok());
}

#[test]
fn packed_bytes_are_handed_out_as_they_are() {
    // Reserved codes and a scale that is not a number are for the codec to judge; the container must not change them.
    let mut data = vec![0xFF; 64];
    data.extend(f32::NAN.to_le_bytes());
    data.resize(96, 0xAA);
    let file = Gguf::new().tensor(b"t", &[128, 2], 36, 0).data(&data).bytes();
    let opened = GgufFile::from_bytes(file, GGUF_NAME).unwrap();
    let tensor = opened.tensor("t").unwrap();
    assert_eq!((tensor.ggml_type, tensor.nbytes), (GgmlType::I2S, 96));
    assert_eq!(*opened.data(tensor).unwrap(), *data);
}

#[test]
fn q2_0_blocks_are_told_apart_by_room() {
    // 9 rows of 128: 324 bytes in blocks of 64 (352 padded), 306 in blocks of 128 (320 padded).
    let model = |sizes: &[(u64, u64)]| {
        let mut file = Gguf::new();
        let mut offset = 0;
        for (index, (rows, nbytes)) in sizes.iter().enumerate() {
            file = file.tensor(format!("t{index}").as_bytes(), &[128, *rows], 42, offset);
            offset += nbytes.next_multiple_of(32);
        }
        file.data(&vec![0; offset as usize]).bytes()
    };
    let types = |bytes: &[u8]| -> Vec<GgmlType> {
        parse(bytes, GGUF_NAME).unwrap().tensors.iter().map(|tensor| tensor.ggml_type).collect()
    };
    assert_eq!(types(&model(&[(9, 324)])), [GgmlType::Q2_0G64]);
    assert_eq!(types(&model(&[(9, 306)])), [GgmlType::Q2_0G128]);
    // One row is 36 or 34 bytes, 64 padded: its neighbours decide.
    assert_eq!(types(&model(&[(1, 34), (9, 306)])), [GgmlType::Q2_0G128; 2]);
    assert_eq!(types(&model(&[(9, 324), (1, 36)])), [GgmlType::Q2_0G64; 2]);
    refused!(
        gguf_error(&model(&[(1, 36)])),
        Error::Tensor { field: "type", .. },
        GGUF_NAME,
        "\"t0\"",
        "64-weight",
        "128-weight"
    );
    refused!(gguf_error(&model(&[(9, 200)])), Error::Tensor { .. }, "\"t0\"");
}

fn write_shard(folder: &std::path::Path, name: &str, keys: [u32; 3], tensor: &str) {
    let mut writer = GgufWriter::new();
    for (key, value) in ["split.no", "split.count", "split.tensors.count"].into_iter().zip(keys) {
        writer.put(key, Value::U32(value)).unwrap();
    }
    writer.add_tensor(tensor, &[2], GgmlType::F32).unwrap();
    writer.write(&folder.join(name), |_, sink| sink.write_all(&[tensor.as_bytes()[0]; 8])).unwrap();
}

const SHARDS: [&str; 3] =
    ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];

fn split_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, name) in (0_u32..).zip(SHARDS) {
        write_shard(folder.path(), name, [index, 3, 3], ["a", "b", "c"][index as usize]);
    }
    folder
}

#[test]
fn a_split_model_opens_from_its_first_file() {
    let folder = split_model();
    let model = GgufFile::open(&folder.path().join(SHARDS[0])).unwrap();
    assert_eq!(model.files().len(), 3);
    for name in ["a", "b", "c"] {
        assert_eq!(*model.data(model.tensor(name).unwrap()).unwrap(), [name.as_bytes()[0]; 8]);
    }
    model.check().unwrap();
}

#[test]
fn split_models_with_wrong_parts() {
    let open = |folder: &tempfile::TempDir, name: &str| {
        GgufFile::open(&folder.path().join(name)).unwrap_err()
    };

    let folder = split_model();
    refused!(
        open(&folder, SHARDS[1]),
        Error::Shard { .. },
        SHARDS[1],
        "not the first file",
        SHARDS[0]
    );
    std::fs::remove_file(folder.path().join(SHARDS[2])).unwrap();
    refused!(open(&folder, SHARDS[0]), Error::Shard { .. }, SHARDS[0], SHARDS[2], "missing");

    let folder = split_model();
    std::fs::copy(folder.path().join(SHARDS[1]), folder.path().join(SHARDS[2])).unwrap();
    refused!(
        open(&folder, SHARDS[0]),
        Error::Shard { .. },
        SHARDS[2],
        "should be file 3 of 3",
        "file 2 of 3 by its keys"
    );

    let folder = split_model();
    write_shard(folder.path(), SHARDS[2], [2, 3, 3], "b");
    refused!(open(&folder, SHARDS[0]), Error::DuplicateTensor { .. }, SHARDS[2], "\"b\"");

    let folder = split_model();
    write_shard(folder.path(), SHARDS[0], [0, 3, 4], "a");
    refused!(
        open(&folder, SHARDS[0]),
        Error::Shard { .. },
        "split.tensors.count",
        "4 tensors",
        "3"
    );

    let folder = split_model();
    write_shard(folder.path(), SHARDS[0], [0, 65_535, 3], "a");
    refused!(open(&folder, SHARDS[0]), Error::Shard { .. }, SHARDS[0], "65535");
    write_shard(folder.path(), "m-00001-of-65535.gguf", [0, 65_535, 3], "a");
    refused!(
        open(&folder, "m-00001-of-65535.gguf"),
        Error::Limit { value: 65_535, .. },
        "split.count"
    );

    let folder = split_model();
    std::fs::rename(folder.path().join(SHARDS[0]), folder.path().join("renamed.gguf")).unwrap();
    refused!(open(&folder, "renamed.gguf"), Error::Shard { .. }, "renamed.gguf", "00001-of-00003");

    let bytes = std::fs::read(folder.path().join(SHARDS[1])).unwrap();
    let error = GgufFile::from_bytes(bytes, GGUF_NAME).unwrap_err();
    refused!(error, Error::Shard { .. }, GGUF_NAME, "2 of 3", "path");
}

#[test]
fn pickles_are_refused_whatever_they_are_called() {
    refused!(
        gguf_error(b"PK\x03\x04\x14\0\x08\x08archive/data.pkl"),
        Error::Pickle { .. },
        GGUF_NAME,
        "zip",
        ".safetensors"
    );
    refused!(
        gguf_error(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
        Error::Pickle { .. },
        GGUF_NAME,
        "pickle"
    );
}
