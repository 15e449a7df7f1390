//! The choice of an instruction set at run time.

use super::{Amx, Extension, Isa, Op, Vbmi, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512vnni, avxvnni};
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::{neon, neon_dotprod};
use bitnet_core::simd::IsaLevel;

/// Any instruction set for which this program is compiled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnyIsa {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avxvnni::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512vnni::Avx512Vnni),
    /// Tiles for prompts; for all else, AVX-512.
    #[cfg(target_arch = "x86_64")]
    Amx(avx512vnni::Avx512Vnni, Amx),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon(neon::Neon),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonDotprod(neon_dotprod::NeonDotprod),
}

impl AnyIsa {
    /// Returns the instruction set of a level, if the processor reports it.
    pub(crate) fn detect(level: IsaLevel) -> Option<Self> {
        match level {
            IsaLevel::Scalar => Isa::detect().map(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::Avx2 => Isa::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::AvxVnni => Isa::detect().map(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::Avx512Vnni => Isa::detect().map(Self::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::Amx => Some(Self::Amx(Isa::detect()?, Amx::detect()?)),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            IsaLevel::Neon => Isa::detect().map(Self::Neon),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            IsaLevel::NeonDotprod => Isa::detect().map(Self::NeonDotprod),
            _ => None,
        }
    }

    /// Returns the tiles of this level, if it has any.
    pub(crate) fn amx(self) -> Option<Amx> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx(_, amx) => Some(amx),
            _ => None,
        }
    }

    /// Returns what unpacks five trits from a byte, if this level is one with 512 bits and the processor has it.
    pub(crate) fn vbmi(self) -> Option<Vbmi> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::Amx(..) => Vbmi::detect(),
            _ => None,
        }
    }

    /// Runs `op`, in which no codes are multiplied by 8-bit numbers:
    /// levels that differ in nothing else share a function.
    pub(crate) fn run_shared<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Scalar(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(isa) => isa.base().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(isa) | Self::Amx(isa, _) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDotprod(isa) => isa.base().run(op),
        }
    }

    /// Runs `op` in a function compiled for this instruction set.
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Scalar(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(isa) | Self::Amx(isa, _) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDotprod(isa) => isa.run(op),
        }
    }
}
