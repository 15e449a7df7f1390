//! What a step costs, learnt while running: no table of processors, no measurement at the start.

/// The work of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Tokens that go through the layers.
    pub tokens: usize,
    /// Tokens after which logits are computed.
    pub rows: usize,
    /// Positions that the tokens attend to, summed over tokens.
    pub positions: usize,
}

impl Load {
    /// The work of reading `tokens` after `context` positions, with logits after `rows` of them.
    pub fn of(tokens: usize, context: usize, rows: usize) -> Self {
        let positions = tokens
            .saturating_mul(context)
            .saturating_add(tokens.saturating_mul(tokens.saturating_add(1)) / 2);
        Self { tokens, rows, positions }
    }

    /// The work of both in one step.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            rows: self.rows.saturating_add(other.rows),
            positions: self.positions.saturating_add(other.positions),
        }
    }

    fn features(self) -> [f64; N] {
        [1.0, self.tokens as f64, self.rows as f64, self.positions as f64 / 1024.0]
    }
}

/// Coefficients of the model.
const N: usize = 4;

/// Weight of what was learnt one step ago: about fifty steps count.
const FORGETTING: f64 = 0.98;

/// Share of a feature's weight with which its coefficient is drawn to zero, so that features that always come together
/// share their cost.
const RIDGE: f64 = 1e-4;

/// Steps before the model is used.
const FIRST_STEPS: u64 = 4;

/// Seconds of a step as a linear function of its [`Load`], fitted by least squares of the relative error with exponential
/// forgetting.
#[derive(Debug, Clone, Default)]
pub struct CostModel {
    coefficients: [f64; N],
    /// Sums of products of features.
    products: [[f64; N]; N],
    /// Sums of features.
    sums: [f64; N],
    steps: u64,
}

impl CostModel {
    /// Returns the seconds that a step of this work is expected to take; `None` until a few steps were seen.
    pub fn predict(&self, load: Load) -> Option<f64> {
        (self.steps >= FIRST_STEPS).then(|| {
            let terms = load.features().into_iter().zip(self.coefficients);
            terms.map(|(feature, coefficient)| feature * coefficient.max(0.0)).sum()
        })
    }

    /// Returns the seconds that one more prompt token takes after `context` positions; `None` until a few steps were
    /// seen.
    pub fn of_prompt_token(&self, context: usize) -> Option<f64> {
        let positions = context as f64 / 1024.0 * self.coefficients[3].max(0.0);
        (self.steps >= FIRST_STEPS).then(|| self.coefficients[1].max(0.0) + positions)
    }

    /// Learns from a step of this work that took `seconds`. Times that are no positive number are ignored.
    pub fn learn(&mut self, load: Load, seconds: f64) {
        if !(seconds.is_finite() && seconds > 0.0) {
            return;
        }
        let x = load.features().map(|feature| feature / seconds);
        for i in 0..N {
            self.sums[i] = FORGETTING * self.sums[i] + x[i];
            for j in 0..N {
                self.products[i][j] = FORGETTING * self.products[i][j] + x[i] * x[j];
            }
        }
        match solve(self.products, self.sums) {
            Some(coefficients) => self.coefficients = coefficients,
            None => *self = Self::default(),
        }
        self.steps = self.steps.saturating_add(1);
    }
}

/// Solves the normal equations, each feature brought to weight 1 and drawn to zero a little; `None` if the numbers are out
/// of range.
fn solve(products: [[f64; N]; N], sums: [f64; N]) -> Option<[f64; N]> {
    let scale: [f64; N] = std::array::from_fn(|i| products[i][i].sqrt().max(f64::MIN_POSITIVE));
    let mut a: [[f64; N]; N] =
        std::array::from_fn(|i| std::array::from_fn(|j| products[i][j] / scale[i] / scale[j]));
    let mut b: [f64; N] = std::array::from_fn(|i| sums[i] / scale[i]);
    (0..N).for_each(|i| a[i][i] += RIDGE);
    // Symmetric and positive: no pivots are needed.
    for column in 0..N {
        for row in column + 1..N {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column];
            a[row].iter_mut().zip(pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            b[row] -= factor * b[column];
        }
    }
    let mut x = [0.0; N];
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|k| a[row][k] * x[k]).sum();
        x[row] = (b[row] - known) / a[row][row];
    }
    let x: [f64; N] = std::array::from_fn(|i| x[i] / scale[i]);
    x.iter().all(|value| value.is_finite()).then_some(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(load: Load) -> f64 {
        0.02 + 0.004 * load.tokens as f64 + 0.001 * load.rows as f64 + 1e-8 * load.positions as f64
    }

    #[test]
    fn nothing_is_predicted_before_a_few_steps() {
        let mut cost = CostModel::default();
        assert_eq!(cost.predict(Load::of(1, 0, 1)), None);
        (0..3).for_each(|_| cost.learn(Load::of(1, 0, 1), 0.02));
        assert_eq!(cost.predict(Load::of(1, 0, 1)), None);
    }

    proptest! {
        #[test]
        fn predictions_approach_a_linear_cost(
            seen in prop::collection::vec((1usize..200, 0usize..2000, 0usize..16), 60..120),
            asked in (1usize..200, 0usize..2000, 0usize..16),
        ) {
            let mut cost = CostModel::default();
            let corners = [(1, 0, 0), (1, 0, 1), (200, 0, 0), (200, 2000, 0), (200, 2000, 16)];
            let seen = corners.into_iter().chain(seen).chain(corners);
            for (tokens, context, rows) in seen {
                let load = Load::of(tokens, context, rows.min(tokens));
                cost.learn(load, seconds(load));
            }
            let load = Load::of(asked.0, asked.1, asked.2.min(asked.0));
            let ratio = cost.predict(load).unwrap() / seconds(load);
            prop_assert!((0.8..1.25).contains(&ratio), "{ratio}");
        }

        #[test]
        fn no_times_make_predictions_that_are_not_numbers(
            seen in prop::collection::vec((0usize..usize::MAX, any::<f64>()), 0..80),
        ) {
            let mut cost = CostModel::default();
            for (tokens, seconds) in seen {
                cost.learn(Load::of(tokens, tokens, 1), seconds);
            }
            let predicted = cost.predict(Load::of(8, 8, 1));
            prop_assert!(predicted.is_none_or(|seconds| seconds.is_finite() && seconds >= 0.0));
        }
    }
}
