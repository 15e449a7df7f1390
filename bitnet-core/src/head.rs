//! The output head where only the largest logits are wanted: what a back end prepares, answers and counts.

use std::any::Any;
use std::fmt::Debug;

use crate::dense::DenseRows;
use crate::parts::Parts;

/// How sure a back end must be that a row which it leaves unread is not among the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Certainty {
    /// For each token, all such rows together are wrong with probability below 2⁻⁶⁴ over the dither with which the head
    /// was quantised. The dither is fixed and has nothing to do with any model or text.
    #[default]
    Probable,
    /// Never wrong: by inequalities that hold for all inputs.
    Certain,
}

/// A dense output head `[vocabulary, hidden]` in the layout with which a back end finds its largest logits. Made by
/// [`crate::backend::Backend::prepare_head`].
pub trait HeadWeight: Debug + Send + Sync + Any {
    /// The rows as they are stored.
    fn stored(&self) -> &dyn DenseRows;

    /// Bytes held beside the stored rows.
    fn bytes(&self) -> usize;

    /// How sure the answers are.
    fn certainty(&self) -> Certainty;

    /// What was prepared, to be kept on disk; the stored rows are not part of it. Empty if it is not to be kept.
    fn parts(&self) -> Parts {
        Parts::default()
    }

    /// Names of those parts of which an answer reads little, so that their pages need not be resident.
    fn rarely_read(&self) -> &'static [&'static str] {
        &[]
    }

    /// For the back end that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A token with its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogit {
    /// The token: a row of the head.
    pub token: u32,
    /// Its logit, bit for bit that of [`crate::backend::Backend::linear`].
    pub logit: f32,
}

impl TokenLogit {
    /// The order of answers: the largest logit first (in the total order of floats), the lowest token among equals.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// The answer of [`crate::backend::Backend::head_top`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeadTop {
    /// The largest finite logits, in the order of [`TokenLogit::order`].
    pub top: Vec<TokenLogit>,
    /// The tokens that were asked for beside them, in the order asked, finite or not.
    pub also: Vec<TokenLogit>,
    /// The lowest token whose logit is NaN or infinite, if any logit is; such logits are never among the largest. If none of
    /// the largest are asked for (`count` is 0), a back end may look at the tokens of `also` alone.
    pub non_finite: Option<TokenLogit>,
    /// What was read for it.
    pub read: HeadStats,
}

impl HeadTop {
    /// From the logits of all rows.
    ///
    /// # Panics
    /// If a token of `also` is no row.
    pub fn of_all(logits: &[f32], count: usize, also: &[u32]) -> Self {
        let all = logits.iter().enumerate();
        let top: Vec<_> =
            all.map(|(row, &logit)| TokenLogit { token: row as u32, logit }).collect();
        let also =
            also.iter().map(|&t| TokenLogit { token: t, logit: logits[t as usize] }).collect();
        let non_finite = lowest_non_finite(&top);
        Self { top: largest(top, count), also, non_finite, read: HeadStats::default() }
    }
}

/// The lowest token of `found` whose logit is NaN or infinite.
pub fn lowest_non_finite(found: &[TokenLogit]) -> Option<TokenLogit> {
    found.iter().filter(|t| !t.logit.is_finite()).min_by_key(|t| t.token).copied()
}

/// Those of `found` that are finite and among the `count` first in the order of [`TokenLogit::order`] or equal to the
/// last of these as numbers, in that order.
pub fn largest(mut found: Vec<TokenLogit>, count: usize) -> Vec<TokenLogit> {
    found.retain(|t| t.logit.is_finite());
    if count == 0 || found.is_empty() {
        return Vec::new();
    }
    if count < found.len() {
        let (_, last, _) = found.select_nth_unstable_by(count - 1, TokenLogit::order);
        let least = last.logit;
        found.retain(|t| t.logit >= least);
    }
    found.sort_unstable_by(TokenLogit::order);
    found
}

/// What was read to find the largest logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Questions answered.
    pub questions: u64,
    /// Those of them for which every stored row was read, because no bound was to be had.
    pub full_scans: u64,
    /// Bytes of the first plane of codes, scales included.
    pub first_plane_bytes: u64,
    /// Bytes of the second plane of codes.
    pub second_plane_bytes: u64,
    /// Bytes of stored rows.
    pub row_bytes: u64,
    /// Rows read of the second plane.
    pub second_plane_rows: u64,
    /// Stored rows read.
    pub rows: u64,
}

impl HeadStats {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.first_plane_bytes + self.second_plane_bytes + self.row_bytes
    }

    /// `self` and `other` together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_add)
    }

    /// What `self` counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.each(earlier, u64::wrapping_sub)
    }

    fn each(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            questions: f(self.questions, other.questions),
            full_scans: f(self.full_scans, other.full_scans),
            first_plane_bytes: f(self.first_plane_bytes, other.first_plane_bytes),
            second_plane_bytes: f(self.second_plane_bytes, other.second_plane_bytes),
            row_bytes: f(self.row_bytes, other.row_bytes),
            second_plane_rows: f(self.second_plane_rows, other.second_plane_rows),
            rows: f(self.rows, other.rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_with_the_last_stay_and_what_is_not_finite_goes() {
        let nan = f32::NAN;
        let of = |logits: &[f32], count| -> Vec<u32> {
            HeadTop::of_all(logits, count, &[]).top.iter().map(|t| t.token).collect()
        };
        assert_eq!(of(&[1.0, 3.0, nan, 3.0, 2.0, f32::INFINITY], 2), [1, 3]);
        assert_eq!(of(&[1.0, 3.0, 2.0, 3.0, 2.0], 3), [1, 3, 2, 4]);
        assert_eq!(of(&[-0.0, 0.0, -1.0], 1), [1, 0], "zeros are equal numbers");
        assert_eq!(of(&[nan], 3), []);
        assert_eq!(of(&[1.0], 0), []);
        assert_eq!(HeadTop::of_all(&[1.0, nan], 1, &[0]).also[0].logit, 1.0);
        let found = HeadTop::of_all(&[1.0, -f32::INFINITY, nan], 1, &[]).non_finite;
        assert_eq!(found.map(|t| t.token), Some(1));
        assert_eq!(HeadTop::of_all(&[1.0, 2.0], 1, &[]).non_finite, None);
    }

    #[test]
    fn counts_add_and_subtract() {
        let one =
            HeadStats { questions: 1, row_bytes: 5, first_plane_bytes: 2, ..HeadStats::default() };
        assert_eq!(one.plus(one).since(one), one);
        assert_eq!(one.plus(one).bytes(), 14);
    }
}
