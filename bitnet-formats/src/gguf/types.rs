//! The storage types of GGUF tensors: ids, block sizes, byte sizes, and advice for unsupported types.

use std::fmt;

/// A supported storage type.
///
/// A type packs `block_weights` consecutive weights of a row into `block_bytes` bytes. The row-scaled types of
/// ik_llama.cpp add a scale to each row. I2_S stores the packed codes of the whole tensor, then one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgmlType {
    /// 32-bit floats, id 0.
    F32,
    /// IEEE 16-bit floats, id 1.
    F16,
    /// bfloat16, id 30.
    Bf16,
    /// 4-bit codes, one f16 scale per 32, id 2.
    Q4_0,
    /// 8-bit codes, one f16 scale per 32, id 8.
    Q8_0,
    /// 6-bit codes in super-blocks of 256, id 14.
    Q6K,
    /// Ternary, base 3, one f16 scale per 256, id 34.
    Tq1_0,
    /// Ternary, 2 bits, one f16 scale per 256, id 35.
    Tq2_0,
    /// Ternary, 2 bits, one f32 scale per tensor after the codes, id 36 (bitnet.cpp). The file does not state which of
    /// the three code layouts it uses.
    I2S,
    /// 2-bit codes, one f16 scale per 64, id 42 (the upstream meaning of the id).
    Q2_0G64,
    /// 2-bit codes, one f16 scale per 128: the older meaning of id 42, distinguished by the tensor's size.
    Q2_0G128,
    /// 2-bit codes, one f16 scale per 128, id 142 (PrismML's llama.cpp): the blocks of [`GgmlType::Q2_0G128`].
    Pq2_0,
    /// Ternary, base 3, one f16 scale per 128, id 143 (PrismML's llama.cpp).
    Ptq1_0,
    /// Signs, one f16 scale per 128, id 41. No weight is zero.
    Q1_0,
    /// Ternary, base 3, one f16 scale per row, id 134 (ik_llama.cpp).
    Iq1Bn,
    /// Ternary, 2 bits, one f32 scale per row, id 135 (ik_llama.cpp).
    Iq2Bn,
    /// IQ2_BN with four interleaved rows, id 335 (ik_llama.cpp).
    Iq2BnR4,
}

/// The meaning of a type id.
pub(super) enum Id {
    /// A supported type.
    Known(GgmlType),
    /// Id 42, whose block size follows from the tensor's extent.
    Q2_0,
    /// A known but unsupported type, and the remedy.
    Unsupported { name: &'static str, advice: &'static str },
    /// An unknown id.
    Unknown,
}

const REQUANTISE: &str = "make a copy in TQ2_0, Q8_0, Q6_K, Q4_0 or F16 with `llama-quantize`";
const NOT_STORED: &str =
    "it only exists while a program runs; write the model again with the program that made it";
const TILED: &str = "its bytes depend on kernel settings that the file does not hold; convert the model to i2_s or TQ2_0 from its \
    original checkpoint";
const REMOVED: &str =
    "it was removed from ggml; convert the model again from its original checkpoint";

/// What the formats say of a type.
struct Facts {
    ggml_type: GgmlType,
    name: &'static str,
    id: u32,
    /// Weights and bytes of a block.
    block: (u64, u64),
    /// The number of a model mostly of this type.
    file_type: Option<u32>,
}

const fn facts(
    ggml_type: GgmlType,
    name: &'static str,
    id: u32,
    block: (u64, u64),
    file_type: Option<u32>,
) -> Facts {
    Facts { ggml_type, name, id, block, file_type }
}

/// The facts in the order of the variants.
static FACTS: [Facts; 17] = [
    facts(GgmlType::F32, "F32", 0, (1, 4), Some(0)),
    facts(GgmlType::F16, "F16", 1, (1, 2), Some(1)),
    facts(GgmlType::Bf16, "BF16", 30, (1, 2), Some(32)),
    facts(GgmlType::Q4_0, "Q4_0", 2, (32, 18), Some(2)),
    facts(GgmlType::Q8_0, "Q8_0", 8, (32, 34), Some(7)),
    facts(GgmlType::Q6K, "Q6_K", 14, (256, 210), Some(18)),
    facts(GgmlType::Tq1_0, "TQ1_0", 34, (256, 54), Some(36)),
    facts(GgmlType::Tq2_0, "TQ2_0", 35, (256, 66), Some(37)),
    facts(GgmlType::I2S, "I2_S", 36, (4, 1), Some(40)),
    facts(GgmlType::Q2_0G64, "Q2_0 (64-weight blocks)", 42, (64, 18), None),
    facts(GgmlType::Q2_0G128, "Q2_0 (128-weight blocks)", 42, (128, 34), None),
    facts(GgmlType::Pq2_0, "PQ2_0", 142, (128, 34), None),
    facts(GgmlType::Ptq1_0, "PTQ1_0", 143, (128, 28), None),
    facts(GgmlType::Q1_0, "Q1_0", 41, (128, 18), Some(40)),
    facts(GgmlType::Iq1Bn, "IQ1_BN", 134, (64, 13), None),
    facts(GgmlType::Iq2Bn, "IQ2_BN", 135, (64, 16), None),
    facts(GgmlType::Iq2BnR4, "IQ2_BN_R4", 335, (64, 16), None),
];

