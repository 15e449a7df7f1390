//! Invalid GGUF files: each error names file, field or tensor, and offset.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use bitnet_formats::gguf::{Value, parse};
use bitnet_formats::{Error, GgufFile};
use support::*;

const F32: u32 = 0;

fn u32_key(key: &str, value: u32) -> Gguf {
    Gguf::new().key(key.as_bytes(), U32, &value.to_le_bytes())
}

/// Returns a minimal valid file with one f32 tensor of eight elements, which the invalid files modify.
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
    // Two levels are valid.
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
fn pickles_are_rejected_under_any_name() {
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
