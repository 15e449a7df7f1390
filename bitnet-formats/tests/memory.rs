//! Memory of the largest valid headers (at most the file's size plus 64 MiB), and release of pages.
//!
//! One test per process, because the high-water mark of resident memory belongs to the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod support;

use std::fmt::Write as _;
use std::path::Path;

use bitnet_formats::{Error, GgufFile, SafeTensors};

const ALLOWANCE: u64 = 64 << 20;

/// Returns a line of `/proc/self/status` in bytes.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Returns the peak resident memory added by `open`.
fn peak_of<T>(open: impl FnOnce() -> T) -> (u64, T) {
    // 5 resets the high-water mark.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let opened = open();
    (status("VmHWM").saturating_sub(before), opened)
}

fn write_file(path: &Path, bytes: Vec<u8>) -> u64 {
    std::fs::write(path, &bytes).unwrap();
    bytes.len() as u64
}

#[test]
fn memory_is_bounded_and_given_back() {
    headers_take_no_more_than_their_file_and_64_mib();
    released_pages_leave_the_resident_set();
}

fn headers_take_no_more_than_their_file_and_64_mib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let many = |count: usize| {
        let mut json = String::from("{");
        for index in 0..count {
            write!(json, r#""layers.{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#)
                .unwrap();
        }
        json.replace_range(json.len() - 1.., "}");
        write_file(&path, support::safetensors_bytes(&json, &[]))
    };
    let len = many(1_000_000);
    let (peak, model) = peak_of(|| SafeTensors::open(&path).unwrap());
    assert_eq!(model.len(), 1_000_000);
    assert_eq!(model.tensor("layers.999999").unwrap().shape, [0]);
    assert!(peak <= len + ALLOWANCE, "{peak} for a file of {len}");
    drop(model);

    let len = many((1 << 20) + 1);
    let (peak, refusal) = peak_of(|| SafeTensors::open(&path).unwrap_err());
    refused!(refusal, Error::Limit { .. }, "model.safetensors", "number of tensors");
    assert!(peak <= len + ALLOWANCE, "{peak} for a file of {len}");

    let path = folder.path().join("model.gguf");
    let mut file = support::Gguf::new();
    for index in 0_u64..1 << 17 {
        file = file.tensor(format!("t{index}").as_bytes(), &[1, 1, 1, 1], 0, index * 32);
    }
    let len = write_file(&path, file.data(&vec![0; 32 << 17]).bytes());
    let (peak, model) = peak_of(|| GgufFile::open(&path).unwrap());
    assert_eq!(model.tensors().len(), 1 << 17);
    assert!(peak <= len + ALLOWANCE, "{peak} for a file of {len}");
    drop(model);

    let mut file = support::Gguf::new();
    let strings = support::array(support::STRING, 1 << 22, &[0; 8 << 22]);
    for index in 0..2 {
        file = file.key(format!("k{index}").as_bytes(), support::ARRAY, &strings);
    }
    let len = write_file(&path, file.bytes());
    drop((file, strings));
    let (peak, model) = peak_of(|| GgufFile::open(&path).unwrap());
    assert_eq!(model.metadata().opt_array_len("k1").unwrap(), Some(1 << 22));
    assert!(peak <= len + ALLOWANCE, "{peak} for a file of {len}");
}

/// Released pages leave the resident set.
fn released_pages_leave_the_resident_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    write_file(&path, vec![7; 64 << 20]);
    let region = bitnet_formats::MappedFile::open(&path).unwrap().region();
    let resident = || status("RssFile");
    let before = resident();
    assert!(region.iter().all(|&byte| byte == 7));
    assert!(resident() >= before + (60 << 20), "reading makes the pages resident");
    region.release();
    assert!(resident() < before + (8 << 20), "releasing takes them out");
    assert!(region.iter().all(|&byte| byte == 7), "and reading brings them back");
}
