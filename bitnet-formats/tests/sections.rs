//! Section files: round trips, and rejection of all other files.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::path::Path;

use bitnet_formats::sections::{self, SectionFile};
use proptest::prelude::*;

type Arrays = Vec<(String, Vec<u8>)>;

fn example(path: &Path) -> Arrays {
    let arrays: Arrays = [0usize, 1, 63, 64, 1000, 5000]
        .iter()
        .map(|&len| (format!("array/{len}"), (0..len).map(|i| (i * 7) as u8).collect()))
        .collect();
    let borrowed: Vec<_> = arrays.iter().map(|(name, bytes)| (name.clone(), &bytes[..])).collect();
    sections::write(path, b"made from this", &borrowed).unwrap();
    arrays
}

/// Returns all contents of a file; `None` on the first error.
fn all(path: &Path) -> Option<(Vec<u8>, Arrays)> {
    let file = SectionFile::open(path).ok()?;
    let names: Vec<_> = file.names("").map(str::to_owned).collect();
    let arrays = names
        .into_iter()
        .map(|name| {
            let bytes = file.section(&name).ok()??.to_vec();
            Some((name, bytes))
        })
        .collect::<Option<_>>()?;
    Some((file.key().to_vec(), arrays))
}

#[test]
fn sections_round_trip_at_aligned_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let mut arrays = example(&path);
    arrays.sort();
    assert_eq!(all(&path), Some((b"made from this".to_vec(), arrays)));
    let file = SectionFile::open(&path).unwrap();
    assert_eq!(file.names("array/6").collect::<Vec<_>>(), ["array/63", "array/64"]);
    for name in file.names("") {
        let section = file.section(name).unwrap().unwrap();
        assert!(section.offset().is_multiple_of(sections::ALIGNMENT as u64));
    }
    assert!(file.section("array/2").unwrap().is_none());
    sections::write(&path, b"", &[]).unwrap();
    assert_eq!(all(&path), Some((Vec::new(), Vec::new())));
}

#[test]
fn sections_longer_than_a_piece_of_the_file_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let numbers = |len: usize| (0..len).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>();
    let arrays: Vec<_> = [(2 << 20) - 1000, 5 << 20, 1, (4 << 20) + 7].map(numbers).into();
    let named: Vec<_> =
        arrays.iter().enumerate().map(|(i, a)| (i.to_string(), a.as_slice())).collect();
    sections::write(&path, b"key", &named).unwrap();
    let file = SectionFile::open(&path).unwrap();
    for (name, array) in &named {
        assert!(*file.section(name).unwrap().unwrap() == **array, "{name}");
    }
}

#[test]
fn any_byte_that_is_changed_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    example(&path);
    let whole = all(&path);
    let bytes = std::fs::read(&path).unwrap();
    let other = folder.path().join("b");
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&other, damaged).unwrap();
        // The zeros between sections are never read.
        let found = all(&other);
        assert!(found.is_none() || found == whole, "byte {at}");
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    example(&path);
    let bytes = std::fs::read(&path).unwrap();
    let other = folder.path().join("b");
    for len in (0..bytes.len()).step_by(13).chain([bytes.len() - 1]) {
        std::fs::write(&other, &bytes[..len]).unwrap();
        assert!(SectionFile::open(&other).is_err(), "{len} bytes");
    }
    std::fs::write(&other, [&bytes[..], b"x"].concat()).unwrap();
    assert!(SectionFile::open(&other).is_err());
}

#[cfg(unix)]
#[test]
fn truncation_while_mapped_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let big = vec![7u8; 1 << 20];
    sections::write(&path, b"", &[("big".to_owned(), &big[..])]).unwrap();
    let file = SectionFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let message = file.section("big").unwrap_err().to_string();
    assert!(message.contains("8192"), "{message}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), sound: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut bytes = bytes;
        // A valid header passes the rest to the directory parser.
        if sound && bytes.len() > 64 {
            let len = bytes.len() as u64;
            let directory = sections::checksum(&bytes[64..]);
            let mut header = b"BITNETSC".to_vec();
            header.extend(1u32.to_ne_bytes());
            header.extend(0x0102_0304u32.to_ne_bytes());
            for number in [len, 0, len - 64, directory, 0] {
                header.extend(number.to_ne_bytes());
            }
            let sum = sections::checksum(&header);
            header.extend(sum.to_ne_bytes());
            // Small counts and lengths reach deeper checks.
            bytes[..64].copy_from_slice(&header);
        }
        std::fs::write(&path, &bytes).unwrap();
        drop(all(&path));
    }
}
