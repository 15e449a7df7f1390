//! Drafts from the sequence itself: what came after the last earlier place that ends in the same tokens.
//!
//! Source: prompt lookup decoding (Saxena, 2023).

use super::Draft;
use crate::session::common_len;

/// Tokens that two places must have in common.
const SHORTEST: usize = 2;

/// Classes of matches: of 2, 4, 8 and 16 tokens or more.
pub(super) const CLASSES: usize = 4;

/// Tokens that are compared at most: longer matches are as good.
const LONGEST: usize = 32;

/// Returns at most `limit` tokens that followed the end of `tokens` where it occurred before: the place with the most
/// tokens in common, the later one among equals. A match that reaches to the end repeats itself.
pub(super) fn propose(tokens: &[u32], limit: usize) -> Draft {
    let Some((&last, before)) = tokens.split_last() else { return Draft::default() };
    let (mut longest, mut after) = (SHORTEST - 1, None);
    for (index, _) in before.iter().enumerate().rev().filter(|(_, token)| **token == last) {
        let earlier = tokens[..=index].iter().rev().take(LONGEST);
        let common = common_len(earlier, tokens.iter().rev());
        if common > longest {
            (longest, after) = (common, Some(index + 1));
        }
        if longest == LONGEST {
            break;
        }
    }
    let Some(after) = after else { return Draft::default() };
    let period = tokens.len() - after;
    Draft {
        tokens: (0..limit).map(|index| tokens[after + index % period]).collect(),
        class: (longest.ilog2() as usize - 1).min(CLASSES - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(tokens: &[u32], limit: usize) -> Vec<u32> {
        propose(tokens, limit).tokens
    }

    #[test]
    fn the_longest_match_wins_and_the_later_one_among_equals() {
        assert_eq!(proposed(&[1, 2, 3, 9, 8, 2, 3, 7, 1, 2, 3], 2), [9, 8]);
        assert_eq!(proposed(&[2, 3, 9, 8, 2, 3, 7, 6, 2, 3], 2), [7, 6]);
    }

    #[test]
    fn one_token_in_common_is_no_match() {
        assert!(proposed(&[1, 2, 3, 4, 2], 4).is_empty());
        assert!(proposed(&[5], 4).is_empty());
        assert!(proposed(&[], 4).is_empty());
    }

    #[test]
    fn a_match_that_reaches_the_end_repeats_itself() {
        assert_eq!(proposed(&[1, 2, 3, 1, 2, 3], 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(proposed(&[4, 4, 4], 3), [4, 4, 4]);
    }

    #[test]
    fn longer_matches_are_of_higher_classes() {
        let class = |common: u32| {
            let half: Vec<u32> = (0..common).collect();
            propose(&[&half[..], &[99], &half[..]].concat(), 1).class
        };
        assert_eq!([2, 3, 4, 7, 8, 16, 32, 40].map(class), [0, 0, 1, 1, 2, 3, 3, 3]);
    }
}
