//! The element types of tensors.

use half::{bf16, f16};

use crate::{Error, Result};

/// The element type of a tensor.
///
/// | type | values | stored as |
/// |---|---|---|
/// | `F32` | binary32 | 4 bytes |
/// | `F16` | binary16 | 2 bytes |
/// | `BF16` | the upper half of a binary32 | 2 bytes |
/// | `I8` | -128 to 127 | 1 byte |
/// | `I4` | -8 to 7 | element `j` of a byte in bits `4j..4j+4`, two's complement |
/// | `I2` | -2 to 1 | element `j` of a byte in bits `2j..2j+2`, two's complement |
/// | `I1` | -1 and 1 | element `j` of a byte in bit `j`, set for -1 |
/// | `BitNet158` | -1, 0 and 1 | `Σ (trit_j + 1)·3^j` over the five of a byte, at most 242 |
///
/// Floats are in the byte order of the machine. Elements of a tensor follow each other without regard to rows, so the
/// last byte alone may hold fewer than the others.
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

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The smallest and the largest finite number.
    pub fn range(self) -> (f32, f32) {
        match self {
            Self::F32 => (f32::MIN, f32::MAX),
            Self::F16 => (f16::MIN.to_f32(), f16::MAX.to_f32()),
            Self::BF16 => (bf16::MIN.to_f32(), bf16::MAX.to_f32()),
            Self::I8 => (-128.0, 127.0),
            Self::I4 => (-8.0, 7.0),
            Self::I2 => (-2.0, 1.0),
            Self::I1 | Self::BitNet158 => (-1.0, 1.0),
        }
    }

    /// The byte whose elements are all zero; for [`BitNetDType::I1`], which has no zero, all 1.
    pub(super) fn zero_byte(self) -> u8 {
        if self == Self::BitNet158 { 1 + 3 + 9 + 27 + 81 } else { 0 }
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