impl GgmlType {
    fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// Returns every type.
    pub fn all() -> impl Iterator<Item = Self> {
        FACTS.iter().map(|facts| facts.ggml_type)
    }

    /// Returns the type's name in ggml and bitnet.cpp.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Returns the type's id in files.
    #[must_use]
    pub fn id(self) -> u32 {
        self.facts().id
    }

    /// Returns whether every weight is -s, 0 or +s (Q2_0 and PQ2_0 also have +2s).
    #[must_use]
    pub fn is_ternary(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::Q4_0 | Self::Q8_0 | Self::Q6K)
    }

    /// Returns the weights and bytes of one block. I2_S has 4 weights per byte, plus 32 bytes of scale per tensor;
    /// row-scaled types add [`GgmlType::row_meta`].
    #[must_use]
    pub fn block(self) -> (u64, u64) {
        self.facts().block
    }

    /// Returns the bytes of a row besides its blocks: the scale of the row-scaled types.
    #[must_use]
    pub fn row_meta(self) -> u64 {
        match self {
            Self::Iq1Bn => 2,
            Self::Iq2Bn | Self::Iq2BnR4 => 4,
            _ => 0,
        }
    }

    /// Returns the number of interleaved rows; the row count of a tensor is a multiple of it.
    #[must_use]
    pub fn interleaved_rows(self) -> u64 {
        if self == Self::Iq2BnR4 { 4 } else { 1 }
    }

    /// Returns the bytes of a tensor with these dimensions (ggml order, `dims[0]` contiguous).
    ///
    /// `None` if there are not 1 to 4 positive dimensions, a row is not whole blocks (I2_S: the tensor is not whole
    /// bytes), the second dimension is not a multiple of the interleaved rows, or the size overflows.
    #[must_use]
    pub fn nbytes(self, dims: &[u64]) -> Option<u64> {
        if dims.is_empty() || dims.len() > 4 || dims.contains(&0) {
            return None;
        }
        let weights = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
        let (block_weights, block_bytes) = self.block();
        let whole = if self == Self::I2S { weights } else { *dims.first()? };
        if !whole.is_multiple_of(block_weights) || i64::try_from(weights).is_err() {
            return None;
        }
        let sets = dims.get(1).copied().unwrap_or(1);
        if !sets.is_multiple_of(self.interleaved_rows()) {
            return None;
        }
        let packed = (weights / block_weights).checked_mul(block_bytes)?;
        let scales = (weights / dims.first()?).checked_mul(self.row_meta())?;
        packed.checked_add(if self == Self::I2S { 32 } else { scales })
    }

    /// Returns llama.cpp's number for a model mostly of this type (`general.file_type`), if there is one.
    #[must_use]
    pub fn file_type(self) -> Option<u32> {
        self.facts().file_type
    }

    pub(super) fn from_id(id: u32) -> Id {
        let unsupported = |name, advice| Id::Unsupported { name, advice };
        match id {
            3 => unsupported("Q4_1", REQUANTISE),
            4 => unsupported("Q4_2", REMOVED),
            5 => unsupported("Q4_3", REMOVED),
            6 => unsupported("Q5_0", REQUANTISE),
            7 => unsupported("Q5_1", REQUANTISE),
            9 => unsupported("Q8_1", NOT_STORED),
            10 => unsupported("Q2_K", REQUANTISE),
            11 => unsupported("Q3_K", REQUANTISE),
            12 => unsupported("Q4_K", REQUANTISE),
            13 => unsupported("Q5_K", REQUANTISE),
            15 => unsupported("Q8_K", NOT_STORED),
            16 => unsupported("IQ2_XXS", REQUANTISE),
            17 => unsupported("IQ2_XS", REQUANTISE),
            18 => unsupported("IQ3_XXS", REQUANTISE),
            19 => unsupported("IQ1_S", REQUANTISE),
            20 => unsupported("IQ4_NL", REQUANTISE),
            21 => unsupported("IQ3_S", REQUANTISE),
            22 => unsupported("IQ2_S", REQUANTISE),
            23 => unsupported("IQ4_XS", REQUANTISE),
            24 => unsupported("I8", REQUANTISE),
            25 => unsupported("I16", REQUANTISE),
            26 => unsupported("I32", REQUANTISE),
            27 => unsupported("I64", REQUANTISE),
            28 => unsupported("F64", REQUANTISE),
            29 => unsupported("IQ1_M", REQUANTISE),
            31 => unsupported("Q4_0_4_4", REMOVED),
            32 => unsupported("Q4_0_4_8", REMOVED),
            33 => unsupported("Q4_0_8_8", REMOVED),
            37 => unsupported("I8_S (bitnet.cpp) or IQ4_NL_4_8 (removed from ggml)", NOT_STORED),
            38 => unsupported("TL1 (bitnet.cpp) or IQ4_NL_8_8 (removed from ggml)", TILED),
            39 => unsupported("TL2 (bitnet.cpp) or MXFP4 (ggml), which share the id 39", TILED),
            40 => unsupported("NVFP4", REQUANTISE),
            42 => Id::Q2_0,
            _ => Self::all().find(|known| known.id() == id).map_or(Id::Unknown, Id::Known),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_variants() {
        for (index, ggml_type) in GgmlType::all().enumerate() {
            assert_eq!(ggml_type as usize, index);
        }
    }

    #[test]
    fn sizes_follow_the_formats() {
        // The 2B-4T shapes: a gate projection in I2_S, the embedding in F16 and Q6_K.
        assert_eq!(GgmlType::I2S.nbytes(&[2560, 6912]), Some(2560 * 6912 / 4 + 32));
        assert_eq!(GgmlType::F16.nbytes(&[2560, 128_256]), Some(656_670_720));
        assert_eq!(GgmlType::Q6K.nbytes(&[2560, 128_256]), Some(2560 / 256 * 210 * 128_256));
        assert_eq!(GgmlType::Tq2_0.nbytes(&[256, 3]), Some(198));
        assert_eq!(GgmlType::Tq1_0.nbytes(&[512]), Some(108));
        assert_eq!(GgmlType::Q2_0G64.nbytes(&[128, 2]), Some(72));
        assert_eq!(GgmlType::Q2_0G128.nbytes(&[128, 2]), Some(68));
        assert_eq!(GgmlType::Pq2_0.nbytes(&[128, 2]), Some(68));
        assert_eq!(GgmlType::Ptq1_0.nbytes(&[128, 2]), Some(56));
        assert_eq!(GgmlType::Q1_0.nbytes(&[256, 2]), Some(72));
        assert_eq!(GgmlType::Iq1Bn.nbytes(&[128, 3, 2]), Some(6 * (2 + 26)));
        assert_eq!(GgmlType::Iq2Bn.nbytes(&[64]), Some(4 + 16));
        assert_eq!(GgmlType::Iq2BnR4.nbytes(&[128, 4]), Some(4 * (4 + 32)));
    }

    #[test]
    fn partial_blocks_and_overflow_have_no_size() {
        assert_eq!(GgmlType::Tq2_0.nbytes(&[128, 2]), None, "a row is half a block");
        assert_eq!(GgmlType::Ptq1_0.nbytes(&[64, 2]), None, "a row is half a block");
        assert_eq!(GgmlType::Q1_0.nbytes(&[64, 2]), None, "a row is half a block");
        assert_eq!(GgmlType::I2S.nbytes(&[3, 3]), None, "not whole bytes");
        assert_eq!(GgmlType::Iq2Bn.nbytes(&[32, 2]), None, "a row is half a block");
        assert_eq!(GgmlType::Iq2BnR4.nbytes(&[64, 6]), None, "rows stand in fours");
        assert_eq!(GgmlType::F32.nbytes(&[1 << 62, 4]), None);
        assert_eq!(
            GgmlType::F32.nbytes(&[1 << 62]),
            None,
            "bytes overflow although the count does not"
        );
        assert_eq!(GgmlType::F32.nbytes(&[5, 0]), None);
        assert_eq!(GgmlType::F32.nbytes(&[]), None);
    }
}
