//! The largest logits of an output head: the prepared head, the result, the counts.

use std::any::Any;
use std::fmt::Debug;

use super::dense::DenseRows;
use super::prepared_parts::PreparedParts;

/// How sure it is that a row which a back end skips is not among the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Guarantee {
    /// For each token, the probability that any skipped row is among the largest is below 2⁻⁶⁴, over the dither with
    /// which the head was quantised. The dither is fixed and independent of models and texts.
    #[default]
    Probabilistic,
    /// Never wrong: by inequalities that hold for all inputs.
    Exact,
}

/// A dense output head `[vocabulary, hidden]` in the layout with which a back end finds its largest logits. Made by
/// [`Preparation::prepare_head`](super::Preparation::prepare_head).
pub trait HeadWeight: Debug + Send + Sync + Any {
    /// Returns the rows as they are stored.
    fn stored(&self) -> &dyn DenseRows;

    /// Returns the bytes held beside the stored rows.
    fn bytes(&self) -> usize;

    /// Returns the guarantee for which the head was prepared.
    fn guarantee(&self) -> Guarantee;

    /// Returns what was prepared, without the stored rows, so that it can be cached on disk; empty if it cannot be.
    fn parts(&self) -> PreparedParts {
        PreparedParts::default()
    }

    /// Returns the names of those parts of which a query reads little, so that their pages need not be resident.
    fn rarely_read(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns `self` for a downcast by the back end that made it.
    fn as_any(&self) -> &dyn Any;
}

/// The logits that are wanted of one hidden state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogitQuery {
    /// How many of the largest.
    pub count: usize,
    /// Tokens whose logits are wanted in any case.
    pub extra_tokens: Vec<u32>,
}

/// A token with its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogit {
    /// The token: a row of the head.
    pub token: u32,
    /// Its logit, bit for bit that of [`Operations::linear`](super::Operations::linear).
    pub logit: f32,
}

impl TokenLogit {
    /// Orders results: the largest logit first (in the total order of floats), the lowest token among equals.
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// The answer to a [`LogitQuery`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopLogits {
    /// The largest finite logits, in the order of [`TokenLogit::order`].
    pub top: Vec<TokenLogit>,
    /// The logits of the extra tokens, in the order of the request, finite or not.
    pub extra_tokens: Vec<TokenLogit>,
    /// The lowest token whose logit is NaN or infinite, if any logit is; such logits are never among the largest. If
    /// none of the largest are requested (`count` is 0), a back end may consider the extra tokens alone.
    pub non_finite: Option<TokenLogit>,
    /// What was read for it. Codes that one pass reads for several queries are counted with the first of these.
    pub read: HeadStats,
}

impl TopLogits {
    /// Selects from the logits of all rows.
    ///
    /// # Panics
    /// If an extra token is not a row.
    pub fn of_all(logits: &[f32], query: &LogitQuery) -> Self {
        let all = logits.iter().enumerate();
        let top: Vec<_> =
            all.map(|(row, &logit)| TokenLogit { token: row as u32, logit }).collect();
        let extra_tokens = query.extra_tokens.iter().map(|&t| top[t as usize]).collect();
        let non_finite = lowest_non_finite(&top);
        Self {
            top: largest(top, query.count),
            extra_tokens,
            non_finite,
            read: HeadStats::default(),
        }
    }
}

/// Returns the lowest token of `found` whose logit is NaN or infinite.
pub fn lowest_non_finite(found: &[TokenLogit]) -> Option<TokenLogit> {
    found.iter().filter(|t| !t.logit.is_finite()).min_by_key(|t| t.token).copied()
}

/// Returns those of `found` that are finite and among the `count` first in the order of [`TokenLogit::order`] or equal
/// to the last of these as numbers, in that order.
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

/// Reads of queries for the largest logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Queries.
    pub queries: u64,
    /// Those of them that read every stored row, because no bound applied or nearly all were wanted.
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
    /// Returns all bytes.
    pub fn bytes(&self) -> u64 {
        self.first_plane_bytes + self.second_plane_bytes + self.row_bytes
    }

    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_add)
    }

    /// Returns what was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.each(earlier, u64::wrapping_sub)
    }

    fn each(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            queries: f(self.queries, other.queries),
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
    fn selection_keeps_ties_and_drops_non_finite() {
        let nan = f32::NAN;
        let of = |logits: &[f32], count| -> Vec<u32> {
            let query = LogitQuery { count, extra_tokens: vec![] };
            TopLogits::of_all(logits, &query).top.iter().map(|t| t.token).collect()
        };
        assert_eq!(of(&[1.0, 3.0, nan, 3.0, 2.0, f32::INFINITY], 2), [1, 3]);
        assert_eq!(of(&[1.0, 3.0, 2.0, 3.0, 2.0], 3), [1, 3, 2, 4]);
        assert_eq!(of(&[-0.0, 0.0, -1.0], 1), [1, 0], "zeros are equal numbers");
        assert_eq!(of(&[nan], 3), []);
        assert_eq!(of(&[1.0], 0), []);
        let query = LogitQuery { count: 1, extra_tokens: vec![0] };
        assert_eq!(TopLogits::of_all(&[1.0, nan], &query).extra_tokens[0].logit, 1.0);
        let found = TopLogits::of_all(&[1.0, -f32::INFINITY, nan], &query).non_finite;
        assert_eq!(found.map(|t| t.token), Some(1));
        assert_eq!(TopLogits::of_all(&[1.0, 2.0], &query).non_finite, None);
    }

    #[test]
    fn plus_and_since_are_inverse() {
        let one =
            HeadStats { queries: 1, row_bytes: 5, first_plane_bytes: 2, ..HeadStats::default() };
        assert_eq!(one.plus(one).since(one), one);
        assert_eq!(one.plus(one).bytes(), 14);
    }
}
