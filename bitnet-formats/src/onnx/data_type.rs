//! The element types of ONNX tensors.

use std::fmt;

use bitnet_core::dense::PlainType;

/// An element type, by its number in `TensorProto.DataType`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataType(i32);

/// Number, name and bits of an element; no bits for texts.
const TYPES: [(i32, &str, u32); 26] = [
    (1, "FLOAT", 32),
    (2, "UINT8", 8),
    (3, "INT8", 8),
    (4, "UINT16", 16),
    (5, "INT16", 16),
    (6, "INT32", 32),
    (7, "INT64", 64),
    (8, "STRING", 0),
    (9, "BOOL", 8),
    (10, "FLOAT16", 16),
    (11, "DOUBLE", 64),
    (12, "UINT32", 32),
    (13, "UINT64", 64),
    (14, "COMPLEX64", 64),
    (15, "COMPLEX128", 128),
    (16, "BFLOAT16", 16),
    (17, "FLOAT8E4M3FN", 8),
    (18, "FLOAT8E4M3FNUZ", 8),
    (19, "FLOAT8E5M2", 8),
    (20, "FLOAT8E5M2FNUZ", 8),
    (21, "UINT4", 4),
    (22, "INT4", 4),
    (23, "FLOAT4E2M1", 4),
    (24, "FLOAT8E8M0", 8),
    (25, "UINT2", 2),
    (26, "INT2", 2),
];

impl DataType {
    /// 32-bit floats.
    pub const FLOAT: Self = Self(1);
    /// Bytes.
    pub const UINT8: Self = Self(2);
    /// 16-bit floats.
    pub const FLOAT16: Self = Self(10);
    /// 16-bit floats with the exponent of 32-bit ones.
    pub const BFLOAT16: Self = Self(16);

    /// Returns the type of a number in a file, which need not be known.
    #[must_use]
    pub fn from_id(id: i32) -> Self {
        Self(id)
    }

    /// Returns the plain float type, if it is one.
    #[must_use]
    pub fn plain(self) -> Option<PlainType> {
        match self {
            Self::FLOAT => Some(PlainType::F32),
            Self::FLOAT16 => Some(PlainType::F16),
            Self::BFLOAT16 => Some(PlainType::BF16),
            _ => None,
        }
    }

    /// Returns the number in files.
    #[must_use]
    pub fn id(self) -> i32 {
        self.0
    }

    /// Returns the name in `TensorProto.DataType`.
    #[must_use]
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(id, ..)| *id == self.0).map_or("UNDEFINED", |(_, name, _)| name)
    }

    /// Returns the bytes of packed elements; `None` for a type without a size, or too many.
    #[must_use]
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let bits = TYPES.iter().find(|(id, ..)| *id == self.0).map(|(.., bits)| *bits)?;
        let bits = Some(bits as usize).filter(|bits| *bits > 0)?;
        if bits >= 8 {
            return elements.checked_mul(bits / 8);
        }
        Some(elements.div_ceil(8 / bits))
    }
}

impl fmt::Debug for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
