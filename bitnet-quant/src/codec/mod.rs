//! Storage formats, one file each: conversion between bytes and trits or rows of f32.
//!
//! Every decoder checks the length first and works row by row, so memory holds only the result and one row. Every
//! `size` is the exact number of bytes of a stored matrix.

pub mod archive;
pub mod dense;
pub mod hf_packed;
pub mod i2_s;
pub mod iq1_bn;
pub mod iq2_bn;
pub mod iq2_bn_r4;
pub mod matmul_nbits;
pub mod mlx;
mod plain;
mod planes;
pub mod pq2_0;
pub mod ptq1_0;
pub mod q1_0;
pub mod q2_0;
mod q4_0;
mod q6_k;
mod q8_0;
mod scales;
mod shape;
pub mod sparse34;
mod storage;
pub mod tl1;
pub mod tl2;
pub mod tq1_0;
pub mod tq2_0;

pub(crate) use plain::f16_to_f32;

pub use storage::Storage;

use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use i2_s::I2sLayout;

/// A ternary storage format with embedded scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the programs' names, as users know them")]
pub enum TernaryStorage {
    /// bitnet.cpp I2_S, one f32 scale: [`i2_s`].
    I2S(I2sLayout),
    /// ggml TQ1_0, f16 scales per 256: [`tq1_0`].
    TQ1_0,
    /// ggml TQ2_0, f16 scales per 256: [`tq2_0`].
    TQ2_0,
    /// ggml Q2_0, f16 scales per `block` (64 or 128): [`q2_0`].
    Q2_0 {
        /// Weights that share a scale: 64 or 128.
        block: usize,
    },
    /// PrismML's PQ2_0, f16 scales per 128: [`pq2_0`].
    PQ2_0,
    /// PrismML's PTQ1_0, f16 scales per 128: [`ptq1_0`].
    PTQ1_0,
    /// ggml Q1_0, f16 scales per 128, no zeros: [`q1_0`].
    Q1_0,
    /// ik_llama.cpp IQ1_BN, f16 scales per row: [`iq1_bn`].
    IQ1_BN,
    /// ik_llama.cpp IQ2_BN, f32 scales per row: [`iq2_bn`].
    IQ2_BN,
    /// ik_llama.cpp IQ2_BN_R4, f32 scales per row: [`iq2_bn_r4`].
    IQ2_BN_R4,
}

impl TernaryStorage {
    /// Returns whether the bytes of a matrix are those of its rows, one after the other.
    pub fn is_by_rows(self) -> bool {
        !matches!(self, Self::I2S(_) | Self::IQ2_BN_R4)
    }

    /// Returns whether code 3, a weight of twice the scale, can be stored.
    pub fn has_doubled_weights(self) -> bool {
        matches!(self, Self::Q2_0 { .. } | Self::PQ2_0)
    }

    /// Returns the format's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::I2S(_) => i2_s::FORMAT,
            Self::TQ1_0 => tq1_0::FORMAT,
            Self::TQ2_0 => tq2_0::FORMAT,
            Self::Q2_0 { .. } => q2_0::FORMAT,
            Self::PQ2_0 => pq2_0::FORMAT,
            Self::PTQ1_0 => ptq1_0::FORMAT,
            Self::Q1_0 => q1_0::FORMAT,
            Self::IQ1_BN => iq1_bn::FORMAT,
            Self::IQ2_BN => iq2_bn::FORMAT,
            Self::IQ2_BN_R4 => iq2_bn_r4::FORMAT,
        }
    }

    /// Returns the bytes of a stored `[rows, cols]` matrix.
    ///
    /// # Errors
    /// Errors of the format's `size`: an unsupported shape.
    pub fn size(self, rows: usize, cols: usize) -> Result<usize> {
        match self {
            Self::I2S(layout) => i2_s::size(rows, cols, layout),
            Self::TQ1_0 => tq1_0::size(rows, cols),
            Self::TQ2_0 => tq2_0::size(rows, cols),
            Self::Q2_0 { block } => q2_0::size(rows, cols, block),
            Self::PQ2_0 => pq2_0::size(rows, cols),
            Self::PTQ1_0 => ptq1_0::size(rows, cols),
            Self::Q1_0 => q1_0::size(rows, cols),
            Self::IQ1_BN => iq1_bn::size(rows, cols),
            Self::IQ2_BN => iq2_bn::size(rows, cols),
            Self::IQ2_BN_R4 => iq2_bn_r4::size(rows, cols),
        }
    }

    /// Decodes a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// Errors of the format's `decode`: length, codes, scales.
    pub fn decode(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<TernaryMatrix> {
        match self {
            Self::I2S(layout) => i2_s::decode(bytes, rows, cols, layout, pool),
            Self::TQ1_0 => tq1_0::decode(bytes, rows, cols, pool),
            Self::TQ2_0 => tq2_0::decode(bytes, rows, cols, pool),
            Self::Q2_0 { block } => q2_0::decode(bytes, rows, cols, block, pool),
            Self::PQ2_0 => pq2_0::decode(bytes, rows, cols, pool),
            Self::PTQ1_0 => ptq1_0::decode(bytes, rows, cols, pool),
            Self::Q1_0 => q1_0::decode(bytes, rows, cols, pool),
            Self::IQ1_BN => iq1_bn::decode(bytes, rows, cols, pool),
            Self::IQ2_BN => iq2_bn::decode(bytes, rows, cols, pool),
            Self::IQ2_BN_R4 => iq2_bn_r4::decode(bytes, rows, cols, pool),
        }
    }

    /// Encodes a matrix.
    ///
    /// # Errors
    /// Errors of the format's `encode`: an unsupported shape, unsupported scales, or [`crate::Error::NotTernary`] for
    /// weights of +2 that it does not [have](Self::has_doubled_weights).
    pub fn encode(self, matrix: &TernaryMatrix) -> Result<Vec<u8>> {
        let size = self.size(matrix.rows(), matrix.cols())?;
        Ok(shape::encoded(size, |out| self.encode_into(matrix, out))?.0)
    }

    /// Encodes a matrix and appends it to `out`, which is unchanged on error.
    ///
    /// # Errors
    /// Same as [`TernaryStorage::encode`].
    pub fn encode_into(self, matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::I2S(layout) => i2_s::encode_into(matrix, layout, out),
            Self::TQ1_0 => tq1_0::encode_into(matrix, out),
            Self::TQ2_0 => tq2_0::encode_into(matrix, out),
            Self::Q2_0 { block } => q2_0::encode_into(matrix, block, out),
            Self::PQ2_0 => pq2_0::encode_into(matrix, out),
            Self::PTQ1_0 => ptq1_0::encode_into(matrix, out),
            Self::Q1_0 => q1_0::encode_into(matrix, out),
            Self::IQ1_BN => iq1_bn::encode_into(matrix, out),
            Self::IQ2_BN => iq2_bn::encode_into(matrix, out),
            Self::IQ2_BN_R4 => iq2_bn_r4::encode_into(matrix, out),
        }
    }
}
