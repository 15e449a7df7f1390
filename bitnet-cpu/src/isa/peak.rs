//! The measured peak of the processor's integer multiply-add instruction, with which prefill is compared.
//!
//! Each loop keeps twelve independent chains of the instruction that the kernels of the level multiply with, the
//! accumulating addition included. A result is the next step's operand, so that no step can be left out.

#[allow(unused_imports, reason = "other processors than x86-64 and 64-bit Arm have no probe")]
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bitnet_core::simd::IsaLevel;

/// Independent chains: enough to hide a latency of five cycles at two instructions a cycle.
const CHAINS: usize = 12;

/// Steps of every chain between two looks at the clock: half a millisecond or less.
const STEPS: usize = 1 << 17;

/// The duration of a round.
const ROUND: Duration = Duration::from_millis(2);

/// Rounds of a measurement: 240 ms, in which a processor reaches the clock rate that it can sustain.
pub(crate) const ROUNDS: usize = 120;

/// The measured peak of integer multiply-adds, sustained and at best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntegerPeak {
    /// Products of 8-bit integers, added up, in one second, all threads together: the median of the rounds.
    pub macs_per_second: f64,
    /// The same in the best round.
    pub best_macs_per_second: f64,
    /// The instructions that multiply and add.
    pub instructions: &'static str,
    /// Threads that ran.
    pub threads: usize,
}

/// How the peak of one level is measured.
struct Probe {
    instructions: &'static str,
    /// Multiply-adds of one step of one chain.
    macs: usize,
    /// Runs [`STEPS`] steps of every chain. Called only where the level was found.
    run: fn(),
}

/// Measures the peak of `level` with `threads` threads, in `rounds` rounds of 2 ms. `None` where there is no such
/// instruction ([`IsaLevel::Scalar`]) or the processor lacks the level.
pub(crate) fn measure(level: IsaLevel, threads: usize, rounds: usize) -> Option<IntegerPeak> {
    let probe = probe(level).filter(|_| level.is_detected())?;
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let one = || -> Vec<f64> { (0..rounds.max(1)).map(|_| round(&probe, &barrier)).collect() };
    let mut sums = vec![0.0f64; rounds.max(1)];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        for worker in workers {
            let rates = worker.join().unwrap_or_default();
            sums.iter_mut().zip(rates).for_each(|(sum, rate)| *sum += rate);
        }
    });
    sums.sort_by(f64::total_cmp);
    Some(IntegerPeak {
        macs_per_second: sums[sums.len() / 2],
        best_macs_per_second: sums[sums.len() - 1],
        instructions: probe.instructions,
        threads,
    })
}

/// One thread's multiply-adds per second in a round, which all threads begin together.
fn round(probe: &Probe, barrier: &Barrier) -> f64 {
    barrier.wait();
    let mut macs = 0;
    let start = Instant::now();
    loop {
        (probe.run)();
        macs += CHAINS * STEPS * probe.macs;
        let elapsed = start.elapsed();
        if elapsed >= ROUND {
            return macs as f64 / elapsed.as_secs_f64();
        }
    }
}

