//! Any bytes as a GGUF file: an error or a description whose tensors lie inside the file, never a panic.
#![no_main]

use bitnet_formats::gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = gguf::parse(bytes, "fuzz.gguf") {
        assert!(!error.to_string().is_empty());
        return;
    }
    let file =
        gguf::GgufFile::from_bytes(bytes.to_vec(), "fuzz.gguf").expect("parse took these bytes");
    for tensor in file.tensors() {
        file.data(tensor).expect("a described tensor lies inside the file");
    }
});
