//! The storage types of tensors: one table of names, GGUF ids and properties.

use std::fmt;
use std::str::FromStr;

use super::TernaryStorage;
use super::dense::DenseType;
use super::i2_s::I2sLayout;
use crate::{Error, Result};

/// A storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Trits with their scales.
    Ternary(TernaryStorage),
    /// A dense type.
    Dense(DenseType),
}

/// One line of [`STORAGES`].
struct Entry {
    name: &'static str,
    storage: Storage,
    /// The id in GGUF files.
    ggml_id: u32,
    /// Whether scales are rounded to f16.
    f16_scales: bool,
}

const fn ternary(name: &'static str, storage: TernaryStorage, ggml_id: u32, f16: bool) -> Entry {
    Entry { name, storage: Storage::Ternary(storage), ggml_id, f16_scales: f16 }
}

const fn dense(name: &'static str, storage: DenseType, ggml_id: u32) -> Entry {
    Entry { name, storage: Storage::Dense(storage), ggml_id, f16_scales: false }
}

/// Every storage type.
const STORAGES: [Entry; 19] = [
    ternary("i2_s", TernaryStorage::I2S(I2sLayout::X86), 36, false),
    ternary("i2_s-arm64", TernaryStorage::I2S(I2sLayout::Arm64), 36, false),
    ternary("i2_s-x4", TernaryStorage::I2S(I2sLayout::X4), 36, false),
    ternary("tq1_0", TernaryStorage::TQ1_0, 34, true),
    ternary("tq2_0", TernaryStorage::TQ2_0, 35, true),
    ternary("q2_0", TernaryStorage::Q2_0 { block: 64 }, 42, true),
    ternary("q2_0-g128", TernaryStorage::Q2_0 { block: 128 }, 42, true),
    ternary("pq2_0", TernaryStorage::PQ2_0, 142, true),
    ternary("ptq1_0", TernaryStorage::PTQ1_0, 143, true),
    ternary("q1_0", TernaryStorage::Q1_0, 41, true),
    ternary("iq1_bn", TernaryStorage::IQ1_BN, 134, true),
    ternary("iq2_bn", TernaryStorage::IQ2_BN, 135, false),
    ternary("iq2_bn_r4", TernaryStorage::IQ2_BN_R4, 335, false),
    dense("f32", DenseType::F32, 0),
    dense("f16", DenseType::F16, 1),
    dense("bf16", DenseType::BF16, 30),
    dense("q8_0", DenseType::Q8_0, 8),
    dense("q6_k", DenseType::Q6_K, 14),
    dense("q4_0", DenseType::Q4_0, 2),
];

impl Storage {
    /// Returns the storage of a GGUF type by its id. The files do not tell the layout of I2_S (id 36) and the block of
    /// Q2_0 (id 42), so `layout` and `block` do.
    #[must_use]
    pub fn of_ggml(id: u32, layout: I2sLayout, block: u64) -> Option<Self> {
        let fits = |storage| match storage {
            Self::Ternary(TernaryStorage::I2S(found)) => found == layout,
            Self::Ternary(TernaryStorage::Q2_0 { block: found }) => found as u64 == block,
            _ => true,
        };
        let entry = STORAGES.iter().find(|entry| entry.ggml_id == id && fits(entry.storage));
        entry.map(|entry| entry.storage)
    }

    /// Returns the id in GGUF files.
    #[must_use]
    pub fn ggml_id(self) -> Option<u32> {
        self.entry().map(|entry| entry.ggml_id)
    }

    /// Returns the names that [`Storage::from_str`] accepts.
    pub fn names() -> impl Iterator<Item = &'static str> {
        STORAGES.iter().map(|entry| entry.name)
    }

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().map_or("unknown", |entry| entry.name)
    }

    /// Returns whether scales are rounded to f16.
    #[must_use]
    pub fn has_f16_scales(self) -> bool {
        self.entry().is_some_and(|entry| entry.f16_scales)
    }

    /// Returns the bytes of a stored `[rows, cols]` matrix.
    ///
    /// # Errors
    /// Errors of the codec: an unsupported shape.
    pub fn size(self, rows: usize, cols: usize) -> Result<usize> {
        match self {
            Self::Ternary(storage) => storage.size(rows, cols),
            Self::Dense(dense) => dense.size(rows, cols),
        }
    }

    fn entry(self) -> Option<&'static Entry> {
        STORAGES.iter().find(|entry| entry.storage == self)
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Storage {
    type Err = Error;

    /// Parses a name, ignoring case and treating `-` as `_`.
    fn from_str(text: &str) -> Result<Self> {
        let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
        let known = STORAGES.iter().find(|entry| plain(entry.name) == plain(text));
        known.map(|entry| entry.storage).ok_or_else(|| Error::UnknownStorage {
            name: text.escape_debug().to_string(),
            known: Self::names().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in Storage::names() {
            assert_eq!(name.parse::<Storage>().unwrap().to_string(), name);
            assert_eq!(name.to_uppercase().parse::<Storage>().unwrap().name(), name);
        }
        assert_eq!("PTQ1-0".parse::<Storage>().unwrap().name(), "ptq1_0");
        assert_eq!("Q2_0_G128".parse::<Storage>().unwrap().name(), "q2_0-g128");
        let error = "q3".parse::<Storage>().unwrap_err().to_string();
        assert!(error.contains("q3") && error.contains("tq2_0"), "{error}");
    }

    #[test]
    fn ggml_ids_round_trip() {
        for name in Storage::names() {
            let storage: Storage = name.parse().unwrap();
            let (layout, block) = match storage {
                Storage::Ternary(TernaryStorage::I2S(layout)) => (layout, 0),
                Storage::Ternary(TernaryStorage::Q2_0 { block }) => (I2sLayout::X86, block as u64),
                _ => (I2sLayout::X86, 0),
            };
            let id = storage.ggml_id().unwrap();
            assert_eq!(Storage::of_ggml(id, layout, block), Some(storage), "{name}");
        }
        assert_eq!(Storage::of_ggml(42, I2sLayout::X86, 32), None);
        assert_eq!(Storage::of_ggml(3, I2sLayout::X86, 32), None);
    }
}
