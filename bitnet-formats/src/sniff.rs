//! Detection of file formats by their first bytes.

use crate::error::{Error, Result};

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// A GGUF file, of any version.
    Gguf,
    /// A safetensors file.
    SafeTensors,
    /// A zip archive with a pickle, PyTorch's format since version 1.6.
    Zip,
    /// A bare pickle, PyTorch's earlier format.
    Pickle,
    /// Unknown.
    Unknown,
}

impl Format {
    /// Detects the format from the first bytes of a file; nine suffice.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // A safetensors file begins with a length, which may look like any other format; its ninth byte decides.
        let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
        let json = bytes.get(8) == Some(&b'{') && length.is_some_and(|length| length < 1 << 32);
        match bytes {
            [b'G', b'G', b'U', b'F', ..] => Self::Gguf,
            _ if json => Self::SafeTensors,
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Self::Zip,
            [0x80, 0..=5, ..] => Self::Pickle,
            _ => Self::Unknown,
        }
    }
}

/// Rejects pickles.
pub(crate) fn refuse_pickle(bytes: &[u8], file: &str) -> Result<()> {
    let kind = match Format::of(bytes) {
        Format::Zip => "a zip archive, as PyTorch saves them",
        Format::Pickle => "a pickle, as PyTorch saves them",
        _ => return Ok(()),
    };
    Err(Error::Pickle { file: file.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_lengths_that_resemble_pickles_are_safetensors() {
        let mut bytes = 640_u64.to_le_bytes().to_vec();
        assert_eq!(Format::of(&bytes), Format::Pickle, "80 02 ... and nothing that contradicts it");
        bytes.push(b'{');
        assert_eq!(Format::of(&bytes), Format::SafeTensors);
        assert_eq!(Format::of(b"PK\x03\x04\x14\0\0\0\0\0"), Format::Zip);
        assert_eq!(Format::of(b"GGUF"), Format::Gguf);
        assert_eq!(Format::of(b""), Format::Unknown);
    }
}
