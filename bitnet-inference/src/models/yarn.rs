//! YaRN: frequencies for longer contexts, divided by a factor where a wavelength does not fit the first context often,
//! kept where it fits often, and a ramp between.
//!
//! Source: Peng, Quesnelle, Fan, Shippole, 2023; `_compute_yarn_parameters` of transformers 5, whose arithmetic this is.

/// RoPE stretched by YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YarnScaling {
    /// The divisor of low frequencies.
    pub factor: f32,
    /// The context that the model was first trained for.
    pub original_context: f32,
    /// Frequencies that turn more often than this in the original context are kept.
    pub beta_fast: f32,
    /// Frequencies that turn less often than this in the original context are divided.
    pub beta_slow: f32,
    /// Whether the ramp begins and ends at whole components.
    pub truncate: bool,
    /// What cosines and sines are multiplied by.
    pub attention_factor: f32,
}

impl YarnScaling {
    /// The usual [`YarnScaling::beta_fast`].
    pub const BETA_FAST: f32 = 32.0;
    /// The usual [`YarnScaling::beta_slow`].
    pub const BETA_SLOW: f32 = 1.0;

    /// The magnitude that the authors suggest for a context that is `factor` times as long: `0.1 * multiplier *
    /// ln(factor) + 1`.
    pub fn magnitude(factor: f32, multiplier: f32) -> f32 {
        if factor <= 1.0 {
            return 1.0;
        }
        (0.1 * f64::from(multiplier) * f64::from(factor).ln() + 1.0) as f32
    }

    /// The inverse frequencies of `dim` components with base `theta`, `[dim / 2]`.
    pub(super) fn inverse_frequencies(&self, dim: usize, theta: f32) -> Vec<f32> {
        let component = |turns: f32| {
            let wavelength =
                f64::from(self.original_context) / (f64::from(turns) * 2.0 * std::f64::consts::PI);
            dim as f64 * wavelength.ln() / (2.0 * f64::from(theta).ln())
        };
        let (mut low, mut high) = (component(self.beta_fast), component(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let (start, width) = (low as f32, (high - low) as f32);
        let frequency = |index: usize| {
            let plain = theta.powf((2 * index) as f32 / dim as f32);
            let (kept, divided) = (1.0 / plain, 1.0 / (self.factor * plain));
            let keep = 1.0 - ((index as f32 - start) / width).clamp(0.0, 1.0);
            divided * (1.0 - keep) + kept * keep
        };
        (0..dim / 2).map(frequency).collect()
    }

    /// Returns the name of a value that is impossible, and the value.
    pub(super) fn fault(&self) -> Option<(&'static str, f32)> {
        let positive = [
            ("factor", self.factor),
            ("original context", self.original_context),
            ("beta_fast", self.beta_fast),
            ("beta_slow", self.beta_slow),
            ("attention factor", self.attention_factor),
        ];
        positive.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_frequencies_are_kept_and_slow_ones_divided() {
        let yarn = YarnScaling {
            factor: 4.0,
            original_context: 16384.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: YarnScaling::magnitude(4.0, 1.0),
        };
        let found = yarn.inverse_frequencies(128, 1e6);
        let plain = |index: usize| 1.0 / 1e6f32.powf((2 * index) as f32 / 128.0);
        assert_eq!(found[0], 1.0);
        assert_eq!(found[10], plain(10));
        assert!((found[63] * 4.0 / plain(63) - 1.0).abs() < 1e-6);
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]));
        assert!((yarn.attention_factor - 1.138_629_4).abs() < 1e-6);
        assert_eq!(yarn.fault(), None);
        assert_eq!(YarnScaling { beta_slow: 0.0, ..yarn }.fault(), Some(("beta_slow", 0.0)));
    }
}
