//! How many tokens to draft: as many as write most tokens a second, by what steps have taken and drafts have brought.
//!
//! With the probability `p` that a drafted token is chosen after those before it were, a draft of `k` tokens brings
//! `1 + p + … + p^k` tokens in the time of a step of `1 + k` tokens. Both are running means of what was measured.

use std::time::Duration;

use crate::read_ahead::MAX_DRAFT;

/// Classes of drafts, each with a probability of its own: four of repeated text, and one of a layer that drafts.
pub(super) const CLASSES: usize = 5;

/// Lengths of drafts that are tried.
const LENGTHS: [usize; 8] = [0, 1, 2, 3, 5, 7, 11, MAX_DRAFT];

/// The weight of a new measurement in a running mean.
const NEW: f64 = 0.2;

/// Probability of a drafted token of each class before anything was measured: longer matches go on more often.
const PRIOR: [f64; CLASSES] = [0.6, 0.7, 0.8, 0.9, 0.75];

/// The share of the way back to its prior that a probability goes with each step without a draft of its class, so that
/// drafts are tried again as a text goes on.
const FORGET: f64 = 0.01;

/// How much longer a step is assumed to take for each drafted token, as a share of a step without a draft, before one
/// that is as long was measured.
const ASSUMED_COST: f64 = 0.15;

#[derive(Debug)]
pub(super) struct Pace {
    /// Seconds of a step with a draft of each length.
    seconds: [Option<f64>; MAX_DRAFT + 1],
    probability: [f64; CLASSES],
}

impl Default for Pace {
    fn default() -> Self {
        Self { seconds: [None; MAX_DRAFT + 1], probability: PRIOR }
    }
}

impl Pace {
    /// Returns how many of `available` drafted tokens to read.
    pub(super) fn length(&mut self, class: usize, available: usize) -> usize {
        // The first step shows what one without a draft takes.
        let (Some(alone), true) = (self.seconds[0], available > 0) else { return 0 };
        let p = self.probability[class];
        let rate = |length: usize| {
            let tokens: f64 = (0..=length as i32).map(|power| p.powi(power)).sum();
            tokens / self.expected_seconds(length, alone)
        };
        let mut best = (0, rate(0));
        for length in LENGTHS.map(|length| length.min(available)) {
            let rate = rate(length);
            if rate > best.1 {
                best = (length, rate);
            }
        }
        if best.0 == 0 {
            self.probability[class] += (PRIOR[class] - p) * FORGET;
        }
        best.0
    }

    /// The time of a step with a draft of `length` tokens, of which `alone` is that without.
    fn expected_seconds(&self, length: usize, alone: f64) -> f64 {
        if let Some(seconds) = self.seconds[length] {
            return seconds;
        }
        let measured = |index: usize| Some((index, self.seconds[index]?));
        let below = (0..length).rev().find_map(measured).unwrap_or((0, alone));
        let above = (length + 1..=MAX_DRAFT).find_map(measured);
        let steps = (length - below.0) as f64;
        match above {
            Some(above) => below.1 + (above.1 - below.1) * steps / (above.0 - below.0) as f64,
            None => below.1 + alone * ASSUMED_COST * steps,
        }
    }

    /// Learns the time of a step with a draft of `length` tokens.
    pub(super) fn took(&mut self, length: usize, time: Duration) {
        let (seconds, time) = (&mut self.seconds[length], time.as_secs_f64());
        *seconds = Some(seconds.map_or(time, |mean| mean + (time - mean) * NEW));
    }

    /// Learns that `accepted` of a draft of `length` tokens were chosen.
    pub(super) fn learn(&mut self, class: usize, length: usize, accepted: usize) {
        let p = &mut self.probability[class];
        for index in 0..length.min(accepted + 1) {
            let chosen = f64::from(u8::from(index < accepted));
            *p += (chosen - *p) * NEW / 2.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace that has seen steps of `1 + cost * length` milliseconds.
    fn pace(cost: f64) -> Pace {
        let mut pace = Pace::default();
        for length in 0..=MAX_DRAFT {
            pace.took(length, Duration::from_secs_f64(1e-3 * (1.0 + cost * length as f64)));
        }
        pace
    }

    fn learn(pace: &mut Pace, accepted: usize) {
        for _ in 0..100 {
            pace.learn(0, 3, accepted);
        }
    }

    #[test]
    fn the_first_step_has_no_draft() {
        assert_eq!(Pace::default().length(0, 15), 0);
    }

    #[test]
    fn drafts_that_are_chosen_grow_and_others_end() {
        let mut pace = pace(0.1);
        learn(&mut pace, 3);
        assert_eq!(pace.length(0, 15), 15);
        assert_eq!(pace.length(0, 5), 5);
        learn(&mut pace, 0);
        assert_eq!(pace.length(0, 15), 0);
    }

    #[test]
    fn drafts_that_cost_a_whole_step_each_are_left_out() {
        let mut pace = pace(1.0);
        assert_eq!(pace.length(3, 15), 0);
    }

    #[test]
    fn drafts_are_tried_again_after_a_while() {
        let mut pace = pace(0.1);
        learn(&mut pace, 0);
        let steps = (0..200).find(|_| pace.length(0, 15) > 0);
        assert!(steps.is_some_and(|steps| steps > 5), "{steps:?}");
    }

    #[test]
    fn times_between_measured_ones_are_interpolated() {
        let mut pace = Pace::default();
        for (length, millis) in [(0, 10), (4, 18)] {
            pace.took(length, Duration::from_millis(millis));
        }
        assert!((pace.expected_seconds(2, 0.01) - 0.014).abs() < 1e-12);
        assert!((pace.expected_seconds(6, 0.01) - 0.021).abs() < 1e-12);
    }
}