fn probe(level: IsaLevel) -> Option<Probe> {
    match level {
        #[cfg(target_arch = "x86_64")]
        IsaLevel::Avx2 => {
            Some(Probe { instructions: "vpmaddubsw + vpaddw", macs: 32, run: x86::avx2 })
        }
        #[cfg(target_arch = "x86_64")]
        IsaLevel::AvxVnni => {
            Some(Probe { instructions: "vpdpbusd (256 bits)", macs: 32, run: x86::avxvnni })
        }
        #[cfg(target_arch = "x86_64")]
        IsaLevel::Avx512Vnni => {
            Some(Probe { instructions: "vpdpbusd (512 bits)", macs: 64, run: x86::avx512vnni })
        }
        #[cfg(target_arch = "x86_64")]
        IsaLevel::Amx => Some(Probe { instructions: "tdpbsud", macs: 1024, run: x86::amx }),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        IsaLevel::Neon => Some(Probe { instructions: "smlal", macs: 8, run: aarch64::neon }),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        IsaLevel::NeonDotprod => {
            Some(Probe { instructions: "sdot", macs: 16, run: aarch64::neon_dotprod })
        }
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::*;
    use crate::isa::Amx;

    pub(super) fn avx2() {
        #[target_feature(enable = "avx2")]
        fn steps() {
            let weights = black_box(_mm256_set1_epi8(3));
            let mut chains: [__m256i; CHAINS] = black_box([_mm256_set1_epi8(1); CHAINS]);
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm256_add_epi16(*chain, _mm256_maddubs_epi16(*chain, weights));
                }
            }
            black_box(chains);
        }
        // SAFETY: `measure` found the level, which has AVX2.
        unsafe { steps() }
    }

    pub(super) fn avxvnni() {
        #[target_feature(enable = "avx2,avxvnni")]
        fn steps() {
            let weights = black_box(_mm256_set1_epi8(3));
            let mut chains: [__m256i; CHAINS] = black_box([_mm256_set1_epi8(1); CHAINS]);
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm256_dpbusd_avx_epi32(*chain, weights, weights);
                }
            }
            black_box(chains);
        }
        // SAFETY: `measure` found the level, which has AVX2 and AVX-VNNI.
        unsafe { steps() }
    }

    pub(super) fn avx512vnni() {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn steps() {
            let weights = black_box(_mm512_set1_epi32(0x0303_0303));
            let mut chains: [__m512i; CHAINS] = black_box([_mm512_set1_epi32(1); CHAINS]);
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm512_dpbusd_epi32(*chain, weights, weights);
                }
            }
            black_box(chains);
        }
        // SAFETY: `measure` found the level, which has AVX-512 F and VNNI.
        unsafe { steps() }
    }

    /// Products of 16 x 16 x 64 in four tiles: as many as [`CHAINS`] times [`STEPS`] steps of 1024.
    pub(super) fn amx() {
        const TURNS: usize = CHAINS * STEPS * 1024 / (4 * 16 * 16 * 64);
        let Some(amx) = Amx::detect() else { return };
        let tiles = amx.configure();
        // SAFETY: `tiles` proves AMX with configured tiles. The loop touches nothing but tiles and its counter.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tilezero tmm4",
                "tilezero tmm5",
                "2:",
                "tdpbsud tmm0, tmm4, tmm5",
                "tdpbsud tmm1, tmm4, tmm5",
                "tdpbsud tmm2, tmm4, tmm5",
                "tdpbsud tmm3, tmm4, tmm5",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nomem, nostack),
            );
        }
        drop(tiles);
    }
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64 {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::*;

    pub(super) fn neon() {
        #[target_feature(enable = "neon")]
        fn steps() {
            let weights = black_box(vdup_n_s8(3));
            let mut chains: [int16x8_t; CHAINS] = black_box([vdupq_n_s16(1); CHAINS]);
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = vmlal_s8(*chain, vget_low_s8(vreinterpretq_s8_s16(*chain)), weights);
                }
            }
            black_box(chains);
        }
        // SAFETY: `measure` found the level, which has Advanced SIMD.
        unsafe { steps() }
    }

    pub(super) fn neon_dotprod() {
        #[target_feature(enable = "neon,dotprod")]
        fn steps() {
            let weights = black_box(vdupq_n_s8(3));
            let mut chains: [int32x4_t; CHAINS] = black_box([vdupq_n_s32(1); CHAINS]);
            for _ in 0..STEPS {
                for chain in &mut chains {
                    // SAFETY: the instruction is there, as the feature says, and touches nothing but its registers.
                    unsafe {
                        asm!(
                            "sdot {sum:v}.4s, {x:v}.16b, {x:v}.16b",
                            sum = inout(vreg) *chain,
                            x = in(vreg) weights,
                            options(pure, nomem, nostack, preserves_flags)
                        );
                    }
                }
            }
            black_box(chains);
        }
        // SAFETY: `measure` found the level, which has Advanced SIMD and `SDOT`.
        unsafe { steps() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_levels_have_a_peak() {
        for level in IsaLevel::available() {
            let peak = measure(level, 1, 3);
            assert_eq!(peak.is_some(), level != IsaLevel::Scalar, "{level}");
            let Some(peak) = peak else { continue };
            assert!(peak.macs_per_second > 1e6 && peak.threads == 1, "{peak:?}");
            assert!(peak.best_macs_per_second >= peak.macs_per_second, "{peak:?}");
        }
    }

    #[test]
    fn unavailable_levels_have_no_peak() {
        for level in IsaLevel::ALL.into_iter().filter(|level| !level.is_detected()) {
            assert_eq!(measure(level, 1, 1), None, "{level}");
        }
    }
}
