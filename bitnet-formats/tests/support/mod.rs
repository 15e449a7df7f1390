//! Builders of valid and invalid container files, and checks of every error.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::path::PathBuf;

use bitnet_formats::{Error, GgufFile, SafeTensors, gguf, safetensors};

/// Names that messages must contain.
pub(crate) const GGUF_NAME: &str = "hostile.gguf";
pub(crate) const SAFETENSORS_NAME: &str = "hostile.safetensors";

/// Ids of metadata types.
pub(crate) const U8: u32 = 0;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

/// Returns a length, then the bytes.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = (bytes.len() as u64).to_le_bytes().to_vec();
    encoded.extend(bytes);
    encoded
}

/// Element type, count, elements.
pub(crate) fn array(element: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    let mut encoded = element.to_le_bytes().to_vec();
    encoded.extend(count.to_le_bytes());
    encoded.extend(elements);
    encoded
}

/// A GGUF file, written field by field without validation.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: [u8; 4],
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
    pub(crate) alignment: usize,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3_u32.to_le_bytes(),
            tensor_count: None,
            key_count: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Bytes instead of a key with its value.
    pub(crate) fn raw_key(mut self, bytes: Vec<u8>) -> Self {
        self.keys.push(bytes);
        self
    }

    pub(crate) fn key(self, key: &[u8], value_type: u32, value: &[u8]) -> Self {
        let mut bytes = string(key);
        bytes.extend(value_type.to_le_bytes());
        bytes.extend(value);
        self.raw_key(bytes)
    }

    /// Bytes instead of a tensor description.
    pub(crate) fn raw_tensor(mut self, bytes: Vec<u8>) -> Self {
        self.tensors.push(bytes);
        self
    }

    pub(crate) fn tensor(self, name: &[u8], dims: &[u64], type_id: u32, offset: u64) -> Self {
        let mut bytes = string(name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(type_id.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.raw_tensor(bytes)
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.data.extend(data);
        self
    }

    /// Returns the bytes before the data, without padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version);
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// Returns a safetensors file from its JSON text and its data.
pub(crate) fn safetensors_bytes(json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend(data);
    bytes
}

/// Returns the error of a GGUF file, which is equal for bytes and for a mapped file.
pub(crate) fn gguf_error(bytes: &[u8]) -> Error {
    let error = gguf::parse(bytes, GGUF_NAME).expect_err("the file must be refused");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(GGUF_NAME);
    std::fs::write(&path, bytes).unwrap();
    let mapped = GgufFile::open(&path).expect_err("the mapped file must be refused");
    assert_eq!(
        std::mem::discriminant(&error),
        std::mem::discriminant(&mapped),
        "{error} / {mapped}"
    );
    error
}

/// Returns the error of a safetensors file, which is equal for bytes and for a mapped file.
pub(crate) fn safetensors_error(bytes: &[u8]) -> Error {
    let error =
        safetensors::parse_header(bytes, SAFETENSORS_NAME).expect_err("the file must be refused");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SAFETENSORS_NAME);
    std::fs::write(&path, bytes).unwrap();
    let mapped = SafeTensors::open(&path).expect_err("the mapped file must be refused");
    assert_eq!(
        std::mem::discriminant(&error),
        std::mem::discriminant(&mapped),
        "{error} / {mapped}"
    );
    error
}

/// Asserts that a message contains each of `parts`, is short and has no control characters.
pub(crate) fn assert_message(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(message.len() < 1000, "too long: {message}");
    assert!(!message.chars().any(char::is_control), "control characters in {message:?}");
}

/// `refused!(error, PATTERN, parts...)`: variant and message.
#[macro_export]
macro_rules! refused {
    ($error:expr, $pattern:pat $(if $guard:expr)?, $($part:expr),+ $(,)?) => {{
        let error = $error;
        assert!(matches!(error, $pattern $(if $guard)?), "another variant: {error:?}");
        support::assert_message(&error, &[$($part),+]);
    }};
}

/// Returns a file of this crate's golden folder.
pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Parses hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
