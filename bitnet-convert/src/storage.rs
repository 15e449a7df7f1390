//! The storage types of conversions, by name.

use std::fmt;
use std::str::FromStr;

use bitnet_formats::gguf::GgmlType;
use bitnet_formats::safetensors::Dtype;
use bitnet_quant::codec::TernaryStorage;
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::i2_s::I2sLayout;

use crate::{Error, Result};

/// A storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Trits with their scales.
    Ternary(TernaryStorage),
    /// A dense type.
    Dense(DenseType),
}

/// Every storage with its name.
const NAMES: [(&str, Storage); 16] = [
    ("i2_s", Storage::Ternary(TernaryStorage::I2S(I2sLayout::X86))),
    ("i2_s-arm64", Storage::Ternary(TernaryStorage::I2S(I2sLayout::Arm64))),
    ("i2_s-x4", Storage::Ternary(TernaryStorage::I2S(I2sLayout::X4))),
    ("tq1_0", Storage::Ternary(TernaryStorage::TQ1_0)),
    ("tq2_0", Storage::Ternary(TernaryStorage::TQ2_0)),
    ("q2_0", Storage::Ternary(TernaryStorage::Q2_0 { block: 64 })),
    ("q2_0-g128", Storage::Ternary(TernaryStorage::Q2_0 { block: 128 })),
    ("iq1_bn", Storage::Ternary(TernaryStorage::IQ1_BN)),
    ("iq2_bn", Storage::Ternary(TernaryStorage::IQ2_BN)),
    ("iq2_bn_r4", Storage::Ternary(TernaryStorage::IQ2_BN_R4)),
    ("f32", Storage::Dense(DenseType::F32)),
    ("f16", Storage::Dense(DenseType::F16)),
    ("bf16", Storage::Dense(DenseType::BF16)),
    ("q8_0", Storage::Dense(DenseType::Q8_0)),
    ("q6_k", Storage::Dense(DenseType::Q6_K)),
    ("q4_0", Storage::Dense(DenseType::Q4_0)),
];

impl Storage {
    /// Returns the names that [`Storage::from_str`] accepts.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, storage)| *storage == self).map_or("unknown", |(name, _)| name)
    }

    /// Returns the bytes of a stored `[rows, cols]` matrix.
    ///
    /// # Errors
    /// Errors of the codec: an unsupported shape.
    pub fn size(self, rows: usize, cols: usize) -> bitnet_quant::Result<usize> {
        match self {
            Self::Ternary(storage) => storage.size(rows, cols),
            Self::Dense(dense) => dense.size(rows, cols),
        }
    }

    /// Returns the type in a GGUF file.
    pub(crate) fn ggml_type(self) -> GgmlType {
        match self {
            Self::Ternary(TernaryStorage::I2S(_)) => GgmlType::I2S,
            Self::Ternary(TernaryStorage::TQ1_0) => GgmlType::Tq1_0,
            Self::Ternary(TernaryStorage::TQ2_0) => GgmlType::Tq2_0,
            Self::Ternary(TernaryStorage::Q2_0 { block: 128 }) => GgmlType::Q2_0G128,
            Self::Ternary(TernaryStorage::Q2_0 { .. }) => GgmlType::Q2_0G64,
            Self::Ternary(TernaryStorage::IQ1_BN) => GgmlType::Iq1Bn,
            Self::Ternary(TernaryStorage::IQ2_BN) => GgmlType::Iq2Bn,
            Self::Ternary(TernaryStorage::IQ2_BN_R4) => GgmlType::Iq2BnR4,
            Self::Dense(DenseType::F32) => GgmlType::F32,
            Self::Dense(DenseType::F16) => GgmlType::F16,
            Self::Dense(DenseType::BF16) => GgmlType::Bf16,
            Self::Dense(DenseType::Q8_0) => GgmlType::Q8_0,
            Self::Dense(DenseType::Q6_K) => GgmlType::Q6K,
            Self::Dense(DenseType::Q4_0) => GgmlType::Q4_0,
        }
    }

    /// Returns the type in a safetensors file, if it has one.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Dense(DenseType::F32) => Some(Dtype::F32),
            Self::Dense(DenseType::F16) => Some(Dtype::F16),
            Self::Dense(DenseType::BF16) => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// Returns whether its scales are rounded to half precision.
    pub(crate) fn has_f16_scales(self) -> bool {
        matches!(
            self,
            Self::Ternary(
                TernaryStorage::TQ1_0
                    | TernaryStorage::TQ2_0
                    | TernaryStorage::Q2_0 { .. }
                    | TernaryStorage::IQ1_BN
            )
        )
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Storage {
    type Err = Error;

    /// Parses a name, ignoring case, with `-` or `_` as separator.
    fn from_str(text: &str) -> Result<Self> {
        let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
        let known = NAMES.iter().find(|(name, _)| plain(name) == plain(text));
        known.map(|(_, storage)| *storage).ok_or_else(|| Error::UnknownStorage {
            name: text.escape_debug().to_string(),
            known: Self::names().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in Storage::names() {
            assert_eq!(name.parse::<Storage>().unwrap().to_string(), name);
            assert_eq!(name.to_uppercase().parse::<Storage>().unwrap().name(), name);
        }
        assert_eq!("Q2_0_G128".parse::<Storage>().unwrap().name(), "q2_0-g128");
        let error = "q3".parse::<Storage>().unwrap_err().to_string();
        assert!(error.contains("q3") && error.contains("tq2_0"), "{error}");
    }
}
