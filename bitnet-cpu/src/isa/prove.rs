//! Detection is not proof: every level answers a known question before it is trusted.

use std::sync::OnceLock;

use super::nibbles;
use super::{ActivationBlock, AnyIsa, CodeBlock, HalfCodeBlock, Isa, LANES, Op, f16_to_f32};
use crate::ops::block_sums;
use bitnet_core::simd::IsaLevel;
use bitnet_core::{Error, Result};

/// Blocks of the question: more than two runs of any level, and no multiple of one.
const BLOCKS: usize = 37;

/// The question: codes, activations, finite numbers of 16 bits and whole numbers.
struct Question {
    codes: [CodeBlock; BLOCKS],
    x: [[ActivationBlock; 1]; BLOCKS],
    halves: [[u8; 2]; LANES],
    whole: [f32; LANES],
}

impl Question {
    /// A fixed pseudo-random pattern; with `extreme`, every code is 2 and every activation is that number, so that
    /// sums too narrow for a run have nothing to cancel.
    fn new(extreme: Option<i8>) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let mut question = Self {
            codes: [[0; 8]; BLOCKS],
            x: [[ActivationBlock([[0; 32]; 4]); 1]; BLOCKS],
            halves: [[0; 2]; LANES],
            whole: [0.0; LANES],
        };
        for (codes, [x]) in question.codes.iter_mut().zip(&mut question.x) {
            for word in codes {
                let trits = |_| if extreme.is_some() { 2 } else { next() % 3 };
                *word = [0; 16].map(trits).iter().fold(0, |word, code| word << 2 | code);
            }
            for x in x.0.as_flattened_mut() {
                *x = extreme.unwrap_or(next() as i8);
            }
        }
        for half in &mut question.halves {
            *half = (next() as u16 & 0xbfff).to_le_bytes();
        }
        for number in &mut question.whole {
            *number = (next() % 1000) as f32;
        }
        question
    }
}

/// What a level answers: the sums over both halves, and the bits of eight vectors of floats (half precision,
/// bfloat16, f32, four planes of trits, and a product with a sum), all of which are exact.
type Answer = ([i32; 2], [[u32; LANES]; 8]);

impl Question {
    /// The first half of the first block.
    fn trits(&self) -> &HalfCodeBlock {
        &self.codes[0].as_chunks::<4>().0[0]
    }
}

impl Op for &Question {
    type Output = Answer;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let halves = block_sums(isa, &self.codes, self.x.as_flattened());
        let trits = isa.trits(self.trits());
        let whole = isa.load(&self.whole);
        let vectors = [
            isa.load_f16(&self.halves),
            isa.load_bf16(&self.halves),
            isa.load_f32(&self.whole.map(f32::to_le_bytes)),
            trits[0],
            trits[1],
            trits[2],
            trits[3],
            isa.mul_add(trits[1], isa.splat(3.0), whole),
        ];
        (halves, vectors.map(|vector| isa.store(vector).map(f32::to_bits)))
    }
}

/// The answer by another way than any kernel's: one element at a time, in the order of the elements.
fn answer(question: &Question) -> Answer {
    let mut halves = [0i32; 2];
    for (codes, [x]) in question.codes.iter().zip(&question.x) {
        for element in 0..128 {
            let code = (codes[element / 16] >> (2 * (element % 16))) & 3;
            let x = x.0[element % 4][element / 4];
            halves[element / 64] += code as i32 * i32::from(x);
        }
    }
    let mut trits = [[0f32; LANES]; 4];
    for element in 0..64 {
        let code = (question.trits()[element / 16] >> (2 * (element % 16))) & 3;
        trits[element % 4][element / 4] = code as f32 - 1.0;
    }
    let bits = question.halves.map(u16::from_le_bytes);
    let mut last = question.whole;
    for (sum, trit) in last.iter_mut().zip(trits[1]) {
        *sum += 3.0 * trit;
    }
    let bfloats = bits.map(|bits| f32::from_bits(u32::from(bits) << 16));
    let [t0, t1, t2, t3] = trits;
    let vectors = [bits.map(f16_to_f32), bfloats, question.whole, t0, t1, t2, t3, last];
    (halves, vectors.map(|vector| vector.map(f32::to_bits)))
}

fn prove(isa: AnyIsa) -> bool {
    let mut questions = [None, Some(-128), Some(127)].into_iter().map(Question::new);
    questions.all(|q| isa.run(&q) == answer(&q)) && nibbles::prove(isa)
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
                block_sums(isa, &self.0.codes[1..], self.0.x[1..].as_flattened())
            }
        }
        let question = Question::new(None);
        let scalar = crate::isa::scalar::Scalar::detect().unwrap();
        assert_ne!(scalar.run(Lost(&question)), answer(&question).0);
    }
}
