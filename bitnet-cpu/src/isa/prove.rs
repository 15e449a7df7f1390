//! Detection is not proof: every level answers a known question before it is trusted.

use std::sync::OnceLock;

use super::{ActivationBlock, AnyIsa, CodeBlock, Isa, LANES, Op, f16_to_f32};
use crate::ops::block_sums;
use bitnet_core::simd::IsaLevel;
use bitnet_core::{Error, Result};

/// Blocks of the question: more than two runs of any level, and no multiple of one.
const BLOCKS: usize = 37;

/// The question: codes, activations and half-precision numbers.
struct Question {
    codes: [CodeBlock; BLOCKS],
    x: [[ActivationBlock; 1]; BLOCKS],
    halves: [[u8; 2]; LANES],
}

impl Question {
    /// A fixed pseudo-random pattern; with `extreme`, every product is the largest or the smallest that there is.
    fn new(extreme: bool) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let mut question = Self {
            codes: [[0; 8]; BLOCKS],
            x: [[ActivationBlock([[0; 32]; 4]); 1]; BLOCKS],
            halves: [[0; 2]; LANES],
        };
        for (k, (codes, [x])) in question.codes.iter_mut().zip(&mut question.x).enumerate() {
            let largest = if k / 18 % 2 == 0 { -128 } else { 127 };
            for word in codes {
                let trits = |_| if extreme { 2 } else { next() % 3 };
                *word = [0; 16].map(trits).iter().fold(0, |word, code| word << 2 | code);
            }
            for x in x.0.as_flattened_mut() {
                *x = if extreme { largest } else { next() as i8 };
            }
        }
        for half in &mut question.halves {
            *half = (next() as u16 & 0xbfff).to_le_bytes();
        }
        question
    }
}

/// What a level answers: the sums over both halves and the bits of the numbers.
impl Op for &Question {
    type Output = ([i32; 2], [u32; LANES]);

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let [halves] = block_sums(isa, &self.codes, &self.x);
        (halves, isa.store(isa.load_f16(&self.halves)).map(f32::to_bits))
    }
}

/// The answer by another way than any kernel's: one element at a time, in the order of the elements.
fn answer(question: &Question) -> ([i32; 2], [u32; LANES]) {
    let mut halves = [0i32; 2];
    for (codes, [x]) in question.codes.iter().zip(&question.x) {
        for element in 0..128 {
            let code = (codes[element / 16] >> (2 * (element % 16))) & 3;
            let x = x.0[element % 4][element / 4];
            halves[element / 64] += code as i32 * i32::from(x);
        }
    }
    (halves, question.halves.map(|bytes| f16_to_f32(u16::from_le_bytes(bytes)).to_bits()))
}

fn prove(isa: AnyIsa) -> bool {
    [false, true].into_iter().map(Question::new).all(|q| isa.run(&q) == answer(&q))
}

/// Every level that this processor reports, and whether it answers the known question rightly; best last. Asked
/// once per process. A level that is not reported is not run.
pub fn proven_levels() -> Vec<(IsaLevel, bool)> {
    static PROVEN: OnceLock<Vec<(IsaLevel, bool)>> = OnceLock::new();
    PROVEN
        .get_or_init(|| {
            let ask = |level| (level, AnyIsa::detect(level).is_some_and(prove));
            IsaLevel::available().into_iter().map(ask).collect()
        })
        .clone()
}

/// The level to run: the one wanted, which must be proven if it is `forced`, or else the best proven one that is
/// not above it.
///
/// # Errors
/// [`Error::IsaUnavailable`] or [`Error::IsaBroken`].
pub(crate) fn choose(
    wanted: IsaLevel,
    forced: bool,
    proofs: &[(IsaLevel, bool)],
) -> Result<Chosen> {
    let Some(at) = proofs.iter().position(|&(level, _)| level == wanted) else {
        let names: Vec<_> = proofs.iter().map(|(level, _)| level.name()).collect();
        return Err(Error::IsaUnavailable {
            name: wanted.name().into(),
            available: names.join(", "),
        });
    };
    let candidates = if forced { &proofs[at..=at] } else { &proofs[..=at] };
    candidates
        .iter()
        .rev()
        .filter(|(_, proven)| *proven)
        .find_map(|&(level, _)| AnyIsa::detect(level).map(|isa| Chosen { level, isa }))
        .ok_or(Error::IsaBroken { name: wanted.name() })
}

/// A chosen level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) level: IsaLevel,
    pub(crate) isa: AnyIsa,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_of_this_processor_are_proven() {
        let proven = proven_levels();
        assert_eq!(proven.first(), Some(&(IsaLevel::Scalar, true)));
        assert!(proven.iter().all(|&(_, proven)| proven), "{proven:?}");
    }

    #[test]
    fn a_broken_level_is_passed_over_unless_it_is_forced() {
        let proofs = [(IsaLevel::Scalar, true), (IsaLevel::Avx2, false)];
        assert_eq!(choose(IsaLevel::Avx2, false, &proofs).unwrap().level, IsaLevel::Scalar);
        assert_eq!(choose(IsaLevel::Scalar, true, &proofs).unwrap().level, IsaLevel::Scalar);
        let forced = choose(IsaLevel::Avx2, true, &proofs).unwrap_err();
        assert_eq!(forced, Error::IsaBroken { name: "avx2" });
        let absent = choose(IsaLevel::Neon, true, &proofs).unwrap_err();
        assert!(matches!(absent, Error::IsaUnavailable { .. }));
    }

    #[test]
    fn a_wrong_kernel_is_caught() {
        /// Scalar, but for a lost block.
        struct Lost<'a>(&'a Question);
        impl Op for Lost<'_> {
            type Output = [i32; 2];
            fn eval<I: Isa>(self, isa: I) -> [i32; 2] {
                block_sums(isa, &self.0.codes[1..], &self.0.x[1..])[0]
            }
        }
        let question = Question::new(false);
        let scalar = crate::isa::scalar::Scalar::detect().unwrap();
        assert_ne!(scalar.run(Lost(&question)), answer(&question).0);
    }
}
