//! GGUF files with invalid tensor descriptions: each error names file, tensor, field and offset.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use bitnet_formats::gguf::{GgmlType, TrailingBytes, parse};
use bitnet_formats::{Error, GgufFile};
use support::*;

const F32: u32 = 0;

/// A minimal valid file with one f32 tensor of eight elements, which the invalid files modify.
fn right() -> Gguf {
    Gguf::new().tensor(b"t", &[8], F32, 0).data(&[0; 32])
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
        (41, "Q1_0", [64, 4]),
        (42, "Q2_0", [32, 4]),
        (142, "PQ2_0", [64, 4]),
        (143, "PTQ1_0", [64, 4]),
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
        (43, "unknown type id 43", "newer"),
        (144, "unknown type id 144", "newer"),
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
    // Data in another order than the descriptions is valid.
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
    // Bytes after the last tensor are unused; llama.cpp and gguf-py read such files.
    let parsed = |tail: &[u8]| parse(&[&whole[..], tail].concat(), GGUF_NAME).unwrap().trailing;
    assert_eq!(parsed(b""), TrailingBytes { count: 0, zeros: true });
    assert_eq!(parsed(b"PK\x03\x04"), TrailingBytes { count: 4, zeros: false });
    assert_eq!(parsed(&[0; 4096]), TrailingBytes { count: 4096, zeros: true });
    // Padding after the last tensor is optional.
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
fn packed_bytes_are_returned_unchanged() {
    // The codec judges reserved codes and NaN scales; the container must not change them.
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
    // The same blocks of 128 under an id of their own need no telling apart.
    let own = Gguf::new().tensor(b"t", &[128, 1], 142, 0).data(&[0; 64]).bytes();
    assert_eq!(types(&own), [GgmlType::Pq2_0]);
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
