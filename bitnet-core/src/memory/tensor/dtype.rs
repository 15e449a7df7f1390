//! The element types of tensors.

use crate::{Error, Result};

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BitNetDType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// Signed 8-bit integer.
    I8,
    /// Signed 4-bit integer, two in a byte.
    I4,
    /// Signed 2-bit integer, four in a byte.
    I2,
    /// Sign bit, eight in a byte.
    I1,
    /// 1.58-bit trits, five in a byte (base 3).
    BitNet158,
}

impl BitNetDType {
    /// Elements that share one smallest addressable unit, and the bytes of that unit.
    pub fn packing(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::I8 => (1, 1),
            Self::I4 => (2, 1),
            Self::I2 => (4, 1),
            Self::I1 => (8, 1),
            Self::BitNet158 => (5, 1),
        }
    }

    /// Bytes that `count` elements take.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the number does not fit.
    pub fn bytes_for(self, count: usize) -> Result<usize> {
        let (elements, bytes) = self.packing();
        count.div_ceil(elements).checked_mul(bytes).ok_or(Error::SizeOverflow { what: "tensor" })
    }
}

impl std::fmt::Display for BitNetDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I8 => "I8",
            Self::I4 => "I4",
            Self::I2 => "I2",
            Self::I1 => "I1",
            Self::BitNet158 => "1.58-bit",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_to_whole_units() {
        for (dtype, bytes) in [
            (BitNetDType::F32, 44),
            (BitNetDType::F16, 22),
            (BitNetDType::BF16, 22),
            (BitNetDType::I8, 11),
            (BitNetDType::I4, 6),
            (BitNetDType::I2, 3),
            (BitNetDType::I1, 2),
            (BitNetDType::BitNet158, 3),
        ] {
            assert_eq!(dtype.bytes_for(11), Ok(bytes), "{dtype}");
        }
        assert!(BitNetDType::F32.bytes_for(usize::MAX).is_err());
    }
}
