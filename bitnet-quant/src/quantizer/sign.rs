//! One bit per weight, as in the first BitNet.

use crate::stored::Stored;
use crate::sums::{Blocks, Lanes};
use crate::ternarize::{Cut, Rule, Tally, pack_by};

/// The first BitNet (W1A8): `sign(W - mean(W))` with the scale `mean|W|`.
///
/// A weight above the mean becomes +1, all others -1; no trit is 0. Means are computed in f64 over the weights of a
/// scale and rounded to f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sign;

/// Sums of weights and of their magnitudes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    weights: f64,
    magnitudes: f64,
}

/// The threshold of +1, and the scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Centre {
    centre: f32,
    scale: f32,
}

impl Tally for Sums {
    fn join(&mut self, next: Self) {
        self.weights += next.weights;
        self.magnitudes += next.magnitudes;
    }
}

impl Rule for Sign {
    type Tally = Sums;
    type Cut = Centre;

    const NAME: &'static str = "sign";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut Sums, weights: &[S::Raw]) -> bool {
        let (mut sums, mut magnitudes) = (Lanes::default(), Lanes::default());
        let mut blocks = Blocks::<S>::new(weights);
        while let Some(block) = blocks.next() {
            sums = sums.add(block, f64::from);
            magnitudes = magnitudes.add(block, |x| f64::from(x.abs()));
        }
        tally.weights += sums.total();
        tally.magnitudes += magnitudes.total();
        tally.magnitudes.is_finite()
    }

    fn cut(&self, tally: Sums, count: usize) -> Centre {
        let mean = |sum: f64| (sum / count as f64) as f32;
        Centre { centre: mean(tally.weights), scale: mean(tally.magnitudes) }
    }
}

impl Cut for Centre {
    fn scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn pack<S: Stored>(self, _: u64, values: &[S::Raw], words: &mut [u32]) {
        pack_by(values, words, |raw| 2 * u8::from(S::value(raw) > self.centre));
    }
}
