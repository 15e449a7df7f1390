//! Any bytes as a safetensors file and as an index: an error or a valid description, never a panic.
#![no_main]

use std::path::{Component, Path};

use bitnet_formats::safetensors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = safetensors::parse_header(bytes, "fuzz.safetensors") {
        let named = header.names(bytes).count();
        assert_eq!(named, header.len());
    }
    if let Ok(index) = safetensors::parse_index(bytes, "fuzz.safetensors.index.json") {
        for (name, file) in &index.tensors {
            let file = index
                .files
                .get(*file)
                .unwrap_or_else(|| panic!("{name} is in no file of the index"));
            let below =
                Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(below && !file.contains('\\'), "{file} leaves the folder");
        }
    }
});
