//! Detection and selection of instruction sets.
//!
//! A level is selected once: the best that is available, or the one that `BITNET_ISA` names (`scalar`, `avx2`,
//! `avxvnni`, `avx512vnni`, `amx`, `neon`, `neon-dotprod`). The CPU back end runs
//! a self-test of each level before it uses it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod compiled;
mod joined;
mod largest;
mod product;
mod sum;
mod ticks;

use crate::{Error, Result};

pub use compiled::{Kernel, active, run};
pub(crate) use joined::joined;
pub use largest::largest_magnitude;
pub(crate) use product::{Matrix, product};
pub use sum::sum_words;
pub(crate) use ticks::ticks;

/// An instruction set level, in the order in which they are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum IsaLevel {
    /// Plain Rust, no vector instructions: always available.
    Scalar,
    /// 64-bit Arm with Advanced SIMD.
    Neon,
    /// Advanced SIMD with `SDOT`.
    NeonDotprod,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// AVX2 with 256-bit `VPDPBUSD`.
    AvxVnni,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AVX-512 as above, with AMX's tiles of 8-bit integers for prompts. Linux only.
    Amx,
}

impl IsaLevel {
    /// Every level that any processor may have.
    pub const ALL: [Self; 7] = [
        Self::Scalar,
        Self::Neon,
        Self::NeonDotprod,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Amx,
    ];

    /// The name, as in `BITNET_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }

    /// Whether this processor reports the level.
    pub fn is_detected(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_detected() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx2.is_detected()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512Vnni.is_detected() && amx::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => {
                Self::Neon.is_detected() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            _ => false,
        }
    }

    /// The levels that this processor reports, best last.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_detected()).collect()
    }

    /// The best level that this processor reports.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|level| level.is_detected()).unwrap_or(Self::Scalar)
    }

    /// The level of a name, if this processor has it.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] with the names that are available.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::available()
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let available: Vec<_> =
                    Self::available().iter().map(|level| level.name()).collect();
                Error::IsaUnavailable { name: name.into(), available: available.join(", ") }
            })
    }

    /// The level that `BITNET_ISA` forces, or the best one.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if the variable names a level that is not available.
    pub fn selected() -> Result<Self> {
        match std::env::var("BITNET_ISA") {
            Ok(name) if !name.is_empty() => Self::from_name(&name),
            _ => Ok(Self::best()),
        }
    }
}

impl std::fmt::Display for IsaLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_told() {
        for level in IsaLevel::available() {
            assert_eq!(IsaLevel::from_name(level.name()), Ok(level));
        }
        let error = IsaLevel::from_name("mmx").unwrap_err().to_string();
        assert!(error.contains("mmx") && error.contains("scalar"), "{error}");
        assert!(IsaLevel::available().contains(&IsaLevel::best()));
    }
}
