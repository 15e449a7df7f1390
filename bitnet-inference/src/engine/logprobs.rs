//! Log probabilities of tokens, from all logits of a row.

use super::request::{Logprobs, TokenLogprob};

/// Returns the log probability of `chosen` and those of the `count` most probable tokens, from finite logits.
pub(super) fn logprobs(logits: &[f32], chosen: u32, count: usize) -> Logprobs {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let log_sum = f64::from(largest) + sum.ln();
    let of = |token: u32| {
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        TokenLogprob { token, logprob: (f64::from(logit) - log_sum) as f32 }
    };
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let order =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(tokens.len());
    if count < tokens.len() && count > 0 {
        tokens.select_nth_unstable_by(count - 1, order);
    }
    tokens.truncate(count);
    tokens.sort_unstable_by(order);
    Logprobs { chosen: of(chosen), top: tokens.into_iter().map(of).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_largest_come_first() {
        let logits = [1.0, 3.0, -2.0, 3.0, 0.5];
        let all = logprobs(&logits, 2, 9);
        let sum: f64 = all.top.iter().map(|t| f64::from(t.logprob).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        let order: Vec<u32> = all.top.iter().map(|t| t.token).collect();
        assert_eq!(order, [1, 3, 0, 4, 2]);
        assert_eq!(all.chosen, all.top[4]);
        assert_eq!(logprobs(&logits, 1, 2).top, all.top[..2]);
        assert!(logprobs(&logits, 1, 0).top.is_empty());
    }
}
