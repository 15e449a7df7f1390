//! N:M sparsity.

use crate::stored::Stored;
use crate::ternarize::{Cut, Rule, pack_by};
use crate::{Error, Result};

/// N:M sparsity: of each `of` weights along a row, the `keep` with the largest magnitudes remain.
///
/// As a quantiser, the remaining weights become their sign (0 becomes +1), and the scale is their mean magnitude, which
/// is optimal for these trits. 3:4 suits the storage with 5 bits per 4 weights: exactly one of four is 0. Of equal
/// magnitudes, the first is pruned.
///
/// ```
/// use bitnet_quant::quantizer::KeepLargest;
///
/// let mut row = [0.5, -0.1, 0.3, 0.9, 1.0, 1.0, -1.0, 2.0];
/// KeepLargest::new(3, 4)?.prune(&mut row)?;
/// assert_eq!(row, [0.5, 0.0, 0.3, 0.9, 0.0, 1.0, -1.0, 2.0]);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepLargest {
    keep: usize,
    of: usize,
}

impl KeepLargest {
    /// Creates a rule that keeps `keep` of each `of` weights; `of` is 2, 4, 8 or 16.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for another `of`, and if `keep` is 0 or not below it.
    pub fn new(keep: usize, of: usize) -> Result<Self> {
        let bad = |parameter, value: usize, expected| {
            Err(Error::BadParameter { what: Self::NAME, parameter, value: value as f64, expected })
        };
        if ![2, 4, 8, 16].contains(&of) {
            return bad("of", of, "2, 4, 8 or 16");
        }
        if keep == 0 || keep >= of {
            return bad("keep", keep, "at least 1 and fewer than all");
        }
        Ok(Self { keep, of })
    }

    /// Sets the pruned weights of a row to 0.
    ///
    /// # Errors
    /// [`Error::NotAMultiple`] if the row is not whole groups of `of`.
    pub fn prune(&self, row: &mut [f32]) -> Result<()> {
        self.check(row.len())?;
        for group in row.chunks_exact_mut(self.of) {
            let dropped =
                self.dropped(group, |x| if x.is_nan() { 0 } else { x.abs().to_bits() as i32 });
            for (j, weight) in group.iter_mut().enumerate() {
                if dropped >> j & 1 == 1 {
                    *weight = 0.0;
                }
            }
        }
        Ok(())
    }

    /// Returns a bit mask of the pruned weights of a group.
    #[inline(always)]
    fn dropped<T: Copy, B: Copy + Ord>(&self, group: &[T], magnitude: impl Fn(T) -> B) -> u32 {
        let mut dropped = 0u32;
        for _ in self.keep..self.of {
            let mut least = None;
            for (j, &weight) in group.iter().enumerate() {
                let size = magnitude(weight);
                if dropped >> j & 1 == 0 && least.is_none_or(|(_, smallest)| size < smallest) {
                    least = Some((j, size));
                }
            }
            dropped |= least.map_or(0, |(j, _)| 1 << j);
        }
        dropped
    }
}

/// The remaining weights and their scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrunedCut {
    rule: KeepLargest,
    scale: f32,
}

impl Rule for KeepLargest {
    /// The sum of the remaining magnitudes.
    type Tally = f64;
    type Cut = PrunedCut;

    const NAME: &'static str = "N of M";

    fn check(&self, cols: usize) -> Result<()> {
        if cols.is_multiple_of(self.of) {
            return Ok(());
        }
        Err(Error::NotAMultiple {
            format: Self::NAME,
            dimension: "columns",
            got: cols,
            multiple: self.of,
        })
    }

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut f64, weights: &[S::Raw]) -> bool {
        let mut finite = true;
        for group in weights.chunks_exact(self.of) {
            let dropped = self.dropped(group, S::magnitude);
            for (j, &weight) in group.iter().enumerate() {
                let magnitude = f64::from(S::value(weight).abs());
                finite &= magnitude.is_finite();
                *tally += if dropped >> j & 1 == 0 { magnitude } else { 0.0 };
            }
        }
        finite
    }

    fn cut(&self, tally: f64, count: usize) -> PrunedCut {
        PrunedCut { rule: *self, scale: (tally / (count / self.of * self.keep) as f64) as f32 }
    }
}

impl Cut for PrunedCut {
    fn scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn pack<S: Stored>(self, _: u64, values: &[S::Raw], words: &mut [u32]) {
        let mut groups = values.chunks_exact(self.rule.of);
        let (mut dropped, mut left) = (0u32, 0);
        pack_by(values, words, |raw| {
            if left == 0 {
                dropped = groups.next().map_or(0, |g| self.rule.dropped(g, S::magnitude));
                left = self.rule.of;
            }
            let code = match (dropped & 1 == 1, S::value(raw) < 0.0) {
                (true, _) => 1,
                (false, false) => 2,
                (false, true) => 0,
            };
            dropped >>= 1;
            left -= 1;
            code
        });
    }
}
